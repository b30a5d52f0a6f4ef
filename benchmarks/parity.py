"""The parity table: for each published family, how far our logits are from those of transformers.

Builds the smallest random model of each family with transformers, saves it as it would be published, reads it with
``lmexp.load_pretrained``, and compares float32 logits on the same tokens, all at once and decoded one by one. Needs
torch and transformers, and a checkout: the tiny models are those of the tests.

    python benchmarks/parity.py
"""

import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "pretrained"))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
warnings.filterwarnings("ignore")

from lmexp import platform  # noqa: E402

platform.prepare()

import mlx.core as mx  # noqa: E402
import published  # noqa: E402

import lmexp  # noqa: E402


def differences(family: str) -> tuple[int, float, float, float]:
    """Return our parameters, the largest difference of logits at once and decoded, and the mean size of a logit."""
    theirs, tokens = published.build(family), published.tokens()
    with tempfile.TemporaryDirectory() as folder:
        ours = lmexp.load_pretrained(published.save(theirs, Path(folder))).model
    expected = published.logits(theirs, tokens)
    ids, caches = mx.array(tokens, dtype=mx.int32), ours.make_caches()
    decoded = mx.concatenate([ours(ids[:, at : at + 1], caches) for at in range(published.TIME)], axis=1)
    at_once, one_by_one = (float(np.abs(np.array(logits) - expected).max()) for logits in (ours(ids), decoded))
    return ours.n_params, at_once, one_by_one, float(np.abs(expected).mean())


def main() -> None:
    """Print the table."""
    columns = ("family", "parameters", "max diff", "max diff, decoded", "mean |logit|")
    print(f"{columns[0]:20}" + "".join(f"{column:>19}" for column in columns[1:]))
    for family in published.FAMILIES:
        n_params, at_once, one_by_one, size = differences(family)
        print(f"{family:20}{n_params:19,}{at_once:19.1e}{one_by_one:19.1e}{size:19.2f}")


if __name__ == "__main__":
    main()
