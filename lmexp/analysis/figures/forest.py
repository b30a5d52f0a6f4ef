"""The forest plot: every arm's difference from the control with its simultaneous interval, and what that shows."""

from collections.abc import Sequence

import numpy as np

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.chart import Axis, Canvas, Panel, factor_texts, shortened, tick_texts
from lmexp.analysis.colours import INK, MUTED, arm_colours
from lmexp.analysis.desk import AgainstControl
from lmexp.analysis.figures.estimation import gap_title
from lmexp.analysis.findings import finding, is_tested, margin_of
from lmexp.analysis.pictures import WIDE, Picture, counted, picture
from lmexp.analysis.strips import scale_of


def forest_plot(analysis: Analysis) -> Picture | None:
    """Draw one row per arm: its interval against no difference and against the smallest effect of interest.

    None without two intervals to compare by eye.
    """
    found = [c for c in analysis.comparisons[analysis.primary.name] if c.difference.shown.has_interval]
    if len(found) < 2:
        return None
    alt = f"Differences from {analysis.plan.control}. " + " ".join(
        f"{c.arm}: {_interval_text(analysis, c)}{', ' + finding(analysis, c) if is_tested(analysis) else ''}."
        for c in found
    )
    kind = "hold for all arms together" if found[0].difference.simultaneous else "hold for one arm alone"
    caption = (
        f"The difference of every arm from {analysis.plan.control} over n = {counted(len(analysis.complete), 'seed')}; "
        f"{analysis.confidence:.0%} intervals, which {kind}."
    )
    if margin_of(analysis):
        caption += " Shaded: smaller than the smallest effect of interest."
    return picture("forest", alt, caption, lambda width: _forest(analysis, found, width))


def _interval_text(analysis: Analysis, found: AgainstControl) -> str:
    shown, primary = found.difference.shown, analysis.primary
    return f"{primary.gap(shown.value)} [{primary.gap(shown.low)}, {primary.gap(shown.high)}]"


def _forest(analysis: Analysis, found: Sequence[AgainstControl], width: float) -> Canvas:
    is_wide = width == WIDE
    row = 30.0 if is_wide else 52.0
    left, right = (150.0, width - 372) if is_wide else (6.0, width - 6)
    top = 34.0
    canvas = Canvas(width, top + row * len(found) + 40)
    panel = canvas.panel(_axis(analysis, found, left, right), Axis(len(found), 0, top + row * len(found), top))
    _frame(panel, analysis)
    panel.title(gap_title(analysis), lift=14)
    colour = arm_colours(analysis.plan.arms, analysis.plan.control)
    for place, comparison in enumerate(found):
        own, y = colour[comparison.arm], place + (0.5 if is_wide else 0.66)
        _draw_row(panel, analysis, comparison, y, own)
        words = finding(analysis, comparison) if is_tested(analysis) else ""
        base = top + row * place
        if is_wide:
            canvas.text(0, base + 19, shortened(comparison.arm, left - 12, 12, True), own, size=12, bold=True)
            canvas.text(right + 18, base + 13, _interval_text(analysis, comparison), INK)
            canvas.text(right + 18, base + 26, words, MUTED)
        else:
            canvas.text(left, base + 15, shortened(comparison.arm, 130, 12, True), own, size=12, bold=True)
            panel.label(panel.x.high, place + 0.22, shortened(words, 230, 10.5), MUTED, anchor="end", size=10.5)
    return canvas


def _axis(analysis: Analysis, found: Sequence[AgainstControl], left: float, right: float) -> Axis:
    margin, is_log = margin_of(analysis), analysis.primary.logarithmic
    ends = [-margin, 0.0, margin] if margin else [0.0]
    scale = scale_of([c.difference.shown for c in found], ends)
    if is_log:
        return Axis(float(np.exp(scale.low)), float(np.exp(scale.high)), left, right, log=True)
    return Axis(scale.low * analysis.primary.scale, scale.high * analysis.primary.scale, left, right)


def _frame(panel: Panel, analysis: Analysis) -> None:
    primary, margin = analysis.primary, margin_of(analysis)
    if margin:
        ends = np.array([-margin, margin])
        low, high = (np.exp(ends) if primary.logarithmic else ends * primary.scale).tolist()
        panel.shade(x=(low, high), opacity=0.6)
    about = 6 if panel.canvas.width == WIDE else 4
    panel.columns(about)
    panel.scale_below(about, factor_texts if primary.logarithmic else tick_texts)
    panel.upright(1.0 if primary.logarithmic else 0.0, INK)


def _draw_row(panel: Panel, analysis: Analysis, found: AgainstControl, y: float, colour: str) -> None:
    shown, is_log = found.difference.shown, analysis.primary.logarithmic
    known = np.array([shown.value, shown.low, shown.high], dtype=float)
    value, low, high = (np.exp(known) if is_log else known * analysis.primary.scale).tolist()
    panel.across(y, low, high, colour, 3)
    panel.dots(np.array([value]), np.array([y]), colour, 4.6)
