"""The exact permutation test of one paired difference: flip its sign at each seed."""

import numpy as np

from lmexp.statistics.blocks import Permutation

_EXACT_UP_TO = 20  # seeds; beyond, draw at random
_N_DRAWS = 20_000


def sign_flip_test(differences: np.ndarray) -> Permutation:
    """Test the null that the paired differences are symmetric around zero; two-sided, the statistic is |mean|.

    Every pattern of signs is looked at up to 20 seeds, and 20,000 are drawn with a fixed generator beyond; then p
    counts the observed pattern too (Phipson and Smyth 2010). A pattern and its mirror image tie, so the first sign can
    stay: 2^(n-1) patterns, and p is at least 2 / 2^n. With three seeds that is .25: the test cannot reject at .05.

    Args:
        differences: (seeds,) without gaps, for instance an arm minus the control.

    Raises:
        ValueError: there is no difference, or one is missing or infinite.

    Source: Fisher, The Design of Experiments (1935).
    """
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"differences of shape {values.shape} must be 1-D, without gaps and not empty")
    exact = len(values) <= _EXACT_UP_TO
    sums = _all_sums(values) if exact else _drawn_sums(values)
    # Patterns that tie in exact arithmetic must tie here: allow rounding of the sums.
    hits = int((np.abs(sums) >= abs(values.sum()) - 1e-12 * np.abs(values).sum()).sum())
    if exact:
        return Permutation(hits / len(sums), len(sums), True)
    return Permutation((hits + 1) / (_N_DRAWS + 1), _N_DRAWS, False)


def _all_sums(values: np.ndarray) -> np.ndarray:
    """Return the sum under every pattern of signs that leaves the first as it is: (2^(n-1),)."""
    sums = values[:1]
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _drawn_sums(values: np.ndarray) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(0))
    return generator.choice([-1.0, 1.0], size=(_N_DRAWS, len(values))) @ values
