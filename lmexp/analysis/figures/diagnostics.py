"""Residuals against what was fitted and against the order of runs: a pattern there would speak against the model."""

import numpy as np

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.chart import Axis, Canvas, Panel, factor_texts, span, tick_texts
from lmexp.analysis.colours import INK, arm_colours
from lmexp.analysis.diagnostics import Residuals, residuals
from lmexp.analysis.pictures import WIDE, Picture, counted, evenly, picture, sample_text

_MOST_RUNS = 400


def diagnostics_plot(analysis: Analysis) -> Picture | None:
    """Draw the residuals of the blocked fit twice. None with fewer than two arms or two complete seeds."""
    found = residuals(analysis)
    if found is None:
        return None
    n = len(found.order)
    caption = (
        f"What is left of each of n = {counted(n, 'run')} when arm and seed are taken out, against the fitted value "
        "and in order of start. A funnel would speak against one common error, a slope or a wave against runs that do "
        f"not influence each other.{sample_text(min(n, _MOST_RUNS), n, 'runs')}"
    )
    largest = int(np.abs(found.residual).argmax())
    alt = (
        f"Residuals of {analysis.primary.label.lower()}. The largest belongs to {found.arms[largest]} seed "
        f"{found.seeds[largest]}: {analysis.primary.gap(float(found.residual[largest]))} "
        f"{analysis.primary.gap_unit}".rstrip()
        + "."
    )
    return picture("diagnostics", alt, caption, lambda width: _diagnostics(analysis, found, width))


def _diagnostics(analysis: Analysis, found: Residuals, width: float) -> Canvas:
    is_wide = width == WIDE
    each, gap = ((width - 62 - 10 - 70) / 2, 70.0) if is_wide else (width - 62 - 10, 0.0)
    canvas = Canvas(width, 250 if is_wide else 478)
    y_ends, x_ends = span(_shown(analysis, found.residual, True), 0.12, analysis.primary.logarithmic), (
        span(_shown(analysis, found.fitted, False), log=analysis.primary.logarithmic), (0.4, len(found.order) + 0.6),
    )  # fmt: skip
    titles = (
        f"fitted {analysis.primary.label.lower()}, {analysis.primary.unit}".rstrip(", "),
        "run, in order of start",
    )
    for place, (ends, title) in enumerate(zip(x_ends, titles, strict=True)):
        left = 62 + (each + gap) * place if is_wide else 62.0
        top = 34.0 if is_wide else 34.0 + 230 * place
        is_log = analysis.primary.logarithmic
        x = Axis(*ends, left, left + each, is_log and place == 0)
        panel = canvas.panel(x, Axis(*y_ends, top + 160, top, is_log))
        _frame(panel, analysis, title)
        _draw(panel, analysis, found, by_order=place == 1)
    return canvas


def _shown(analysis: Analysis, values: np.ndarray, is_residual: bool) -> np.ndarray:
    """Return what the axis shows: ratios and values of speeds and durations, else the measure's own unit."""
    primary = analysis.primary
    if primary.logarithmic:
        return np.exp(values) * (1.0 if is_residual else primary.scale)
    return values * primary.scale


def _frame(panel: Panel, analysis: Analysis, title: str) -> None:
    is_log, primary = analysis.primary.logarithmic, analysis.primary
    panel.rules(4, factor_texts if is_log else tick_texts)
    panel.scale_below(4 if panel.canvas.width == WIDE else 3, title=title)
    panel.level(1.0 if is_log else 0.0, INK)
    panel.title("Residual, as a ratio" if is_log else f"Residual, {primary.unit}".rstrip(", "), lift=12)


def _draw(panel: Panel, analysis: Analysis, found: Residuals, by_order: bool) -> None:
    colour = arm_colours(analysis.plan.arms, analysis.plan.control)
    kept = np.array(evenly(range(len(found.order)), _MOST_RUNS))
    xs = (found.order.astype(float) if by_order else _shown(analysis, found.fitted, False))[kept]
    ys, arms = _shown(analysis, found.residual, True)[kept], np.array(found.arms, dtype=object)[kept]
    for arm in dict.fromkeys(found.arms):
        panel.dots(xs[arms == arm], ys[arms == arm], colour[arm], 3 if len(kept) < 100 else 1.8, opacity=0.85)
