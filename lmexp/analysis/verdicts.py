"""Verdicts: what the interval of each estimate says about each criterion of the plan.

A comparison holds when the whole interval lies inside its region, fails when the whole interval lies outside, and is
undecided otherwise; ``and`` and ``or`` combine these three values as Kleene did. A hypothesis is then

    SUPPORTED       what would support it holds, and what would falsify it does not
    FALSIFIED       what would falsify it holds, and what would support it does not
    INCONCLUSIVE    neither holds
    INADMISSIBLE    the protocol was not met: missing cells, too few seeds, an undefined estimate, criteria that clash
    DEVIATED        the plan was amended when its runs could be seen; the reading stands beside it
    EXPLORATORY     the runs do not follow a lock: estimates, and no verdict

Beside it stands the bare-threshold reading of the point estimates: what one would have said without intervals.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import floor, log10
from typing import Any

from lmexp.analysis.measures import listed, number_text
from lmexp.criteria import And, Comparison, Criterion, Term, parse, terms
from lmexp.plan import Hypothesis
from lmexp.statistics.estimates import Estimate

SUPPORTED, FALSIFIED, INCONCLUSIVE, INADMISSIBLE = "SUPPORTED", "FALSIFIED", "INCONCLUSIVE", "INADMISSIBLE"
DEVIATED, EXPLORATORY = "DEVIATED", "EXPLORATORY"
HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
_IS_UNDEFINED = " is undefined: "
UNDEFINED = "undefined"  # of a whole criterion that names an estimate without an interval

Estimator = Callable[[Term], Estimate]


@dataclass(frozen=True)
class Reading:
    """One comparison with its estimate, and what the interval says."""

    comparison: Comparison
    estimate: Estimate
    truth: str


@dataclass(frozen=True)
class Verdict:
    """A hypothesis judged. ``reason`` is one plain sentence; ``bare`` is the bare-threshold reading.

    ``reading`` is what the intervals say: the verdict itself, but for DEVIATED. It, ``bare`` and the truths of the
    criteria are None when the protocol was not met or nothing was promised: then there is nothing to read.
    """

    hypothesis: Hypothesis
    verdict: str
    reading: str | None
    reason: str
    bare: str | None
    support: str | None  # truth of supported_if
    falsification: str | None  # truth of falsified_if
    supporting: tuple[Reading, ...]
    falsifying: tuple[Reading, ...]

    @property
    def estimates(self) -> dict[Term, Estimate]:
        """The different estimates that the criteria name, in order."""
        return {reading.comparison.term: reading.estimate for reading in self.supporting + self.falsifying}


def judge(hypothesis: Hypothesis, estimator: Estimator, protocol_breach: str | None) -> Verdict:
    """Judge one hypothesis.

    Args:
        hypothesis: claim and criteria.
        estimator: gives the estimate of a term.
        protocol_breach: why the whole experiment is inadmissible, None when it is not.

    Raises:
        UserError: a criterion does not parse.
    """
    support, falsify = parse(hypothesis.supported_if), parse(hypothesis.falsified_if)
    estimates = {term: estimator(term) for term in dict.fromkeys(terms(support) + terms(falsify))}
    supporting, falsifying = (_readings(criterion, estimates) for criterion in (support, falsify))
    if protocol_breach:
        blank = (None, None, None)
        return Verdict(hypothesis, INADMISSIBLE, None, protocol_breach, *blank, supporting, falsifying)
    truths = [_whole_truth(criterion, estimates) for criterion in (support, falsify)]
    bare = _name(*(combined(criterion, estimates, bare_truth_of) for criterion in (support, falsify)))
    if any(estimate.value is None for estimate in estimates.values()):
        bare = UNDEFINED.upper()
    gap = _undefined_estimate(estimates)
    verdict = INADMISSIBLE if gap else _name(*truths)
    reason = gap or _reason(verdict, support, falsify, estimates)
    return Verdict(hypothesis, verdict, verdict, reason, bare, truths[0], truths[1], supporting, falsifying)


def deviated(verdict: Verdict, why: str) -> Verdict:
    """Return the verdict of a plan that was amended when its runs could be seen; what is inadmissible stays so."""
    if verdict.verdict == INADMISSIBLE:
        return verdict
    reason = f"{why} Read as it now stands, the plan would say {verdict.reading}: {verdict.reason}"
    return replace(verdict, verdict=DEVIATED, reason=reason)


def exploratory(verdict: Verdict, why: str) -> Verdict:
    """Return the place of a verdict where none can be given: the estimates stay, what they would say is not read."""
    blank: dict[str, Any] = dict.fromkeys(("reading", "bare", "support", "falsification"))
    return replace(verdict, verdict=EXPLORATORY, reason=why, **blank)


def truth_of(comparison: Comparison, estimate: Estimate) -> str:
    """Read one comparison from the estimate's interval."""
    if estimate.low is None or estimate.high is None:
        return UNDECIDED
    inside = [_compare(limit, comparison) for limit in (estimate.low, estimate.high)]
    return HOLDS if all(inside) else UNDECIDED if any(inside) else FAILS


