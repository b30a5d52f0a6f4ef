"""All pairs of arms, family-wise: Tukey on the blocked error for paired seeds, Games and Howell for separate samples.

Both hold the family-wise error over all pairs by themselves: never stack another correction on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from lmexp.statistics.blocks import Fit, contrast, standard_error
from lmexp.statistics.contrasts import pairwise
from lmexp.statistics.distributions import (
    studentized_range_cdf,
    studentized_range_critical,
    t_quantile,
    t_two_sided_p,
)
from lmexp.statistics.estimates import Estimate, undefined
from lmexp.statistics.one_way import Sample, describe
from lmexp.statistics.rows import Tabular, p_text


@dataclass(frozen=True)
class Pair(Tabular):
    """Arm ``first`` minus arm ``second``, in the metric's unit.

    ``alone`` has the t interval that holds for this one pair, ``simultaneous`` the one that holds for all pairs
    together; ``p_adjusted`` belongs to the latter. What follows ``simultaneous`` is None where undefined.
    """

    first: int  # row of the arm
    second: int
    alone: Estimate
    simultaneous: Estimate
    t: float | None
    p: float | None
    p_adjusted: float | None

    def __str__(self) -> str:
        tests = "" if self.p is None else f", {p_text(self.p)}, {p_text(self.p_adjusted, 'adjusted p')}"
        return f"arm {self.first} - arm {self.second}: {self.simultaneous}{tests}"


def blocked_tukey(fit: Fit, alpha: float) -> list[Pair]:
    """Compare all pairs of arms on the blocked error: the studentized range with (arms - 1)(seeds - 1) df.

    Args:
        fit: the block design (:func:`~lmexp.statistics.blocks.fit_blocks`).
        alpha: family-wise error over all pairs.

    Source: Tukey (1953); for randomised blocks Kirk, Experimental Design.
    """
    return [_blocked_pair(fit, first, second, alpha) for first, second in combinations(range(fit.n_arms), 2)]


def _blocked_pair(fit: Fit, first: int, second: int, alpha: float) -> Pair:
    weights = pairwise(fit.n_arms, first, second)
    alone = contrast(fit, weights, 1 - alpha)
    return _pair(first, second, alone, standard_error(fit, weights), fit.n_arms, alpha, "blocked Tukey")


def _pair(
    first: int, second: int, alone: Estimate, error: float | None, n_arms: int, alpha: float, method: str
) -> Pair:
    """Add the interval and the p value of the studentized range; ``error`` is the difference's standard error."""
    if alone.value is None or alone.df is None or error is None:
        return Pair(first, second, alone, replace(alone, method=method), None, None, None)
    reach = studentized_range_critical(alpha, n_arms, alone.df) / np.sqrt(2) * error
    together = replace(alone, low=alone.value - reach, high=alone.value + reach, method=method)
    t = alone.value / error
    p = t_two_sided_p(t, alone.df)
    adjusted = 1 - studentized_range_cdf(np.sqrt(2) * abs(t), n_arms, alone.df)
    return Pair(first, second, alone, together, t, p, max(p, adjusted))


def games_howell(samples: Sequence[np.ndarray], alpha: float) -> list[Pair]:
    """Compare all pairs of independent samples, each pair with its own two variances (Welch) and degrees of freedom.

    The family-wise error is only near ``alpha`` when samples are small (:mod:`lmexp.statistics.calibration` says how
    near).

    Args:
        samples: 1-D arrays without gaps, of any lengths.
        alpha: family-wise error over all pairs.

    Raises:
        ValueError: a value is missing or infinite.

    Source: Games and Howell (1976).
    """
    described = describe(samples)
    return [_welch_pair(described, first, second, alpha) for first, second in combinations(range(len(described)), 2)]


def _welch_pair(described: list[Sample], first: int, second: int, alpha: float) -> Pair:
    one, other = described[first], described[second]
    alone, error = _welch_difference(one, other, 1 - alpha)
    return _pair(first, second, alone, error, len(described), alpha, "Games-Howell")


def _welch_difference(one: Sample, other: Sample, confidence: float) -> tuple[Estimate, float | None]:
    """Return the difference of two means with Welch's interval, and its standard error."""
    n, value = min(one.n, other.n), None if one.mean is None or other.mean is None else one.mean - other.mean
    if value is None or one.squared_error is None or other.squared_error is None:
        return undefined(str(one.why or other.why), confidence, n, "Welch t", value), None
    square = one.squared_error + other.squared_error
    df = square**2 / (one.squared_error**2 / (one.n - 1) + other.squared_error**2 / (other.n - 1))
    error = float(np.sqrt(square))
    reach = t_quantile((1 + confidence) / 2, df) * error
    return Estimate(value, value - reach, value + reach, confidence, n, df, "Welch t", None), error
