"""What the design could have found, said plainly: detectable effects, the smallest p, the error behind them."""

from typing import Any

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.findings import Detectable, detectables, error_limits, margin_of, margin_text
from lmexp.analysis.measures import number_text

_TESTS = {
    "blocked_anova": "Blocked analysis of variance",
    "two_way_blocked": "Blocked two-way analysis: interaction",
    "permutation": "Permutation within seeds",
    "welch_anova": "Welch's analysis of variance",
    "one_way_anova": "One-way analysis of variance",
    "dunnett_blocked": "Dunnett on the blocked error",
    "tukey_blocked": "Tukey on the blocked error",
    "holm_blocked": "Holm on the blocked error",
    "sign_flip_holm": "Exact sign flips with Holm",
    "games_howell": "Games and Howell",
}


def power(analysis: Analysis) -> dict[str, Any] | None:
    """Return what each planned test could find; None for a plan without tests, or with nothing to compare."""
    found = detectables(analysis)
    if not found or len(analysis.plan.arms) < 2:
        return None
    return {
        "rows": [_row(able) for able in found],
        "sentences": [text for text in (_margin_text(analysis, found), _error_text(analysis)) if text],
        "unit": analysis.primary.gap_unit or "as a ratio",
    }


def _row(able: Detectable) -> dict[str, str]:
    reach = able.reach
    detectable = reach.detectable
    return {
        "test": _TESTS[reach.name],
        "sigmas": "not known" if detectable is None else f"{detectable.effect:.2f}",
        "f": "" if detectable is None or detectable.cohens_f is None else f"{detectable.cohens_f:.2f}",
        "effect": able.measure.gap(able.effect).removeprefix("+") if able.effect is not None else "not known",
        "smallest_p": _smallest_p(reach.smallest_p),
        "alpha": f"{reach.alpha:g}",
        "can": "yes" if reach.can_reject else "no: it can never reach its own level",
    }


def _smallest_p(p: float) -> str:
    return "no limit" if p == 0 else "none" if p > 1 else f"{p:.3g}"


def _margin_text(analysis: Analysis, found: list[Detectable]) -> str:
    """Compare what could be found with what would matter."""
    margin = margin_of(analysis)
    able = next((each for each in reversed(found) if each.effect is not None), None)
    if margin is None:
        return "The plan names no smallest effect of interest, so whether this is fine enough is for the reader to say."
    if able is None or able.effect is None:
        return ""
    largest = able.reach.largest_error(margin)
    if able.effect <= margin:
        return f"That is finer than the smallest effect of interest, {margin_text(analysis)}."
    needed = _error(analysis, largest)
    return (
        f"The smallest effect of interest, {margin_text(analysis)}, is smaller than that: an effect that matters may "
        f"well have been missed. To find it 8 times in 10 takes an error of {needed} or less, or more seeds."
    )


def _error_text(analysis: Analysis) -> str:
    """Say how large the error is, and how well it is known."""
    error = analysis.blocked_error
    df = (len(analysis.plan.arms) - 1) * (len(analysis.complete) - 1)
    if error is None or df < 1:
        return ""
    low, high = error_limits(error, df, analysis.confidence)
    return (
        f"The error behind this, the standard deviation of what is left when arm and seed are taken out, was "
        f"{_error(analysis, error)} ({analysis.confidence:.0%} interval {_error(analysis, low)} to "
        f"{_error(analysis, high)}, {df} degrees of freedom, normal errors): what could be found is known no better."
    )


def _error(analysis: Analysis, value: float | None) -> str:
    """Write an error: in the measure's unit, or as a percentage where it is one of logarithms."""
    primary = analysis.primary
    if primary.logarithmic:
        return f"{number_text(None if value is None else 100 * value, 2)}%"
    return f"{primary.text(value)} {primary.unit}".rstrip()
