"""The arms: means and spreads of every measure, and the differences in the measures that do not decide."""

from typing import Any

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.findings import is_tested
from lmexp.analysis.measures import Measure
from lmexp.analysis.sections.differences import contrast_row
from lmexp.analysis.sections.shared import DASH, css_colour
from lmexp.analysis.strips import scale_of


def arms(analysis: Analysis) -> dict[str, Any]:
    """Return one row per arm."""
    primary = analysis.primary
    summaries = analysis.summaries[primary.name]
    return {
        "rows": [_arm_row(analysis, arm) for arm in analysis.plan.arms],
        "has_spread": any(summary.std is not None for summary in summaries.values()),
    }


def _arm_row(analysis: Analysis, arm: str) -> dict[str, Any]:
    primary = analysis.primary
    summary = analysis.summaries[primary.name][arm]
    return {
        "arm": arm,
        "colour": css_colour(analysis, arm),
        "is_control": arm == analysis.plan.control,
        "n": f"{summary.n:,}",
        "mean": primary.text(summary.mean),
        "std": primary.text(summary.std),
        "others": [_mean_text(analysis, measure, arm) for measure in analysis.measures[1:]],
    }


def _mean_text(analysis: Analysis, measure: Measure, arm: str) -> str:
    mean = analysis.summaries[measure.name][arm].mean
    return DASH if mean is None else measure.text(mean)


def secondary(analysis: Analysis) -> dict[str, Any] | None:
    """Return the other measures' differences from the control, one group per measure."""
    groups = [
        _group(measure, [contrast_row(analysis, c, scale_of([], [0.0, 1.0])) for c in found])
        for measure in analysis.measures[1:]
        if (found := analysis.comparisons.get(measure.name, ()))
    ]
    if not groups:
        return None
    return {
        "groups": groups,
        "is_used": any(term.metric for verdict in analysis.verdicts for term in verdict.estimates),
        "tested": is_tested(analysis),
    }


def _group(measure: Measure, rows: list[dict[str, Any]]) -> dict[str, Any]:
    direction = f", {measure.direction} is better" if measure.direction else ""
    scale = "; ratios to the control" if measure.logarithmic else ""
    unit = f", {measure.unit}" if measure.unit else ""
    return {
        "title": f"{measure.label}{unit}{direction}{scale}",
        "rows": rows,
        "has_intervals": any(row["has_interval"] for row in rows),
        "logarithmic": measure.logarithmic,
    }
