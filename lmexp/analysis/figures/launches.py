"""Timing traces: the time of a step over every launch, and where the plan's rule says that it had settled."""

from collections.abc import Sequence

import numpy as np

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.chart import TIME_STEPS, Axis, Canvas, Panel, shortened, tiles
from lmexp.analysis.colours import ACCENT, CONTROL, INK, arm_colours
from lmexp.analysis.pictures import WIDE, Picture, evenly, picture, sample_text, seeds_text
from lmexp.analysis.speeds import LaunchSpeed

_MOST_LAUNCHES = 60  # in all
_MOST_ARMS = 24


def traces_plot(analysis: Analysis) -> Picture | None:
    """Draw one panel per arm: the step times of its launches, the cut of each, and their steady medians.

    None for a plan without a warm-up rule, and without launches.
    """
    launches = analysis.speeds.launches if analysis.speeds else ()
    if not launches:
        return None
    by_arm = {arm: [each for each in launches if each.arm == arm] for arm in analysis.plan.arms}
    by_arm = {arm: found for arm, found in by_arm.items() if found}
    shown = {arm: by_arm[arm] for arm in evenly(list(by_arm), _MOST_ARMS)}
    most = max(1, _MOST_LAUNCHES // len(shown))
    n = max(map(len, by_arm.values()))
    caption = (
        f"Time of a step within each launch ({seeds_text([len(found) for found in by_arm.values()])}). The upright "
        f"line is where the plan's rule ({analysis.plan.analysis.warm_up}) ends the warm-up; the level line is the "
        "median of what follows, the launch's speed. Grey: cut off, or without a steady state."
        f"{sample_text(min(n, most), n, 'launches per arm')}{sample_text(len(shown), len(by_arm), 'arms')}"
    )
    alt = "Step times over each launch. " + " ".join(f"{arm}: {_said(found)}." for arm, found in shown.items())
    drawn = {arm: evenly(found, most) for arm, found in shown.items()}
    return picture("traces", alt, caption, lambda width: _traces(analysis, drawn, width))


def _said(launches: Sequence[LaunchSpeed]) -> str:
    medians = [each.launch.median for each in launches if each.launch.median is not None]
    settled = f"{len(medians)} of {len(launches)} launches settled"
    return f"{settled}, median step {np.median(medians) * 1000:.3g} ms" if medians else settled


def _traces(analysis: Analysis, by_arm: dict[str, list[LaunchSpeed]], width: float) -> Canvas:
    columns, each = (3, 110.0) if width == WIDE else (1 if len(by_arm) == 1 else 2, 96.0)
    height, places = tiles(len(by_arm), width, columns, each, left=46, gap=44)
    canvas, colour = Canvas(width, height + 4), arm_colours(analysis.plan.arms, analysis.plan.control)
    for tile, (arm, launches) in zip(places, by_arm.items(), strict=True):
        last = max(float(each.seconds[-1]) for each in launches)
        x = Axis(0.0, last, tile.left, tile.right, steps=TIME_STEPS)
        panel = canvas.panel(x, Axis(*_ends(launches), tile.bottom, tile.top))
        panel.rules(4)
        panel.scale_below(4 if width == WIDE else 3)
        panel.title(shortened(arm, tile.right - tile.left, 12, True), colour[arm], bold=True, lift=8, size=12)
        for each_launch in launches:
            _draw(panel, each_launch, INK if colour[arm] == CONTROL else colour[arm])
    canvas.text(0, 14, "Milliseconds per step")
    canvas.text(width - 10, height - 2, "counted seconds of the launch", anchor="end")
    return canvas


def _ends(launches: Sequence[LaunchSpeed]) -> tuple[float, float]:
    """Return an axis for an arm's step times; single slow windows may leave it at the top."""
    times = np.concatenate([each.step_seconds for each in launches]) * 1000
    settled = np.concatenate([each.step_seconds[each.launch.n_cut or 0 :] for each in launches]) * 1000
    low, high = float(times.min()), float(np.quantile(settled, 0.99))
    reach = max(high - low, 0.02 * high)
    top = min(float(times.max()), high + 1.5 * reach)
    return low - 0.15 * reach, top + 0.15 * reach


def _draw(panel: Panel, found: LaunchSpeed, colour: str) -> None:
    """Draw one launch: what was cut off in grey, the rest in colour, with its cut and its median."""
    cut, times = found.launch.n_cut, found.step_seconds * 1000
    if cut is None or found.launch.median is None:
        panel.line(found.seconds, times, CONTROL, 0.9, opacity=0.8, dash="2 2")
        return
    panel.line(found.seconds[: cut + 1], times[: cut + 1], CONTROL, 0.9, opacity=0.8)
    panel.line(found.seconds[cut:], times[cut:], colour, 0.9, opacity=0.7)
    end = float(found.seconds[cut - 1]) if cut else 0.0
    if cut:
        panel.upright(end, ACCENT, 1.2)
    median = found.launch.median * 1000
    panel.line(np.array([end, found.seconds[-1]]), np.array([median, median]), INK, 1.2)
