"""What happened over the course of training: loss curves by arm, and the gap to the control."""

from collections.abc import Sequence

import numpy as np

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.chart import TIME_STEPS, Axis, Canvas, Panel, Tile, shortened, stacked, text_width, tiles
from lmexp.analysis.colours import CONTROL, INK, arm_colours
from lmexp.analysis.curves import Curve, MeanCurve, gaps_to, mean_curve
from lmexp.analysis.pictures import WIDE, Picture, picture, sample_text, seeds_text

_SETTLED = 0.12  # fraction of the time after which the loss axis must show everything


def loss_curves(analysis: Analysis, curves: Sequence[Curve], metric_label: str) -> Picture | None:
    """Draw one panel per arm: every seed thin, the mean with its t band, the control's mean behind.

    Args:
        analysis: the analysis; its plan gives the order of the arms.
        curves: of all runs, or of a sample of them, which the caption then says.
        metric_label: what the curves show, with its unit.

    Returns:
        None when no run has two points: one evaluation makes no curve.
    """
    by_arm = _by_arm(analysis, curves)
    if not any(len(curve.seconds) > 1 for curve in curves):
        return None
    caption = f"{metric_label} over seconds of counted training ({_n_text(by_arm)})."
    if len(curves) > len(by_arm):
        caption += f" Thin lines: single seeds. Thick: their mean, with its {analysis.confidence:.0%} t interval."
    if analysis.plan.control in by_arm and len(by_arm) > 1:
        caption += f" Grey: the mean of {analysis.plan.control}."
    caption += _sample_text(analysis, by_arm)
    alt = f"{metric_label} over training time. " + " ".join(
        f"{arm} ends at {np.mean([c.values[-1] for c in found]):.3f}." for arm, found in by_arm.items()
    )
    return picture("curves", alt, caption, lambda width: _curves(analysis, by_arm, metric_label, width))


