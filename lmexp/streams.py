"""Independent random streams, one per purpose, all derived from the run's seed.

A run draws initial weights, data order, dropout and samples. Each has a stream of its own, so that changing one (an arm
with another feed-forward, say) leaves every other draw as it was: that is what pairs the arms of an experiment.
"""

import hashlib


def stream_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose, for instance ``stream_seed(0, "weights", "layers.0.ffn.up.weight")``.

    SHA-256 of the seed and the purpose: equal on every platform and Python version, unrelated between purposes.
    """
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
