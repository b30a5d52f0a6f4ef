"""The answer in one sentence: which arm improves most on the control, by how much, and whether that can be told.

It describes; it is no verdict. Where every change has an arm of its own and one arm holds them all, the question is
about the single changes, and the arm with all of them is named after.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from math import log

from lmexp.analysis.measures import Measure
from lmexp.criteria import Term
from lmexp.statistics.estimates import Estimate

Estimator = Callable[[Term], Estimate]


def answer(estimate: Estimator, measure: Measure, control: str, single: list[str], full: str | None) -> str:
    """Name the arm with the largest improvement over the control and its runner-up.

    Args:
        estimate: gives the estimate of a term.
        measure: the primary measure.
        control: the arm that others are compared with.
        single: the arms to choose among.
        full: the arm with every change, None when there is none to name.

    Returns:
        One to three sentences; nothing when no arm has a value.
    """
    gains = {arm: estimate(Term("improvement", (arm,), None)) for arm in single}
    ranked = sorted((arm for arm in single if gains[arm].value is not None), key=lambda arm: -_value(gains[arm]))
    if not ranked:
        return ""
    among = "Of the single changes, " if full else ""
    most = " most" * (len(ranked) > 1)
    said = [among + _best(ranked[0], gains[ranked[0]], measure, control, estimate, among, most)]
    said += [_runner_up(best, second, estimate, measure) for best, second in list(pairwise(ranked))[:1]]
    if full:
        said.append(f"All changes together ({full}): {_gap(_compared(estimate, measure, full, control), measure)}.")
    return " ".join(said)


def _value(gain: Estimate) -> float:
    return gain.value if gain.value is not None else 0.0


def _best(arm: str, gain: Estimate, measure: Measure, control: str, estimate: Estimator, among: str, most: str) -> str:
    gap = _gap(_compared(estimate, measure, arm, control), measure)
    name = measure.label.lower()
    if _value(gain) <= 0:
        return f"{'none' if among else 'No arm'} improves {name} over {control}; {arm} comes nearest: {gap}."
    verb = f"{arm} improves {name}{most} over {control}: {gap}"
    if gain.low is None:
        return f"{verb}."
    return f"{verb}{'' if gain.low > 0 else ', which cannot be told from no improvement'}."


def _runner_up(best: str, second: str, estimate: Estimator, measure: Measure) -> str:
    lead = _compared(estimate, measure, best, second)
    if lead.low is None or lead.high is None:
        return f"Whether it differs from the runner-up, {second}, cannot be told: {lead.undefined}."
    apart = lead.low > 0 or lead.high < 0
    can = "It is clearly apart from" if apart else "It cannot be told from"
    return f"{can} the runner-up, {second} ({measure.gap(lead.value)}, {_interval(lead, measure)})."


def crossed_answer(estimate: Estimator, measure: Measure, control: str, grid: Mapping[tuple[str, ...], str]) -> str:
    """Compare, at every level of the other factors, each level of the first factor with the control's.

    Args:
        estimate: gives the estimate of a term.
        measure: the primary measure.
        control: the control, one of the crossed arms; its first level is what others are compared with.
        grid: the crossed arms by their levels.

    Returns:
        One sentence for each level that is compared; nothing when nothing has a value.
    """
    base = next(levels[0] for levels, arm in grid.items() if arm == control)
    others = dict.fromkeys(levels[0] for levels in grid if levels[0] != base)
    rest = dict.fromkeys(levels[1:] for levels in grid)
    said = []
    for level in others:
        pairs = [(grid[level, *more], grid[base, *more], " ".join(more)) for more in rest]
        gaps = [f"{_gap(_compared(estimate, measure, arm, other), measure)} at {where}" for arm, other, where in pairs]
        said.append(f"{measure.label} of {level} against {base}: {'; '.join(gaps)}.")
    return " ".join(said)


def _compared(estimate: Estimator, measure: Measure, arm: str, other: str) -> Estimate:
    """Return arm against another: a logarithm of the ratio where the measure is compared so, else the difference."""
    if not measure.logarithmic:
        return estimate(Term("diff", (arm, other), None))
    return estimate(Term("ratio", (arm, other), None)).mapped(log)


def _gap(gap: Estimate, measure: Measure) -> str:
    interval = f" ({_interval(gap, measure)})" if gap.has_interval else ""
    return f"{measure.gap(gap.value)} {measure.gap_unit}".rstrip() + interval


def _interval(gap: Estimate, measure: Measure) -> str:
    return f"{gap.confidence:.0%} interval {measure.gap(gap.low)} to {measure.gap(gap.high)}"


def winner_alone(means: Mapping[str, float], measure: Measure) -> str:
    """Say which arm did best where there is no control, or what the only arm reached. means: by arm, not empty."""
    name = measure.label.lower()
    if len(means) == 1 or measure.sign is None:
        reached = ", ".join(f"{arm} {measure.text(value)}" for arm, value in means.items())
        return f"{measure.label}: {reached} {measure.unit}".rstrip() + "."
    pick = min if measure.sign > 0 else max
    best = pick(means, key=lambda arm: means[arm])
    return f"{best} has the best {name}: {measure.text(means[best])} {measure.unit}".rstrip() + "."
