"""Few planned contrasts: Holm's adjustment, on the blocked error or on each pair's own.

Dunnett's, Tukey's and Games and Howell's tests already hold the family-wise error: never stack Holm on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmexp.statistics.blocks import Fit, contrast, fit_blocks, standard_error
from lmexp.statistics.contrasts import Difference
from lmexp.statistics.distributions import t_two_sided_p
from lmexp.statistics.estimates import Estimate
from lmexp.statistics.rows import Tabular, p_text


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p values in the order given: the family-wise error holds whatever the tests' dependence.

    A test that is planned but undefined (None) stays undefined and counts in the family, as if it could not reject.

    Raises:
        ValueError: a p value is not within [0, 1].

    Source: Holm (1979).
    """
    adjusted: list[float | None] = [None] * len(p_values)
    least = 0.0  # an adjusted p is never below that of a smaller p
    defined = [(p, i) for i, p in enumerate(p_values) if p is not None]
    for rank, (p, i) in enumerate(sorted(defined)):
        if not 0 <= p <= 1:
            raise ValueError(f"{p} is not a p value")
        least = max(least, min(1.0, (len(p_values) - rank) * p))
        adjusted[i] = least
    return adjusted


@dataclass(frozen=True)
class PlannedContrast(Tabular):
    """A planned contrast of arm means, in the metric's unit.

    ``alone`` has the t interval that holds for this one contrast, ``simultaneous`` Bonferroni's, which holds for all
    planned ones together. ``p_adjusted`` is Holm's. Holm is a step-down test: it can reject where Bonferroni's interval
    still holds zero, and intervals that match it exactly are not simple (Strassburger and Bretz 2008). Where
    Bonferroni's interval excludes zero Holm rejects, always.
    """

    weights: tuple[float, ...]  # one for each arm, summing to zero
    alone: Estimate
    simultaneous: Estimate
    t: float | None
    p: float | None
    p_adjusted: float | None

    def __str__(self) -> str:
        tests = "" if self.p is None else f", {p_text(self.p)}, {p_text(self.p_adjusted, 'Holm p')}"
        return f"contrast {' '.join(f'{weight:+.3g}' for weight in self.weights)}: {self.simultaneous}{tests}"


def holm_differences(fit: Fit, contrasts: Sequence[np.ndarray], alpha: float) -> list[PlannedContrast]:
    """Test a few planned contrasts on the blocked error, with Holm's p values and Bonferroni's intervals.

    Args:
        fit: the block design (:func:`~lmexp.statistics.blocks.fit_blocks`).
        contrasts: weights (arms,) of each, summing to zero; for one arm minus another
            :func:`~lmexp.statistics.contrasts.pairwise`.
        alpha: family-wise error over all contrasts given.

    Raises:
        ValueError: a contrast's weights do not sum to zero.
    """
    tests = [_blocked_t(fit, np.asarray(weights, dtype=float), alpha, len(contrasts)) for weights in contrasts]
    adjusted = holm([test.p for test in tests])
    return [replace(test, p_adjusted=p) for test, p in zip(tests, adjusted, strict=True)]


def _blocked_t(fit: Fit, weights: np.ndarray, alpha: float, n_family: int) -> PlannedContrast:
    alone = contrast(fit, weights, 1 - alpha)
    wider = contrast(fit, weights, 1 - alpha / n_family)
    error = standard_error(fit, weights)
    t = None if error is None or alone.value is None else alone.value / error
    p = None if t is None else t_two_sided_p(t, fit.df_error)
    together = replace(wider, confidence=1 - alpha, method="blocked t, Bonferroni")
    return PlannedContrast(tuple(map(float, weights)), alone, together, t, p, None)


def paired_t_holm(values: np.ndarray, control: int, alpha: float) -> list[Difference]:
    """Compare every other arm with the control on each pair's own error: paired t, seeds - 1 df, Holm's p values.

    This is the sensitivity analysis beside blocked Dunnett: it does without one error variance for all pairs, at the
    price of few degrees of freedom. ``simultaneous`` is Bonferroni's interval, which goes with Holm as
    :class:`PlannedContrast` says.

    Args:
        values: (arms, seeds) without gaps.
        control: row of the control.
        alpha: family-wise error over all comparisons.

    Raises:
        ValueError: a value is missing or infinite.
    """
    others = [arm for arm in range(len(values)) if arm != control]
    minus = np.array([-1.0, 1.0])
    tests = [_blocked_t(fit_blocks(values[[control, arm]]), minus, alpha, len(others)) for arm in others]
    adjusted = holm([test.p for test in tests])
    return [_own_error(arm, test, p) for arm, test, p in zip(others, tests, adjusted, strict=True)]


def _own_error(arm: int, test: PlannedContrast, p_adjusted: float | None) -> Difference:
    """Return the contrast of two arms as an arm's difference: with two arms the blocked t is the paired t."""
    alone = replace(test.alone, method="paired t")
    return Difference(arm, alone, replace(test.simultaneous, method="paired t, Bonferroni"), test.t, test.p, p_adjusted)