def _by_arm(analysis: Analysis, curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    found: dict[str, list[Curve]] = {arm: [] for arm in analysis.plan.arms}
    for curve in curves:
        found.setdefault(curve.arm, []).append(curve)
    return {arm: several for arm, several in found.items() if several}


def _n_text(by_arm: dict[str, list[Curve]]) -> str:
    return seeds_text([len(found) for found in by_arm.values()])


def _sample_text(analysis: Analysis, by_arm: dict[str, list[Curve]]) -> str:
    """Say that means are those of a sample, where they are."""
    drawn, n = max(map(len, by_arm.values())), max(s.n for s in analysis.summaries[analysis.primary.name].values())
    sample = sample_text(drawn, n)
    return f"{sample} Means are over these." if sample else ""


def _curves(analysis: Analysis, by_arm: dict[str, list[Curve]], label: str, width: float) -> Canvas:
    columns = 3 if width == WIDE else 2
    each = (190.0 if len(by_arm) > 1 else 280.0) if width == WIDE else (140.0 if len(by_arm) > 1 else 220.0)
    height, places = tiles(len(by_arm), width, columns, each, gap=16)
    canvas, colour = Canvas(width, height + 4), arm_colours(analysis.plan.arms, analysis.plan.control)
    means = {arm: mean_curve(found, analysis.confidence) for arm, found in by_arm.items()}
    everything = [curve for found in by_arm.values() for curve in found]
    ends, start, last = _loss_ends(everything), *_time_ends(everything)
    for tile, (arm, found) in zip(places, by_arm.items(), strict=True):
        x = Axis(start, last, tile.left, tile.right, steps=TIME_STEPS)
        panel = canvas.panel(x, Axis(*ends, tile.bottom, tile.top))
        _frame(panel, tile, arm, colour[arm], is_wide=width == WIDE)
        if arm != analysis.plan.control and analysis.plan.control in means:
            behind = means[analysis.plan.control]
            panel.line(behind.seconds, behind.mean, CONTROL, 1.2, opacity=0.8)
        _bundle(panel, found, means[arm], colour[arm])
    canvas.text(0, 14, shortened(label, width - 10))
    canvas.text(width - 10, height - 2, "seconds of counted training", anchor="end")
    return canvas


def _frame(panel: Panel, tile: Tile, arm: str, colour: str, is_wide: bool) -> None:
    panel.rules(5 if is_wide else 4, named=tile.is_first)
    panel.scale_below(4 if is_wide else 3)
    panel.title(shortened(arm, tile.right - tile.left, 12, bold=True), colour, bold=True, lift=8, size=12)


def _time_ends(curves: Sequence[Curve]) -> tuple[float, float]:
    first = min(float(curve.seconds[0]) for curve in curves)
    last = max(float(curve.seconds[-1]) for curve in curves)
    return (min(0.0, first), last) if last > 0 else (first - 0.5, first + 0.5)


def _loss_ends(curves: Sequence[Curve]) -> tuple[float, float]:
    """Let the axis show what happens after the first steep fall; the beginning may leave it at the top."""
    low = min(float(curve.values.min()) for curve in curves)
    late = [curve.values[curve.seconds >= _SETTLED * curve.seconds[-1]] for curve in curves]
    high = max(float(values.max()) for values in late if len(values))
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + 3 * margin


def _bundle(panel: Panel, curves: Sequence[Curve], mean: MeanCurve, colour: str) -> None:
    """Draw single seeds thin, then their mean and its band."""
    faint = 0.5 if len(curves) <= 12 else 0.25
    if mean.n > 1:
        for curve in curves:
            panel.line(curve.seconds, curve.values, colour, 0.8, opacity=faint)
    if mean.low is not None and mean.high is not None and len(mean.seconds) > 1:
        panel.band(mean.seconds, mean.low, mean.high, colour)
    panel.line(mean.seconds, mean.mean, colour)
    for curve in curves:
        if len(curve.seconds) == 1:  # one evaluation makes no line
            panel.dots(curve.seconds, curve.values, colour, 3)


def gap_curves(analysis: Analysis, curves: Sequence[Curve], unit: str) -> Picture | None:
    """Draw how far each arm lies from the control at the same second and seed: single seeds and their mean.

    None without a control or without curves.
    """
    gaps = [gap for gap in gaps_to(curves, str(analysis.plan.control)) if len(gap.seconds) > 1]
    by_arm = _by_arm(analysis, gaps)
    if not by_arm:
        return None
    thin = ", thin ones single seeds" if len(gaps) > len(by_arm) else ""
    caption = (
        f"Each arm minus {analysis.plan.control} at the same seed and the same second ({_n_text(by_arm)}): "
        f"thick lines are means over seeds{thin}.{_sample_text(analysis, by_arm)}"
    )
    alt = f"Gap to {analysis.plan.control} over training time. " + " ".join(
        f"{arm} ends at {np.mean([gap.values[-1] for gap in found]):+.3f}." for arm, found in by_arm.items()
    )
    heading = f"Difference from {analysis.plan.control}, {unit}"
    return picture("gaps", alt, caption, lambda width: _gaps(analysis, by_arm, heading, width))


def _gaps(analysis: Analysis, by_arm: dict[str, list[Curve]], heading: str, width: float) -> Canvas:
    height = 330.0 if width == WIDE else 290.0
    canvas, colour = Canvas(width, height), arm_colours(analysis.plan.arms, analysis.plan.control)
    label_room = 16 + min(width / 4, max(text_width(arm, 11, bold=True) for arm in by_arm))
    everything = [gap for found in by_arm.values() for gap in found]
    x = Axis(*_time_ends(everything), 58, width - label_room, steps=TIME_STEPS)
    panel = canvas.panel(x, Axis(*_gap_ends(everything), height - 46, 34))
    panel.rules(6)
    panel.scale_below(6 if width == WIDE else 4, title="seconds of counted training")
    panel.title(heading, lift=18)
    panel.level(0.0, INK)
    faint = 0.4 if len(everything) <= 60 else 0.15
    ends = {}
    for arm, gaps in by_arm.items():
        mean = mean_curve(gaps, analysis.confidence)
        for gap in gaps if len(gaps) > 1 else []:
            panel.line(gap.seconds, gap.values, colour[arm], 0.8, opacity=faint)
        if len(mean.seconds):  # the seeds may have no second in common
            panel.line(mean.seconds, mean.mean, colour[arm])
            ends[arm] = float(mean.mean[-1])
    _name_ends(panel, ends, colour, width - panel.x.end - 10)
    return canvas


def _gap_ends(gaps: Sequence[Curve]) -> tuple[float, float]:
    late = np.concatenate([gap.values[gap.seconds >= _SETTLED * gap.seconds[-1]] for gap in gaps] + [np.zeros(1)])
    margin = 0.1 * float(np.ptp(late)) or 0.1
    return float(late.min()) - margin, float(late.max()) + margin


def _name_ends(panel: Panel, ends: dict[str, float], colour: dict[str, str], room: float) -> None:
    """Name each line at its end, moving labels apart where they would overlap."""
    places = stacked({arm: panel.y.place(y) for arm, y in ends.items()}, panel.y.end, panel.y.start, 14)
    for arm, y in places.items():
        name = shortened(arm, room, bold=True)
        panel.canvas.text(panel.x.end + 8, y + 3.8, name, colour[arm], bold=True)
