"""Whether two arms are practically the same: two one-sided tests (TOST) against the smallest effect of interest.

A large p value of a difference never shows equality. TOST does: it asks whether the difference is shown to lie within
the margin. With three seeds it often cannot tell, and says so: ``undecided`` is an ordinary outcome.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from lmexp.statistics.blocks import Fit, standard_error
from lmexp.statistics.distributions import t_quantile
from lmexp.statistics.estimates import NO_ERROR, NO_SPREAD, TOO_FEW

EQUIVALENT, DIFFERENT, UNDECIDED, UNDEFINED = "equivalent", "different", "undecided", "undefined"
_ROUNDING = 1e-12  # a spread below this fraction of the values is rounding, not variation


@dataclass(frozen=True)
class Equivalence:
    """A difference against the margin on either side of zero.

    ``outcome`` is one of

    - ``equivalent``: the difference is shown to be smaller than the margin (``p <= alpha``), be it zero or not;
    - ``different``: it is shown to be larger than the margin (``p_beyond <= alpha``), not merely other than zero;
    - ``undecided``: the data show neither;
    - ``undefined``: there is no error to judge by, and ``undefined`` says why.

    ``p_lower`` tests the null that the difference is at or below minus the margin, ``p_upper`` that it is at or above
    the margin, and ``p``, the larger of the two, that it is one or the other. ``low`` and ``high`` are the t interval
    of coverage ``confidence`` = 1 - 2 alpha, which lies within the margins just when p < alpha. ``p_beyond`` tests the
    null that the difference is within the margins. What is undefined is None.
    """

    outcome: str
    value: float | None
    margin: float
    low: float | None
    high: float | None
    confidence: float
    p_lower: float | None
    p_upper: float | None
    p: float | None
    p_beyond: float | None
    alpha: float
    df: float
    n_seeds: int
    undefined: str | None

    def __str__(self) -> str:
        value = "undefined" if self.value is None else f"{self.value:.4g}"
        if self.low is None or self.high is None:
            return (
                f"{self.outcome} at margin \N{PLUS-MINUS SIGN}{self.margin:.4g}: {value} [undefined: {self.undefined}]"
            )
        interval = f"{value} [{self.low:.4g}, {self.high:.4g}]"
        detail = f"({self.confidence:.0%} t, p={self.p:.3g}, n={self.n_seeds})"
        return f"{self.outcome} at margin \N{PLUS-MINUS SIGN}{self.margin:.4g}: {interval} {detail}"


def tost(difference: float, standard_error: float, df: float, margin: float, alpha: float, n_seeds: int) -> Equivalence:
    """Test a difference against the margin (Schuirmann 1987).

    Args:
        difference: the estimate, in the metric's unit.
        standard_error: of the estimate, above 0.
        df: its degrees of freedom.
        margin: the smallest effect of interest, above 0, in the same unit; the region is (-margin, margin).
        alpha: level of each one-sided test and of the claim, below 0.5.
        n_seeds: seeds behind the estimate.

    ``p_beyond`` is twice the smaller one-sided p of the minimal-effect tests (Murphy and Myors 1999), at most 1: twice,
    because the difference may lie beyond either margin.

    Raises:
        ValueError: the margin, the standard error or the degrees of freedom are not above 0, or alpha not in (0, 0.5).
    """
    _check(margin, alpha)
    if not (standard_error > 0 and df > 0):
        raise ValueError(f"standard error and degrees of freedom must be above 0, not {standard_error} and {df}")
    below, above = (difference + margin) / standard_error, (difference - margin) / standard_error
    p_lower, p_upper = float(special.stdtr(df, -below)), float(special.stdtr(df, above))
    p = max(p_lower, p_upper)
    p_beyond = min(1.0, 2 * float(min(special.stdtr(df, -above), special.stdtr(df, below))))
    reach = t_quantile(1 - alpha, df) * standard_error
    return Equivalence(
        outcome=EQUIVALENT if p <= alpha else DIFFERENT if p_beyond <= alpha else UNDECIDED,
        value=difference,
        margin=margin,
        low=difference - reach,
        high=difference + reach,
        confidence=1 - 2 * alpha,
        p_lower=p_lower,
        p_upper=p_upper,
        p=p,
        p_beyond=p_beyond,
        alpha=alpha,
        df=df,
        n_seeds=n_seeds,
        undefined=None,
    )


def tost_contrast(fit: Fit, weights: np.ndarray, margin: float, alpha: float) -> Equivalence:
    """Test a contrast of arm means on the blocked error.

    Args:
        fit: the block design.
        weights: (arms,), summing to zero: :func:`~lmexp.statistics.contrasts.pairwise` for one arm minus another.
        margin: the smallest effect of interest, above 0, in the metric's unit.
        alpha: level of the claim, below 0.5.

    Raises:
        ValueError: as :func:`tost`, or the weights do not sum to zero.
    """
    _check(margin, alpha)
    value, error = float(weights @ fit.means) if fit.n_seeds else None, standard_error(fit, weights)
    if value is None or error is None:
        return _undefined(str(fit.why), value, margin, alpha, fit.df_error, fit.n_seeds)
    return tost(value, error, fit.df_error, margin, alpha, fit.n_seeds)


def tost_paired(first: np.ndarray, second: np.ndarray, margin: float, alpha: float) -> Equivalence:
    """Test the paired differences ``first - second``; both (seeds,), without gaps.

    Raises:
        ValueError: as :func:`tost`, or a value is missing or infinite, or the two have not equally many seeds.
    """
    _check(margin, alpha)
    if first.shape != second.shape or first.ndim != 1 or not np.isfinite([first, second]).all():
        raise ValueError(f"two equally long series without gaps are needed, not {first.shape} and {second.shape}")
    n_seeds, paired = len(first), first - second
    value = float(paired.mean()) if n_seeds else None
    if value is None or n_seeds < 2:
        return _undefined(TOO_FEW, value, margin, alpha, 0, n_seeds)
    deviation, rounding = float(paired.std(ddof=1)), _ROUNDING * max(np.abs(first).max(), np.abs(second).max())
    if deviation <= rounding:
        why = NO_ERROR if np.ptp(first) > rounding else NO_SPREAD
        return _undefined(why, value, margin, alpha, n_seeds - 1, n_seeds)
    return tost(value, deviation / float(np.sqrt(n_seeds)), n_seeds - 1, margin, alpha, n_seeds)


def _undefined(why: str, value: float | None, margin: float, alpha: float, df: float, n_seeds: int) -> Equivalence:
    nothing = (None, None, None, None)
    return Equivalence(UNDEFINED, value, margin, None, None, 1 - 2 * alpha, *nothing, alpha, df, n_seeds, undefined=why)


def _check(margin: float, alpha: float) -> None:
    if not (0 < margin < np.inf and 0 < alpha < 0.5):
        raise ValueError(f"TOST needs a margin above 0 and alpha between 0 and 0.5, not {margin} and {alpha}")
