"""What the evidence allows, in plain words: which differences are shown, which are shown to be too small to matter,
which are neither, and what the design could have found.

Only registered runs are tested; of all others nothing is said here but their estimates.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.desk import AgainstControl, Table
from lmexp.analysis.measures import Measure, listed, measure_of, number_text
from lmexp.design import Reach
from lmexp.plan import NO_TEST
from lmexp.statistics.equivalence import DIFFERENT, EQUIVALENT
from lmexp.statistics.estimates import Estimate


def is_tested(analysis: Analysis) -> bool:
    """Whether the differences from the control are tested: the plan asks for it, and the runs follow its lock."""
    return analysis.registered and analysis.plan.analysis.contrasts != NO_TEST


def is_apart(estimate: Estimate) -> bool:
    """Whether an interval leaves out no difference at all."""
    return estimate.low is not None and estimate.high is not None and (estimate.low > 0 or estimate.high < 0)


def margin_of(analysis: Analysis) -> float | None:
    """Return the plan's smallest effect of interest on the scale of the analysis; None where the plan names none.

    Of speeds and durations it is a fraction: 0.05 is a factor of 1.05, log(1.05) on the scale of logarithms.
    """
    margin = analysis.plan.primary.sesoi
    return float(np.log1p(margin)) if margin and analysis.primary.logarithmic else margin or None


def margin_text(analysis: Analysis) -> str:
    """Return the smallest effect of interest with its unit, or as a percentage of a speed or a duration."""
    primary, margin = analysis.primary, analysis.plan.primary.sesoi
    if primary.logarithmic and margin is not None:
        return f"\N{PLUS-MINUS SIGN}{100 * margin:.3g}%"
    return f"\N{PLUS-MINUS SIGN}{primary.text(margin)} {primary.unit}".rstrip()


def finding(analysis: Analysis, found: AgainstControl) -> str:
    """Say in a few words what the tests show of one arm's difference from the control, in the primary measure."""
    shown, against = found.difference.shown, analysis.equivalences.get(found.arm)
    if not shown.has_interval:
        return "undefined"
    outcome = against.outcome if against else None
    if is_apart(shown):
        return f"{_direction(found.measure, shown)}{_BY_HOW_MUCH.get(outcome, '')}"
    if outcome == EQUIVALENT:
        return "practically equal"
    return "no difference shown" if against is None else "neither a difference nor equality shown"


_BY_HOW_MUCH: dict[str | None, str] = {
    EQUIVALENT: ", by too little to matter",
    DIFFERENT: ", by enough to matter",
    "undecided": "; whether enough to matter is open",
}


def _direction(measure: Measure, difference: Estimate) -> str:
    is_lower = (difference.value or 0.0) < 0
    if measure.direction is None:
        return "lower" if is_lower else "higher"
    return "better" if is_lower == (measure.direction == "lower") else "worse"


@dataclass(frozen=True)
class Detectable:
    """The smallest effect that a planned test finds 8 times in 10, had the errors the size seen in these runs.

    ``effect`` is on the scale of the analysis (a logarithm for speeds and durations); None without an error to go by.
    """

    reach: Reach
    measure: Measure
    error: float | None
    effect: float | None

    @property
    def text(self) -> str:
        """The effect in the measure's unit, or as a factor."""
        if self.effect is None:
            return "undefined"
        gap = self.measure.gap(self.effect).removeprefix("+")
        return f"{gap} {self.measure.gap_unit}".rstrip()


def detectables(analysis: Analysis, metric: str | None = None) -> list[Detectable]:
    """Return what each planned test could find in a measure; None stands for the primary one."""
    metric = metric or analysis.primary.name
    error = analysis.blocked_error if metric == analysis.primary.name else _error(analysis, metric)
    measure = measure_of(analysis.plan, metric)
    return [Detectable(reach, measure, error, _effect(reach, error)) for reach in analysis.reaches]


def _effect(reach: Reach, error: float | None) -> float | None:
    known = reach.detectable is not None and reach.detectable.unit == "sigma_e" and error is not None
    return reach.detectable.effect * error if known and reach.detectable and error else None


def _error(analysis: Analysis, metric: str) -> float | None:
    """Return the blocked error of a measure that is not the primary one."""
    if metric not in analysis.summaries:
        return None
    values = np.array([s.values for s in analysis.summaries[metric].values()], dtype=float)
    variance = Table(values, measure_of(analysis.plan, metric)).fit.error_variance
    return None if variance is None else float(np.sqrt(variance))


