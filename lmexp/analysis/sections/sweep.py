"""The first stage of a plan with a confirmation: what it chose, and what the best of it is worth without the luck."""

from typing import Any

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.omnibus import sentence
from lmexp.analysis.pictures import counted
from lmexp.analysis.sections.differences import source_rows
from lmexp.analysis.sections.shared import DASH, css_colour
from lmexp.analysis.sweeps import Competition


def sweep(analysis: Analysis) -> dict[str, Any] | None:
    """Return the sweep; None for a plan without a confirmation."""
    if analysis.sweep is None:
        return None
    fixed = analysis.sweep.fixed
    return {
        "rows": [_row(analysis, each) for each in analysis.sweep.competitions],
        "n": counted(len(analysis.source.seeds), "seed"),
        "gaps": analysis.sweep.choice.gaps,
        "edges": [each.name for each in analysis.sweep.competitions if each.at_edge],
        "fixed": _fixed_sentence(analysis) if fixed and fixed.tested and analysis.registered else "",
        "fixed_rows": source_rows(fixed.sources) if fixed and fixed.tested and analysis.registered else [],
    }


def _row(analysis: Analysis, found: Competition) -> dict[str, str]:
    """Return one competition: the choice, and the four ways to say what it is worth."""
    best, text = found.best, analysis.primary.text
    fresh = analysis.summaries[analysis.primary.name].get(found.name)
    return {
        "name": found.name,
        "colour": css_colour(analysis, found.name),
        "chosen": DASH if found.chosen is None else found.labels[found.arms.index(found.chosen)],
        **_best(analysis, found),
        "swept": text(best.swept),
        "fresh": DASH if fresh is None or fresh.mean is None else text(fresh.mean),
        "n_fresh": "" if fresh is None or not fresh.n else f"n = {fresh.n}",
        "notes": "; ".join(_notes(found)),
    }


def _best(analysis: Analysis, found: Competition) -> dict[str, str]:
    """Return what the best of several is worth; nothing where one alone was swept, for then nothing was chosen."""
    best, text = found.best, analysis.primary.text
    if len(found.arms) < 2:
        return {"naive": DASH, "held_out": DASH, "corrected": DASH, "folds": "nothing competed"}
    held_out = text(best.held_out)
    if best.low is not None and best.high is not None:
        held_out += f" [{text(best.low)}, {text(best.high)}]"
    folds = "" if best.n_same is None else f"{best.n_same} of {best.n_seeds} agree"
    return {"naive": text(best.naive), "held_out": held_out, "corrected": text(best.corrected), "folds": folds}


def _notes(found: Competition) -> list[str]:
    """Say what weakens a choice."""
    best = found.best
    flags = {
        "at the edge of the grid: a better level may lie outside": found.at_edge,
        "beside a level without a value at every seed": best.beside_gap,
        "tied with another level": best.tied,
        f"{best.n_left_out} levels left out, each with a run that diverged or is missing": best.n_left_out > 1,
        "1 level left out, with a run that diverged or is missing": best.n_left_out == 1,
        "not the best mean: within the smallest effect of interest, fewer parameters win": _is_by_size(found),
    }
    return [text for text, is_so in flags.items() if is_so]


def _is_by_size(found: Competition) -> bool:
    return found.chosen is not None and found.best.rate is not None and found.arms[found.best.rate] != found.chosen


def _fixed_sentence(analysis: Analysis) -> str:
    assert analysis.sweep is not None
    fixed, n_seeds = analysis.sweep.fixed, len(analysis.source.seeds)
    return sentence(fixed, analysis.plan.analysis.alpha, n_seeds) if fixed is not None else ""
