"""The estimation plot: every seed with its paired slope from the control, and beneath it the differences."""

from collections.abc import Sequence

import numpy as np

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.chart import Axis, Canvas, Panel, factor_texts, shortened, span, text_width, tick_texts
from lmexp.analysis.colours import CONTROL, GRID, INK, MUTED, arm_colours
from lmexp.analysis.desk import AgainstControl
from lmexp.analysis.findings import margin_of, margin_text
from lmexp.analysis.pictures import WIDE, Picture, counted, evenly, picture, sample_text, seeds_text

_MOST_SEEDS = 60  # of one arm: beyond, slopes are a grey smear and a heavy page


def estimation_plot(analysis: Analysis) -> Picture | None:
    """Draw every seed with paired slopes from the control, and beneath each arm its difference with the interval.

    Speeds and durations stand on logarithmic axes, their differences as ratios. Without a control only the seeds and
    means are drawn. None with fewer than two runs: one number needs no figure.
    """
    if analysis.accounting.n_used < 2:
        return None
    primary = analysis.primary
    shown = [c for c in analysis.comparisons[primary.name] if c.difference.alone.value is not None]
    if not shown:
        return _seeds_plot(analysis)
    alt = f"{primary.label} of each arm against {analysis.plan.control}. " + " ".join(
        f"{c.arm}: {primary.gap(c.difference.alone.value)} {primary.gap_unit}".rstrip() + "." for c in shown
    )
    return picture("estimation", alt, _caption(analysis, shown), lambda width: _estimation(analysis, shown, width))


def _caption(analysis: Analysis, shown: Sequence[AgainstControl]) -> str:
    control, primary, n = analysis.plan.control, analysis.primary, len(analysis.complete)
    what = "ratio to" if primary.logarithmic else "difference from"
    better = {"lower": "below", "higher": "above"}.get(primary.direction or "", "")
    side = f": {better} {'1' if primary.logarithmic else 'zero'} is better" if better else ""
    difference = shown[0].difference
    bar = f"the bar its {analysis.confidence:.0%} {'simultaneous ' if difference.simultaneous else ''}interval"
    if not difference.shown.has_interval:
        bar = "its interval is undefined"
    return (
        f"Every dot is one run; a line joins {control} and the arm at the same seed. Beneath, the {what} {control} "
        f"over n = {counted(n, 'complete seed')}{side}. Small dots are single seeds, the large one is their mean, "
        f"{bar}.{sample_text(min(n, _MOST_SEEDS), n)}{_band_text(analysis)}"
    )


def _band_text(analysis: Analysis) -> str:
    if margin_of(analysis) is None:
        return ""
    said = margin_text(analysis)
    return f" The shaded band holds what is smaller than the plan's smallest effect of interest ({said})."


def _estimation(analysis: Analysis, shown: Sequence[AgainstControl], width: float) -> Canvas:
    """Draw bands of arms, one beneath the other; in each the values above and the differences below."""
    per_band, height = (6, 440.0) if width == WIDE else (3, 410.0)
    bands = [shown[start : start + per_band] for start in range(0, len(shown), per_band)]
    canvas, columns = Canvas(width, height * len(bands)), min(per_band, len(shown))
    right = min(width - 6, 62 + 230.0 * columns)
    x = Axis(-0.5, columns - 0.4, 62, right)
    values, gaps = _value_ends(analysis, shown), _gap_ends(analysis, shown)
    log = analysis.primary.logarithmic
    for place, band in enumerate(bands):
        top = place * height
        above = canvas.panel(x, Axis(*values, top + 0.53 * height, top + 56, log))
        below = canvas.panel(x, Axis(*gaps, top + height - 14, top + 0.53 * height + 42, log))
        _draw_pairs(above, analysis, band)
        _draw_gaps(below, analysis, band)
    return canvas


def _value_ends(analysis: Analysis, shown: Sequence[AgainstControl]) -> tuple[float, float]:
    pairs = [_pairs(analysis, comparison.arm) for comparison in shown]
    return span(np.concatenate(pairs) * analysis.primary.scale, log=analysis.primary.logarithmic)


def _pairs(analysis: Analysis, arm: str) -> np.ndarray:
    """Return (seeds, 2): the control's value and the arm's; NaN, which is not drawn, where a run has none."""
    summaries = analysis.summaries[analysis.primary.name]
    return np.array([summaries[str(analysis.plan.control)].values, summaries[arm].values], dtype=float).T


def _on_axis(analysis: Analysis, gaps: np.ndarray | list[float | None]) -> np.ndarray:
    """Return differences as the axis shows them: in the measure's unit, or as ratios."""
    known = np.array(gaps, dtype=float)
    return np.exp(known) if analysis.primary.logarithmic else known * analysis.primary.scale


def _gap_ends(analysis: Analysis, shown: Sequence[AgainstControl]) -> tuple[float, float]:
    """Return the ends of the axis of differences: all that is drawn, but no interval that would dwarf it."""
    points = np.concatenate([_on_axis(analysis, [0.0, *c.paired]) for c in shown])
    low, high = span(points, 0.0, analysis.primary.logarithmic)
    limits = _on_axis(analysis, [limit for c in shown for limit in (c.difference.shown.low, c.difference.shown.high)])
    if analysis.primary.logarithmic:
        limits = np.clip(limits, low * (low / high) ** 1.5, high * (high / low) ** 1.5)
    else:
        limits = np.clip(limits, low - 1.5 * (high - low), high + 1.5 * (high - low))
    return span(np.concatenate([points, limits]), log=analysis.primary.logarithmic)


