"""How launches settled: what the plan's warm-up rule cut off, and what is left to measure a speed by."""

from typing import Any

import numpy as np

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.sections.shared import DASH, bounded, css_colour
from lmexp.analysis.speeds import LaunchSpeed


def launches(analysis: Analysis) -> dict[str, Any] | None:
    """Return one row per arm; None for a plan without a warm-up rule."""
    if analysis.speeds is None or not (analysis.speeds.launches or analysis.speeds.without):
        return None
    by_arm: dict[str, list[LaunchSpeed]] = {arm: [] for arm in analysis.plan.arms}
    for each in analysis.speeds.launches:
        by_arm[each.arm].append(each)
    return {
        "rows": [_row(analysis, arm, found) for arm, found in by_arm.items() if found],
        "rule": analysis.plan.analysis.warm_up,
        "unsettled": bounded([each.run_id for each in analysis.speeds.unsettled], 6),
        "without": bounded(list(analysis.speeds.without), 6),
    }


def _row(analysis: Analysis, arm: str, found: list[LaunchSpeed]) -> dict[str, str]:
    settled = [each.launch for each in found if each.launch.median is not None]
    cuts = [each.n_cut for each in settled if each.n_cut is not None]
    worth = [each.n_effective for each in settled if each.n_effective is not None]
    medians = [each.median * 1000 for each in settled if each.median is not None]
    return {
        "arm": arm,
        "colour": css_colour(analysis, arm),
        "n": f"{len(settled):,} of {len(found):,}",
        "cut": _range(cuts, "{:,.0f}"),
        "windows": _range([each.launch.n_windows for each in found], "{:,.0f}"),
        "worth": _range(worth, "{:,.0f}"),
        "median": f"{np.exp(np.mean(np.log(medians))):,.4g}" if medians else DASH,
        "spread": _range(medians, "{:,.4g}"),
    }


def _range(values: list[Any], form: str) -> str:
    """Return one value, or the smallest to the largest."""
    if not values:
        return DASH
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
