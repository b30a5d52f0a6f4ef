"""The verdicts, and what they rest on, as plain data for ``verdicts.json``; what is undefined is null, never 0."""

from typing import Any

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.findings import Detectable, contrast_detectable, detectables, finding, is_tested, statements
from lmexp.analysis.sections.accounting import populations
from lmexp.analysis.verdicts import Verdict
from lmexp.criteria import Term
from lmexp.lock import Entry
from lmexp.statistics.estimates import Estimate


def verdicts_record(analysis: Analysis) -> dict[str, Any]:
    """Return all that a program may want to know of the report."""
    return {
        "plan": _plan(analysis),
        "registered": analysis.registered,
        "lock": _lock(analysis),
        "joint_reading": analysis.joint,
        "answer": analysis.answer,
        "statements": statements(analysis),
        "verdicts": [_verdict(analysis, verdict) for verdict in analysis.verdicts],
        "differences": [_difference(analysis, found) for found in analysis.comparisons[analysis.primary.name]],
        "detectable": [_detectable(able) for able in detectables(analysis)],
        "blocked_error": analysis.blocked_error,
        "sweep": _sweep(analysis),
        "breach": analysis.breach,
        "cells": {"planned": len(analysis.accounting.cells), **analysis.accounting.states},
        "runs": _runs(analysis),
        "remarks": list(analysis.remarks),
    }


def _plan(analysis: Analysis) -> dict[str, Any]:
    source = analysis.source
    return {
        "name": source.name,
        "question": source.question,
        "sha256": source.sha256,
        "primary": vars(source.primary),
        "alpha": source.analysis.alpha,
        "deviations": list(source.deviations),
        "references": list(source.references),
    }


def _lock(analysis: Analysis) -> dict[str, Any] | None:
    """Return the chain of entries, without the plans and cells that they hold."""
    lock = analysis.lock
    if lock is None:
        return None
    first, *amendments = map(_entry, lock.entries)
    return {"sha256": lock.current.sha256, "locked": first, "amendments": amendments, "faults": lock.faults()}


def _entry(entry: Entry) -> dict[str, Any]:
    keys = ("kind", "at", "reason", "runs_existed", "sha256", "plan_sha256", "previous", "git_commit", "lmexp_version")
    return {key: getattr(entry, key) for key in keys}


def _verdict(analysis: Analysis, verdict: Verdict) -> dict[str, Any]:
    metrics = dict.fromkeys(term.metric for term in verdict.estimates)
    found = [able for metric in metrics if (able := contrast_detectable(analysis, metric)) is not None]
    return {
        "id": verdict.hypothesis.id,
        "claim": verdict.hypothesis.claim,
        "verdict": verdict.verdict,
        "reading": verdict.reading,
        "reason": verdict.reason,
        "bare_threshold_reading": verdict.bare,
        "supported_if": {"criterion": verdict.hypothesis.supported_if, "truth": verdict.support},
        "falsified_if": {"criterion": verdict.hypothesis.falsified_if, "truth": verdict.falsification},
        "estimates": [_estimate(term, estimate) for term, estimate in verdict.estimates.items()],
        "detectable": [_detectable(able) for able in found],
    }


def _estimate(term: Term, estimate: Estimate) -> dict[str, Any]:
    return {"term": str(term), **vars(estimate)}


def _detectable(able: Detectable) -> dict[str, Any]:
    """Return what a test could find; ``effect`` is on ``scale``, in the metric's unit or as a logarithm."""
    reach = able.reach
    return {
        "test": reach.name,
        "metric": able.measure.name,
        "power": reach.detectable.power if reach.detectable else None,
        "effect_in_sigma_e": reach.detectable.effect if reach.detectable else None,
        "effect": able.effect,
        "scale": "logarithm" if able.measure.logarithmic else "metric",
        "error": able.error,
        "alpha": reach.alpha,
        "smallest_p": reach.smallest_p if reach.smallest_p <= 1 else None,
        "can_reject": reach.can_reject,
    }


def _difference(analysis: Analysis, found: Any) -> dict[str, Any]:
    """Return an arm's difference from the control, with what is shown of it; p values of registered runs only."""
    shown, against, tested = found.difference.shown, analysis.equivalences.get(found.arm), is_tested(analysis)
    return {
        "arm": found.arm,
        "control": analysis.plan.control,
        "metric": found.measure.name,
        "scale": "logarithm" if found.measure.logarithmic else "metric",
        "estimate": vars(shown),
        "p_adjusted": found.difference.p_adjusted if tested else None,
        "finding": finding(analysis, found) if tested else None,
        "equivalence": vars(against) if against is not None and analysis.registered else None,
    }


def _sweep(analysis: Analysis) -> dict[str, Any] | None:
    if analysis.sweep is None:
        return None
    return {
        "chosen": dict(analysis.sweep.choice.chosen),
        "gaps": list(analysis.sweep.choice.gaps),
        "competitions": [
            {"name": each.name, "arms": list(each.arms), "chosen": each.chosen, "at_edge": each.at_edge}
            | {"best": vars(each.best)}
            for each in analysis.sweep.competitions
        ],
    }


def _runs(analysis: Analysis) -> dict[str, Any]:
    found = analysis.accounting
    return {
        "launched": found.n_launched,
        "used": found.n_used,
        "left_out": len(found.left_out),
        "reported": found.settings,
        "populations": populations(analysis),
    }
