"""Differences from the control, shares of the full change, ratios and non-additivity, each with an interval.

All of them but ``ratio_of_means`` use the blocked error of :mod:`lmexp.statistics.blocks`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmexp.statistics.blocks import Fit, contrast, standard_error
from lmexp.statistics.distributions import dunnett_cdf, dunnett_critical, t_quantile, t_two_sided_p
from lmexp.statistics.estimates import NO_SPREAD, TOO_FEW, Estimate, undefined
from lmexp.statistics.rows import Tabular, p_text


@dataclass(frozen=True)
class Difference(Tabular):
    """An arm minus the control, in the metric's unit.

    ``alone`` has the t interval that holds for this one difference, ``simultaneous`` Dunnett's, which holds for all
    arms together. ``p_adjusted`` belongs to the latter. The p values are None where undefined; all but ``alone`` are
    None when the plan asks for no test.
    """

    arm: int  # row of the arm
    alone: Estimate
    simultaneous: Estimate | None
    t: float | None
    p: float | None
    p_adjusted: float | None

    @property
    def shown(self) -> Estimate:
        """The estimate to report: with the simultaneous interval wherever the plan asks for one."""
        return self.simultaneous or self.alone

    def __str__(self) -> str:
        tests = "" if self.p is None else f", {p_text(self.p)}, {p_text(self.p_adjusted, 'adjusted p')}"
        return f"arm {self.arm}: {self.shown}{tests}"


def pairwise(n_arms: int, minuend: int, subtrahend: int) -> np.ndarray:
    """Return the weights of one arm minus another: (arms,)."""
    weights = np.zeros(n_arms)
    weights[minuend] += 1
    weights[subtrahend] -= 1
    return weights


def differences(fit: Fit, control: int, alpha: float) -> list[Difference]:
    """Compare every other arm with the control on the blocked error.

    Dunnett's adjustment holds the family-wise error over these comparisons: never stack another correction on it.
    """
    others = [arm for arm in range(fit.n_arms) if arm != control]
    critical = None if fit.error_variance is None else dunnett_critical(alpha, len(others), fit.df_error)
    return [_difference(fit, arm, control, alpha, len(others), critical) for arm in others]


def plain_differences(fit: Fit, control: int, alpha: float) -> list[Difference]:
    """Return every other arm minus the control with its own t interval and no test: for plans that ask for none."""
    others = [arm for arm in range(fit.n_arms) if arm != control]
    alone = [contrast(fit, pairwise(fit.n_arms, arm, control), 1 - alpha) for arm in others]
    return [Difference(arm, estimate, None, None, None, None) for arm, estimate in zip(others, alone, strict=True)]


def _difference(fit: Fit, arm: int, control: int, alpha: float, n_family: int, critical: float | None) -> Difference:
    weights = pairwise(fit.n_arms, arm, control)
    alone = contrast(fit, weights, 1 - alpha)
    error = standard_error(fit, weights)
    if critical is None or error is None or alone.value is None:
        return Difference(arm, alone, replace(alone, method="blocked Dunnett"), None, None, None)
    t = alone.value / error
    together = replace(
        alone, low=alone.value - critical * error, high=alone.value + critical * error, method="blocked Dunnett"
    )
    adjusted = max(0.0, 1 - dunnett_cdf(abs(t), n_family, fit.df_error))
    p = t_two_sided_p(t, fit.df_error)
    return Difference(arm, alone, together, t, p, max(p, adjusted))


def share(fit: Fit, arm: int, control: int, full: int, direction: int, confidence: float) -> Estimate:
    """Return the part of the full improvement that one arm brings: (control - arm) / (control - full).

    The interval is Fieller's. The share is undefined unless the full improvement is clearly above zero: its own
    interval must lie above it.

    Args:
        fit: the block design.
        arm: row of the arm.
        control: row of the control.
        full: row of the arm with every change.
        direction: +1 when lower values are better, -1 when higher ones are.
        confidence: coverage of the interval.
    """
    numerator = direction * pairwise(fit.n_arms, control, arm)
    denominator = direction * pairwise(fit.n_arms, control, full)
    whole = contrast(fit, denominator, confidence)
    if whole.low is None:
        return undefined(str(fit.why), confidence, fit.n_seeds, "Fieller", _quotient(fit, numerator, denominator))
    if whole.low <= 0:
        return undefined(_why_no_share(whole), confidence, fit.n_seeds, "Fieller", df=fit.df_error)
    variance = fit.error_variance or 0.0
    products = np.stack([numerator, denominator]) @ np.stack([numerator, denominator]).T
    tops = (float(numerator @ fit.means), float(denominator @ fit.means))
    return fieller(*tops, products * variance / fit.n_seeds, fit.df_error, confidence, fit.n_seeds)


def _why_no_share(whole: Estimate) -> str:
    """Say why the full improvement, whose interval reaches down to zero or below, cannot be shared out."""
    interval = f"(interval {whole.low:.3g} to {whole.high:.3g})".replace("-", "\N{MINUS SIGN}")
    if whole.high is not None and whole.high < 0:
        return f"the full arm is clearly worse than the control, so there is no improvement to share {interval}"
    return f"the full improvement is not clearly above zero {interval}"


def _quotient(fit: Fit, numerator: np.ndarray, denominator: np.ndarray) -> float | None:
    below = float(denominator @ fit.means)
    return float(numerator @ fit.means) / below if np.isfinite(below) and below > 0 else None


def fieller(
    numerator: float, denominator: float, covariance: np.ndarray, df: float, confidence: float, n_seeds: int
) -> Estimate:
    """Return numerator / denominator with Fieller's interval (Fieller 1954).

    The interval holds every ratio r for which ``numerator - r * denominator`` is compatible with zero. It is bounded
    just when the denominator's own interval excludes zero; otherwise the ratio is undefined.

    Args:
        numerator: estimate above the line.
        denominator: estimate below it.
        covariance: (2, 2) of the two estimates.
        df: degrees of freedom of the covariance.
        confidence: coverage of the interval.
        n_seeds: seeds behind the estimates.
    """
    t2 = t_quantile((1 + confidence) / 2, df) ** 2
    a = denominator**2 - t2 * covariance[1, 1]
    if a <= 0:
        return undefined("the denominator is not clearly different from zero", confidence, n_seeds, "Fieller", df=df)
    half_b = numerator * denominator - t2 * covariance[0, 1]
    c = numerator**2 - t2 * covariance[0, 0]
    root = float(np.sqrt(max(0.0, half_b**2 - a * c)))
    limits = (float((half_b - root) / a), float((half_b + root) / a))
    return Estimate(numerator / denominator, *limits, confidence, n_seeds, df, "Fieller", None)


def ratio_of_means(top: np.ndarray, bottom: np.ndarray, confidence: float) -> Estimate:
    """Return mean(top) / mean(bottom) over paired seeds with Fieller's interval on their own covariance.

    top, bottom: (seeds,) without gaps. Ratios of means are not contrasts, so the seeds' own variation counts here.
    """
    n_seeds = len(top)
    if n_seeds < 2:
        value = float(top[0] / bottom[0]) if n_seeds and bottom[0] != 0 else None
        return undefined(TOO_FEW, confidence, n_seeds, "Fieller", value)
    means = (float(top.mean()), float(bottom.mean()))
    covariance = np.cov(np.stack([top, bottom])) / n_seeds
    if np.all(np.diag(covariance) <= (1e-12 * np.abs(means)) ** 2):
        value = means[0] / means[1] if means[1] else None
        return undefined(NO_SPREAD, confidence, n_seeds, "Fieller", value)
    return fieller(*means, covariance, n_seeds - 1, confidence, n_seeds)


def interaction(fit: Fit, parts: Sequence[int], control: int, full: int, direction: int, confidence: float) -> Estimate:
    """Return the full improvement minus the sum of the improvements of its parts, with its t interval.

    Zero when the parts add up; above zero when together they do more than alone. For two parts this is the difference
    of differences of a 2 x 2 design. Arguments as in :func:`share`; ``parts`` are rows of arms.
    """
    weights = pairwise(fit.n_arms, control, full)
    for part in parts:
        weights = weights - pairwise(fit.n_arms, control, part)
    return contrast(fit, direction * weights, confidence)
