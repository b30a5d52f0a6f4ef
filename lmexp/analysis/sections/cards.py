"""The verdict cards: claim, prediction, estimates against their regions, what could have been found, and the plan."""

from collections.abc import Sequence
from typing import Any

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.findings import (
    Detectable,
    contrast_detectable,
    effect_as_share,
    omnibus_detectable,
    omnibus_effect_text,
)
from lmexp.analysis.sections.shared import short
from lmexp.analysis.strips import Scale, scale_of, verdict_strip
from lmexp.analysis.tables import interval_text
from lmexp.analysis.verdicts import DEVIATED, EXPLORATORY, Reading, Verdict
from lmexp.criteria import Term
from lmexp.statistics.estimates import Estimate

GLYPHS = {"SUPPORTED": "✓", "FALSIFIED": "✕", "INCONCLUSIVE": "?", "INADMISSIBLE": "∅", DEVIATED: "≠", EXPLORATORY: "○"}

_Kind = tuple[str, str | None]


def cards(analysis: Analysis) -> dict[str, Any] | None:
    """Return one card per hypothesis; None for a plan without any."""
    if not analysis.verdicts:
        return None
    scales = _scales(analysis.verdicts)
    found = [_card(analysis, verdict, scales) for verdict in analysis.verdicts]
    return {
        "cards": found,
        "columns": _columns(found),
        "intro": _intro(analysis),
    }


def _intro(analysis: Analysis) -> str:
    if not analysis.registered:
        return "No criterion is read: these are the estimates that the plan's hypotheses would rest on."
    how = (
        "A criterion holds when the whole interval of its estimate lies inside its region, and fails when the whole "
        "interval lies outside. Anything else stays undecided."
    )
    return f"{how} The protocol was not met, so no criterion is read." if analysis.breach else how


def _scales(verdicts: Sequence[Verdict]) -> dict[_Kind, Scale]:
    """Return one scale for each kind of estimate over all cards: a bound stands at the same place wherever it is."""
    readings = [reading for verdict in verdicts for reading in verdict.supporting + verdict.falsifying]
    return {kind: _common_scale(readings, kind) for kind in {_kind(reading.comparison.term) for reading in readings}}


def _kind(term: Term) -> _Kind:
    return term.name, term.metric


def _common_scale(readings: Sequence[Reading], kind: _Kind) -> Scale:
    alike = [reading for reading in readings if _kind(reading.comparison.term) == kind]
    return scale_of([r.estimate for r in alike], [r.comparison.threshold for r in alike])


def _card(analysis: Analysis, verdict: Verdict, scales: dict[_Kind, Scale]) -> dict[str, Any]:
    strips = [_strip(verdict, term, estimate, scales[_kind(term)]) for term, estimate in verdict.estimates.items()]
    is_explained = verdict.verdict != EXPLORATORY and not analysis.breach
    return {
        "verdict": verdict,
        "glyph": GLYPHS[verdict.verdict],
        "reason": verdict.reason if is_explained else "",
        "reading": verdict.reading if verdict.verdict == DEVIATED else None,
        "strips": strips,
        "detectable": detectable_text(analysis, verdict),
        "plan": _plan_text(analysis),
    }


def detectable_text(analysis: Analysis, verdict: Verdict) -> str:
    """Say which effect the planned test would have found 8 times in 10, in the measures that the criteria name."""
    metrics = dict.fromkeys(term.metric for term in verdict.estimates)
    found = [able for metric in metrics if (able := contrast_detectable(analysis, metric)) is not None]
    if found:
        return "; ".join(_able_text(analysis, able) for able in found)
    whole = omnibus_detectable(analysis)
    if whole is None:
        return "not known, for want of a planned test with an error to go by"
    return f"{omnibus_effect_text(whole)} of {whole.text} or more, by the omnibus test"


def _able_text(analysis: Analysis, able: Detectable) -> str:
    share = effect_as_share(analysis, able) if able.measure.name == analysis.primary.name else None
    part = f" ({share} of the whole improvement)" if share else ""
    name = "" if able.measure.name == analysis.primary.name else f" in {able.measure.label.lower()}"
    return f"{able.text}{name} or more{part}"


def _plan_text(analysis: Analysis) -> str:
    if analysis.lock and analysis.registered:
        return f"plan {short(analysis.lock.current.plan_sha256)}, lock {short(analysis.lock.current.sha256)}"
    return f"plan {short(analysis.source.sha256)}, not registered"


def _columns(found: Sequence[dict[str, Any]]) -> int:
    """Return how many cards stand side by side, so that no row has a hole; cards with many strips stand alone."""
    narrow = sum(len(card["strips"]) <= 2 for card in found)
    return 1 if narrow < 2 else 3 if narrow % 3 == 0 else 2


def _strip(verdict: Verdict, term: Term, estimate: Estimate, scale: Scale) -> dict[str, str]:
    supporting = [r.comparison for r in verdict.supporting if r.comparison.term == term]
    falsifying = [r.comparison for r in verdict.falsifying if r.comparison.term == term]
    text = interval_text(estimate, _places(term, estimate))
    regions = [f"supports if {c}" for c in supporting] + [f"falsifies if {c}" for c in falsifying]
    alt = f"{term}: {text}; {'; '.join(regions)}"
    n = f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{estimate.n_seeds:,}"
    svg = verdict_strip(estimate, supporting, falsifying, scale, alt)
    return {"term": str(term), "text": text, "n": n, "svg": svg}


def _places(term: Term, estimate: Estimate) -> int:
    """Return decimals that show about two figures of the interval's width."""
    if term.name in ("share", "ratio"):
        return 2
    width = abs((estimate.high or 0.0) - (estimate.low or 0.0)) or abs(estimate.value or 1.0)
    return 0 if width > 100 else 1 if width > 10 else 2 if width > 1 else 4
