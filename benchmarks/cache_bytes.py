"""What DeepSeek-V2's latent attention caches for a token, beside multi-head attention of the same heads.

One layer of each of the published sizes reads three tokens into a cache of its own; the bytes are counted in the
arrays that the caches then hold. Weights are zeros: what is kept does not depend on them.

    python benchmarks/cache_bytes.py
"""

from dataclasses import replace

from lmexp import platform

platform.prepare()

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_map  # noqa: E402

from lmexp.compose import compose_run  # noqa: E402
from lmexp.model.block import make_mixer  # noqa: E402
from lmexp.model.spec import ModelSpec  # noqa: E402

_TOKENS = 3


def cached_bytes(spec: ModelSpec) -> float:
    """Return the bytes that the first layer's mixer caches for each token, in bfloat16."""
    mixer = make_mixer(spec, 0)
    mixer.update(tree_map(lambda array: mx.zeros(array.shape, mx.bfloat16), mixer.parameters()))
    cache = mixer.make_cache(_TOKENS)
    mixer(mx.zeros((1, _TOKENS, spec.d_model), mx.bfloat16), cache)
    mx.eval(cache.arrays())
    return sum(array.nbytes for array in cache.arrays()) / _TOKENS


def main() -> None:
    """Print one line per mixer, and the ratio."""
    latent = compose_run(["model=deepseek_v2"]).config.model
    heads = replace(latent, layers=["gqa"], n_kv_heads=None)
    found = {"multi-head attention": cached_bytes(heads), "latent attention": cached_bytes(latent)}
    print(f"DeepSeek-V2's sizes ({latent.n_heads} heads of {latent.head_dim}), one layer, one token, bfloat16:")
    for name, n_bytes in found.items():
        print(f"  {name:22}{n_bytes / 2:>8,.0f} values {n_bytes:>8,.0f} bytes")
    ratio = found["multi-head attention"] / found["latent attention"]
    print(f"  {ratio:.1f} times fewer")


if __name__ == "__main__":
    main()