def bare_truth_of(comparison: Comparison, estimate: Estimate) -> str:
    """Read one comparison from the point estimate alone."""
    if estimate.value is None:
        return UNDECIDED
    return HOLDS if _compare(estimate.value, comparison) else FAILS


def _compare(value: float, comparison: Comparison) -> bool:
    bound = comparison.threshold
    return {"<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound}[comparison.operator]


def combined(criterion: Criterion, estimates: dict[Term, Estimate], read: Callable[[Comparison, Estimate], str]) -> str:
    """Return the truth of a whole criterion: ``and`` fails with any part, ``or`` holds with any part."""
    if isinstance(criterion, Comparison):
        return read(criterion, estimates[criterion.term])
    parts = {combined(part, estimates, read) for part in criterion.parts}
    decisive, otherwise = (FAILS, HOLDS) if isinstance(criterion, And) else (HOLDS, FAILS)
    return decisive if decisive in parts else UNDECIDED if UNDECIDED in parts else otherwise


def _whole_truth(criterion: Criterion, estimates: dict[Term, Estimate]) -> str:
    if not all(estimates[term].has_interval for term in terms(criterion)):
        return UNDEFINED
    return combined(criterion, estimates, truth_of)


def _name(support: str, falsification: str) -> str:
    if support == HOLDS and falsification == HOLDS:
        return INADMISSIBLE
    return SUPPORTED if support == HOLDS else FALSIFIED if falsification == HOLDS else INCONCLUSIVE


def _readings(criterion: Criterion, estimates: dict[Term, Estimate]) -> tuple[Reading, ...]:
    if isinstance(criterion, Comparison):
        estimate = estimates[criterion.term]
        return (Reading(criterion, estimate, truth_of(criterion, estimate)),)
    return tuple(reading for part in criterion.parts for reading in _readings(part, estimates))


def _undefined_estimate(estimates: dict[Term, Estimate]) -> str | None:
    for term, estimate in estimates.items():
        if not estimate.has_interval:
            return f"{term}{_IS_UNDEFINED}{estimate.undefined}."
    return None


def _reason(verdict: str, support: Criterion, falsify: Criterion, estimates: dict[Term, Estimate]) -> str:
    if verdict == INADMISSIBLE:
        return "Both criteria hold at once: the plan contradicts itself."
    if verdict == SUPPORTED:
        return _sentence(_decisive(support, HOLDS, estimates), estimates)
    if verdict == FALSIFIED:
        return _sentence(_decisive(falsify, HOLDS, estimates), estimates)
    truths = [combined(criterion, estimates, truth_of) for criterion in (support, falsify)]
    if truths == [FAILS, FAILS]:
        return "The estimates lie between what would support the claim and what would falsify it."
    undecided = [
        comparison
        for criterion, truth in zip((support, falsify), truths, strict=True)
        if truth == UNDECIDED
        for comparison in _decisive(criterion, UNDECIDED, estimates)
    ]
    return _sentence(undecided, estimates)


def _decisive(criterion: Criterion, truth: str, estimates: dict[Term, Estimate]) -> list[Comparison]:
    """Return the comparisons that make a criterion have this truth."""
    if isinstance(criterion, Comparison):
        return [criterion] if truth_of(criterion, estimates[criterion.term]) == truth else []
    alike = [part for part in criterion.parts if combined(part, estimates, truth_of) == truth]
    return [comparison for part in alike for comparison in _decisive(part, truth, estimates)]


def _sentence(decisive: list[Comparison], estimates: dict[Term, Estimate]) -> str:
    """Return for instance: ``share(gqa) is 0.08 (95% interval 0.02 to 0.14), all of it below 0.2.``"""
    by_term: dict[Term, list[Comparison]] = {}
    for comparison in dict.fromkeys(decisive):
        by_term.setdefault(comparison.term, []).append(comparison)
    clauses = [_clause(term, found, estimates[term]) for term, found in by_term.items()]
    return "; ".join(clauses) + "."


def _clause(term: Term, found: list[Comparison], estimate: Estimate) -> str:
    digits = _digits(estimate)
    value, low, high = (number_text(limit, digits) for limit in (estimate.value, estimate.low, estimate.high))
    interval = f"{term} is {value} ({estimate.confidence:.0%} interval {low} to {high})"
    if truth_of(found[0], estimate) == UNDECIDED:
        bounds = sorted({comparison.threshold for comparison in found})
        return f"{interval}, on both sides of {' and of '.join(f'{bound:g}' for bound in bounds)}"
    places = {f"{'below' if '<' in comparison.operator else 'above'} {comparison.threshold:g}" for comparison in found}
    return f"{interval}, all of it {' and '.join(sorted(places))}"


def _digits(estimate: Estimate) -> int:
    """Return decimals that show two figures of the interval's width."""
    width = (estimate.high or 0.0) - (estimate.low or 0.0)
    return min(8, max(0, 1 - floor(log10(width)))) if width > 0 else 4


def joint_reading(verdicts: tuple[Verdict, ...]) -> str:
    """Say in one or two sentences which of the rival hypotheses survive."""
    if not verdicts:
        return "The plan states no hypothesis, so there is no verdict: the figures describe what happened."
    if verdicts[0].verdict == EXPLORATORY:
        return verdicts[0].reason
    named = {name: [v.hypothesis.id for v in verdicts if v.verdict == name] for name in (SUPPORTED, FALSIFIED)}
    unsettled = [v.hypothesis.id for v in verdicts if v.verdict == INCONCLUSIVE]
    amended = [v.hypothesis.id for v in verdicts if v.verdict == DEVIATED]
    inadmissible = [v.hypothesis.id for v in verdicts if v.verdict == INADMISSIBLE]
    if len(inadmissible) == len(verdicts):
        causes = {verdict.reason.rpartition(_IS_UNDEFINED)[2] for verdict in verdicts}
        return "No hypothesis can be judged" + (f": {_lowered(causes.pop())}" if len(causes) == 1 else ".")
    clauses = [
        (named[SUPPORTED], "is supported", "are supported"),
        (named[FALSIFIED], "is falsified", "are falsified"),
        (unsettled, "stays undecided", "stay undecided"),
        (amended, "was amended after runs existed", "were amended after runs existed"),
        (inadmissible, "cannot be judged", "cannot be judged"),
    ]
    said = [f"{listed(ids)} {one if len(ids) == 1 else many}" for ids, one, many in clauses if ids]
    return "; ".join(said) + "." + _survivors(verdicts)


def _survivors(verdicts: tuple[Verdict, ...]) -> str:
    """Say which of several rivals survive, where every one of them was judged."""
    if len(verdicts) < 2 or {v.verdict for v in verdicts} - {SUPPORTED, FALSIFIED, INCONCLUSIVE}:
        return ""
    left = [v.hypothesis.id for v in verdicts if v.verdict != FALSIFIED]
    if len(left) == len(verdicts):
        return " Both survive." if len(left) == 2 else " All of them survive."
    return f" {listed(left)} {'survives' if len(left) == 1 else 'survive'}." if left else " None survives."


def _lowered(sentence: str) -> str:
    starts_with_a_word = sentence[:1].isupper() and sentence[1:2].islower()
    return sentence[:1].lower() + sentence[1:] if starts_with_a_word else sentence