def contrast_detectable(analysis: Analysis, metric: str | None = None) -> Detectable | None:
    """Return what the plan's test of differences from the control could find; None without such a test or an error."""
    named = [each for each in detectables(analysis, metric) if each.reach.name == analysis.plan.analysis.contrasts]
    return next((each for each in named if each.effect is not None), None)


def omnibus_detectable(analysis: Analysis) -> Detectable | None:
    """Return what the plan's omnibus test could find in the primary measure; None without one or without an error."""
    named = [each for each in detectables(analysis) if each.reach.name == analysis.plan.analysis.omnibus]
    return next((each for each in named if each.effect is not None), None)


def omnibus_effect_text(able: Detectable) -> str:
    """Say what kind of effect an omnibus test's detectable effect is."""
    if able.reach.name == "two_way_blocked":
        return f"an interaction (a {'ratio of ratios' if able.measure.logarithmic else 'difference of differences'})"
    return "a largest difference between arms"


def error_limits(error: float, df: int, confidence: float) -> tuple[float, float]:
    """Return the interval of a standard deviation that was estimated with so many degrees of freedom (chi-square).

    Its coverage is exact for normal errors only.
    """
    tails = (1 - confidence) / 2
    low, high = (float(special.chdtri(df, tail)) for tail in (tails, 1 - tails))  # chdtri inverts the upper tail
    return error * float(np.sqrt(df / low)), error * float(np.sqrt(df / high))


def statements(analysis: Analysis) -> list[str]:
    """Say what can and what cannot be concluded, one sentence each."""
    if not analysis.registered or analysis.breach:  # then the top of the report says that nothing is judged, and why
        return []
    said = [*(_differences(analysis) if is_tested(analysis) else []), *_power(analysis)]
    if analysis.amendments:
        said.append("The plan was changed when runs could be seen: read all of this as if it had been tried out first.")
    return said


def _differences(analysis: Analysis) -> list[str]:
    """Sort the arms into told apart, shown equal and open."""
    found = analysis.comparisons[analysis.primary.name]
    control, primary = analysis.plan.control, analysis.primary
    apart = [c for c in found if is_apart(c.difference.shown)]
    equal = [c for c in found if _outcome(analysis, c) == EQUIVALENT]
    open_ = [c for c in found if c not in apart and c not in equal]
    how = f"with all arms together held to an error rate of {analysis.plan.analysis.alpha:g}"
    said = []
    if apart:
        named = listed([f"{c.arm} ({_direction(primary, c.difference.shown)})" for c in apart])
        said.append(f"Shown to differ from {control} in {primary.label.lower()}, {how}: {named}.")
    if equal:
        named = listed([c.arm for c in equal])
        said.append(f"Shown to differ from {control} by less than the smallest effect of interest: {named}.")
    if open_:
        named = listed([c.arm for c in open_])
        what = "Neither a difference nor equality" if analysis.equivalences else "No difference"
        said.append(f"{what} is shown for {named}: that is a lack of evidence, not evidence of no effect.")
    return said


def _outcome(analysis: Analysis, found: AgainstControl) -> str | None:
    against = analysis.equivalences.get(found.arm)
    return against.outcome if against else None


def _power(analysis: Analysis) -> list[str]:
    """Say what the planned comparison could have found, and whether that was enough."""
    contrasts, whole = contrast_detectable(analysis), omnibus_detectable(analysis)
    able = contrasts or whole
    if able is None or able.effect is None:
        return []
    what = "a difference" if contrasts else omnibus_effect_text(able)
    said = (
        f"With the error seen here, {what} of {able.text} would have been found 8 times in 10; smaller ones were more "
        "likely to be missed."
    )
    margin = margin_of(analysis)
    if margin is None or not contrasts:
        return [said]
    verdict = "small enough" if able.effect <= margin else "too coarse"
    return [f"{said} For the smallest effect of interest, {margin_text(analysis)}, that is {verdict}."]


def effect_as_share(analysis: Analysis, able: Detectable) -> str | None:
    """Return the detectable difference as a part of the whole improvement; None where that is undefined."""
    full = next((c for c in analysis.comparisons[analysis.primary.name] if c.arm == analysis.plan.analysis.full), None)
    if full is None or able.effect is None or analysis.primary.logarithmic or not is_apart(full.difference.alone):
        return None
    return number_text(able.effect / abs(full.difference.alone.value or 1.0), 2)
