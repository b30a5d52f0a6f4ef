"""Standardised effect sizes of two arms, with intervals by inverting the noncentral t.

The raw difference always comes first; these put it in units of the spread between seeds. With three seeds that spread
is itself poorly known, and the intervals say so.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from lmexp.statistics.distributions import noncentral_t_limits
from lmexp.statistics.estimates import NO_ERROR, NO_SPREAD, Estimate, undefined

_ROUNDING = 1e-12


@dataclass(frozen=True)
class EffectSizes:
    """Cohen's d, Hedges' g (d without its small-sample bias) and d_z (of the paired differences)."""

    cohens_d: Estimate
    hedges_g: Estimate
    d_z: Estimate


def effect_sizes(arm: np.ndarray, control: np.ndarray, confidence: float) -> EffectSizes:
    """Return the effect sizes of ``arm - control``. arm, control: (seeds,) paired, without gaps."""
    d = cohens_d(arm, control, confidence)
    return EffectSizes(d, hedges_g(d), d_z(arm, control, confidence))


def cohens_d(first: np.ndarray, second: np.ndarray, confidence: float) -> Estimate:
    """Return (mean(first) - mean(second)) / s_pooled, as if the two were independent samples.

    first: (n1,), second: (n2,). The interval inverts the noncentral t with n1 + n2 - 2 degrees of freedom (Cumming and
    Finch 2001).
    """
    n1, n2 = len(first), len(second)
    df, n_seeds = n1 + n2 - 2, min(n1, n2)
    if n_seeds < 2:
        return undefined("fewer than 2 seeds", confidence, n_seeds, "d")
    pooled = np.sqrt(((n1 - 1) * first.var(ddof=1) + (n2 - 1) * second.var(ddof=1)) / df)
    if pooled <= _ROUNDING * max(np.abs(first).max(), np.abs(second).max()):
        return undefined(NO_SPREAD, confidence, n_seeds, "d")
    value = float((first.mean() - second.mean()) / pooled)
    return _standardised(value, float(np.sqrt(n1 * n2 / (n1 + n2))), df, confidence, n_seeds, "d")


def d_z(first: np.ndarray, second: np.ndarray, confidence: float) -> Estimate:
    """Return mean / s of the paired differences ``first - second``; both (n,).

    The interval inverts the noncentral t with n - 1 degrees of freedom.
    """
    n, paired = len(first), first - second
    if n < 2:
        return undefined("fewer than 2 seeds", confidence, n, "d_z")
    deviation = float(paired.std(ddof=1))
    rounding = _ROUNDING * max(np.abs(first).max(), np.abs(second).max())
    if deviation <= rounding:
        return undefined(NO_ERROR if np.ptp(first) > rounding else NO_SPREAD, confidence, n, "d_z")
    return _standardised(float(paired.mean()) / deviation, float(np.sqrt(n)), n - 1, confidence, n, "d_z")


def _standardised(value: float, root_n: float, df: int, confidence: float, n_seeds: int, method: str) -> Estimate:
    low, high = noncentral_t_limits(value * root_n, df, confidence)
    return Estimate(value, low / root_n, high / root_n, confidence, n_seeds, df, method, None)


def hedges_g(d: Estimate) -> Estimate:
    """Return Hedges' g: d and its limits times J(df), which takes out the bias of small samples (Hedges 1981)."""
    if d.value is None or d.df is None:
        return undefined(str(d.undefined), d.confidence, d.n_seeds, "g")
    correction = bias_correction(d.df)
    scaled = d.mapped(lambda value: correction * value)
    return Estimate(scaled.value, scaled.low, scaled.high, d.confidence, d.n_seeds, d.df, "g", None)


def bias_correction(df: float) -> float:
    """Return J(m) = Gamma(m/2) / (sqrt(m/2) Gamma((m-1)/2)); J(2) is .564, J(4) .798."""
    return float(np.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / np.sqrt(df / 2))