def _draw_pairs(panel: Panel, analysis: Analysis, band: Sequence[AgainstControl]) -> None:
    """Draw control and arm side by side, joined seed by seed."""
    colour, scale = arm_colours(analysis.plan.arms, analysis.plan.control), analysis.primary.scale
    panel.rules()
    panel.title(f"{analysis.primary.label}, {analysis.primary.unit}".rstrip(", "), lift=30)
    for x, comparison in enumerate(band):
        pairs = np.array(evenly(_pairs(analysis, comparison.arm).tolist(), _MOST_SEEDS)) * scale
        lifted = np.column_stack([pairs, np.full(len(pairs), np.nan)]).ravel()  # the pen leaves between seeds
        panel.line(np.tile([x - 0.2, x + 0.2, x], len(pairs)), lifted, MUTED, 1, opacity=0.55)
        panel.dots(np.full(len(pairs), x - 0.2), pairs[:, 0], CONTROL, 3.2, hollow=True)
        panel.dots(np.full(len(pairs), x + 0.2), pairs[:, 1], colour[comparison.arm], 3.2)
        room = panel.x.place(1) - panel.x.place(0) - 8
        panel.above(x, shortened(comparison.arm, room, 12, bold=True), colour[comparison.arm], size=12)


def _draw_gaps(panel: Panel, analysis: Analysis, band: Sequence[AgainstControl]) -> None:
    """Draw the differences with their intervals around no difference."""
    primary, margin = analysis.primary, margin_of(analysis)
    colour = arm_colours(analysis.plan.arms, analysis.plan.control)
    if margin:
        low, high = _on_axis(analysis, [-margin, margin]).tolist()
        panel.shade(y=(low, high), colour=GRID)
    panel.rules(write=factor_texts if primary.logarithmic else tick_texts)
    panel.level(float(_on_axis(analysis, [0.0])[0]), INK)
    panel.title(gap_title(analysis), lift=12)
    for x, comparison in enumerate(band):
        shown, own = comparison.difference.shown, colour[comparison.arm]
        single = _on_axis(analysis, evenly(comparison.paired, _MOST_SEEDS))
        panel.dots(np.full(len(single), x - 0.2), single, own, 1.9, opacity=0.65)
        value, low, high = _on_axis(analysis, [shown.value, shown.low, shown.high]).tolist()
        if shown.has_interval:
            panel.interval(x, low, high, own)
        panel.dots(np.array([x]), np.array([value]), own, 4)
        text = primary.gap(shown.value)
        size = 11 if text_width(text) < 0.42 * (panel.x.place(1) - panel.x.place(0)) else 10
        panel.label(x, value, text, INK, size=size, nudge=(8, 0))


def gap_title(analysis: Analysis) -> str:
    """Return what the axis of differences shows."""
    primary, control = analysis.primary, analysis.plan.control
    if primary.logarithmic:
        return f"Ratio to {control} (logarithmic)"
    return f"Difference from {control}, {primary.unit}".rstrip(", ")


def _seeds_plot(analysis: Analysis) -> Picture:
    """Draw every seed and the mean of every arm, when there is nothing to compare with."""
    primary, summaries = analysis.primary, analysis.summaries[analysis.primary.name]
    n = max(summary.n for summary in summaries.values())
    runs = seeds_text([summary.n for summary in summaries.values()])
    caption = f"Every dot is one run ({runs}); the bar is the arm's mean.{sample_text(min(n, _MOST_SEEDS), n)}"
    alt = f"{primary.label} by arm. " + " ".join(
        f"{arm}: {primary.text(summary.mean)} {primary.unit}".rstrip() + "." for arm, summary in summaries.items()
    )
    return picture("estimation", alt, caption, lambda width: _seeds(analysis, width))


def _seeds(analysis: Analysis, width: float) -> Canvas:
    """Draw the arms in rows of columns, on one common axis."""
    primary, summaries = analysis.primary, analysis.summaries[analysis.primary.name]
    colour = arm_colours(summaries, analysis.plan.control)
    per_row, height = (8 if width == WIDE else 3), 270.0
    names = list(summaries)
    rows = [names[start : start + per_row] for start in range(0, len(names), per_row)]
    canvas = Canvas(width, height * len(rows))
    everything = [value for s in summaries.values() for value in s.values if value is not None]
    ends = span(np.array(everything) * primary.scale, 0.12, primary.logarithmic)
    columns = min(per_row, len(names))
    x = Axis(-0.5, columns - 0.5, 62, min(width - 6, 62 + 170.0 * columns))
    for place, row in enumerate(rows):
        panel = canvas.panel(x, Axis(*ends, (place + 1) * height - 12, place * height + 54, primary.logarithmic))
        panel.rules()
        panel.title(f"{primary.label}, {primary.unit}".rstrip(", "), lift=30)
        for at, arm in enumerate(row):
            _draw_seeds(panel, at, summaries[arm].values, primary.scale, colour[arm])
            room = panel.x.place(1) - panel.x.place(0) - 8
            panel.above(at, shortened(arm, room, 12, bold=True), colour[arm], size=12)
    return canvas


def _draw_seeds(panel: Panel, x: float, values: Sequence[float | None], scale: float, colour: str) -> None:
    present = np.array([value for value in values if value is not None]) * scale
    shown = np.array(evenly(present.tolist(), _MOST_SEEDS))
    panel.dots(np.full(len(shown), x), shown, colour, 3.4)
    if len(present) > 1:
        mean = float(present.mean())
        panel.line(np.array([x - 0.15, x + 0.15]), np.array([mean, mean]), INK, 2)
