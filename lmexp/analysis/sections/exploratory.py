"""Runs that no promise covers: estimates with plain intervals. No verdicts, no tests, no p values."""

from typing import Any

from lmexp.analysis.analyse import Analysis, Exploration
from lmexp.analysis.cells import AS_PLANNED
from lmexp.analysis.sections.shared import DASH
from lmexp.statistics.estimates import Estimate

_MOST_GROUPS, _MOST_ARMS = 12, 60


def exploratory(analysis: Analysis) -> dict[str, Any] | None:
    """Return every group of runs beside the reported one; None when there is none."""
    shown = [each for each in analysis.explorations if each.accounting.n_launched]
    if not shown:
        return None
    return {
        "groups": [_group(analysis, each) for each in shown[:_MOST_GROUPS]],
        "n_more": max(0, len(shown) - _MOST_GROUPS),
    }


def _group(analysis: Analysis, found: Exploration) -> dict[str, Any]:
    title = found.title[:1].upper() + found.title[1:]
    arms = list(found.summaries)
    return {
        "title": title,
        "why": why(analysis, found),
        "launched": found.accounting.n_launched,
        "used": found.accounting.n_used,
        "unit": found.measure.unit,
        "label": found.measure.label,
        "control": analysis.source.control if found.differences else None,
        "is_log": found.measure.logarithmic,
        "rows": [_row(found, arm) for arm in arms[:_MOST_ARMS]],
        "n_more": max(0, len(arms) - _MOST_ARMS),
    }


def why(analysis: Analysis, found: Exploration) -> str:
    """Say why a group of runs is exploratory."""
    if found.accounting.settings == analysis.accounting.settings:
        return "The plan itself says that these arms run along without entering any test."
    if found.title == AS_PLANNED:
        return "These runs have the plan's own settings, but were made before its lock, or without one."
    if found.title.startswith("says that it is registered"):
        return "These runs claim to follow the lock. The claim does not hold, so they are not judged."
    if found.title.startswith("another version"):
        return "The plan or its configs were changed between these runs and those reported above."
    return "These runs were started with overrides that the plan does not leave free."


def _row(found: Exploration, arm: str) -> dict[str, str]:
    summary, measure = found.summaries[arm], found.measure
    return {
        "arm": arm,
        "n": f"{summary.n:,}",
        "mean": measure.text(summary.mean),
        "std": DASH if summary.std is None else measure.text(summary.std),
        **_difference(found, found.differences.get(arm)),
    }


def _difference(found: Exploration, gap: Estimate | None) -> dict[str, str]:
    if gap is None or gap.value is None:
        return {"difference": DASH, "interval": ""}
    write = found.measure.gap
    interval = f"{write(gap.low)} to {write(gap.high)}" if gap.has_interval else f"undefined: {gap.undefined}"
    return {"difference": write(gap.value), "interval": interval}
