"""The report's figures, each drawn from an :class:`~lmexp.analysis.analyse.Analysis`, wide and narrow."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.curves import Curve, gaps_to, mean_curve
from lmexp.analysis.desk import AgainstControl
from lmexp.analysis.drift import TOLERANCE
from lmexp.analysis.pictures import (
    ACCENT,
    CONTROL,
    GRID,
    INK,
    MUTED,
    PAPER,
    Picture,
    arm_colour,
    figure,
    house_style,
    to_svg,
)

WIDE, NARROW = 944, 350  # CSS pixels
_MOST_THIN_LINES = 150  # beyond, single seeds would be a grey smear and a heavy page: the mean and its band remain
_TIME_STEPS = [1, 2, 3, 5, 6, 10]  # ticks at 60 s as well as at 50 s
_PACE_STEPS = (2, 5, 10, 20, 50)  # per cent between ticks; all of them divide 100, the pace that others refer to
_SETTLED = 0.12  # fraction of the time after which the loss axis must show everything


def colours(analysis: Analysis) -> dict[str, str]:
    """Return each arm's marker colour: grey for the control, one hue per other arm."""
    others = [arm for arm in analysis.plan.arms if arm != analysis.plan.control]
    return dict.fromkeys(analysis.plan.arms, CONTROL) | {arm: arm_colour(i) for i, arm in enumerate(others)}


def _picture(name: str, alt: str, caption: str, draw: Callable[[float], Figure]) -> Picture:
    svgs = []
    for form, width in (("wide", WIDE), ("narrow", NARROW)):
        with house_style(f"{name}-{form}"):
            svgs.append(to_svg(draw(width), f"{name}-{form}", alt))
    return Picture(name, svgs[0], svgs[1], alt, caption)


def estimation_plot(analysis: Analysis) -> Picture | None:
    """Draw every seed with paired slopes from the control, and beneath each arm its difference with the interval.

    Without a control only the seeds and means are drawn. None with fewer than two runs.
    """
    primary, comparisons = analysis.primary, analysis.comparisons[analysis.primary.name]
    shown = [c for c in comparisons if c.difference.alone.value is not None]
    if analysis.accounting.n_used < 2:  # one number needs no figure
        return None
    if not shown:
        return _seeds_plot(analysis)
    caption = _estimation_caption(analysis, shown)
    alt = f"{primary.label} of each arm against {analysis.plan.control}. " + " ".join(
        f"{c.arm}: {primary.gap(c.difference.alone.value)} {primary.gap_unit}." for c in shown
    )
    return _picture("estimation", alt, caption, lambda width: _estimation(analysis, shown, width))


def _estimation_caption(analysis: Analysis, shown: Sequence[AgainstControl]) -> str:
    control, sesoi = analysis.plan.control, analysis.plan.primary.sesoi
    side = "below" if analysis.primary.direction == "lower" else "above"
    difference, n = shown[0].difference, len(analysis.complete)
    kind = "simultaneous" if difference.simultaneous else "own"
    bar = f"the bar its {analysis.confidence:.0%} {kind} interval"
    if not difference.shown.has_interval:
        bar = "its interval is undefined"
    band = f" The shaded band is smaller than the plan's smallest effect of interest (±{sesoi:g})." if sesoi else ""
    return (
        f"Every dot is one run; a line joins {control} and the arm at the same seed. Beneath, the difference from "
        f"{control} over n = {n} complete seed{'s' * (n != 1)}: {side} zero is better. Small dots are single "
        f"seeds, the large one is their mean, {bar}.{band}"
    )


def _estimation(analysis: Analysis, shown: Sequence[AgainstControl], width: float) -> Figure:
    """Draw bands of arms, one beneath the other; in each the values above and the differences below."""
    per_band, band_height = (6, 440) if width == WIDE else (3, 400)
    bands = [shown[start : start + per_band] for start in range(0, len(shown), per_band)]
    drawn = figure(width, band_height * len(bands))
    left, height = 58 / width, 1 / len(bands)
    pairs = []
    for place, band in enumerate(bands):
        base = 1 - (place + 1) * height
        values = drawn.add_axes((left, base + 0.5 * height, 0.99 - left, 0.41 * height))
        gaps = drawn.add_axes((left, base + 0.02 * height, 0.99 - left, 0.38 * height))
        _pairs(values, analysis, band)
        _gaps(gaps, analysis, band)
        for axes in (values, gaps):
            _only_horizontals(axes)
            axes.set_xlim(-0.45, min(per_band, len(shown)) - 0.35)
        pairs.append((values, gaps))
    for group in zip(*pairs, strict=True):
        _share_limits(group)
    for values, gaps in pairs:
        _heading(values, f"{analysis.primary.label}, {analysis.primary.unit}", lift=25)
        _heading(gaps, f"Difference from {analysis.plan.control}, {analysis.primary.unit}", lift=8)
    return drawn


def _only_horizontals(axes: Axes) -> None:
    axes.set_xticks([])
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.spines["bottom"].set_visible(False)


def _pairs(axes: Axes, analysis: Analysis, band: Sequence[AgainstControl]) -> None:
    """Draw control and arm side by side, joined seed by seed."""
    colour = colours(analysis)
    hollow: Any = {"color": PAPER, "markeredgecolor": CONTROL, "markersize": 6, "markeredgewidth": 1.4}
    for x, comparison in enumerate(band):
        before, after = np.array(_values_by_seed(analysis, comparison.arm)).T
        gap = np.full_like(before, np.nan)  # lifts the pen between seeds
        joined = np.stack([before, after, gap], axis=1).ravel()
        axes.plot(np.tile([x - 0.2, x + 0.2, x], len(before)), joined, color=MUTED, alpha=0.55, linewidth=1)
        axes.plot(np.full(len(before), x - 0.2), before, "o", **hollow)
        axes.plot(np.full(len(after), x + 0.2), after, "o", color=colour[comparison.arm], markersize=6)
        _arm_label(axes, x, comparison.arm, colour[comparison.arm])


def _arm_label(axes: Axes, x: float, arm: str, colour: str, slant: float = 0) -> None:
    placed: Any = {"xycoords": ("data", "axes fraction"), "xytext": (0, 6), "textcoords": "offset points"}
    turned: Any = {"rotation": slant, "ha": "left", "rotation_mode": "anchor"} if slant else {"ha": "center"}
    size = 11 if len(arm) < 12 else 9
    axes.annotate(arm, (x, 1.0), color=colour, weight="bold", fontsize=size, **placed, **turned)


def _values_by_seed(analysis: Analysis, arm: str) -> list[tuple[float, float]]:
    """Return (control, arm) for each seed; NaN, which is not drawn, where a run has no value."""
    summaries = analysis.summaries[analysis.primary.name]
    pairs = zip(summaries[str(analysis.plan.control)].values, summaries[arm].values, strict=True)
    return [(np.nan if before is None else before, np.nan if after is None else after) for before, after in pairs]


def _gaps(axes: Axes, analysis: Analysis, band: Sequence[AgainstControl]) -> None:
    """Draw the differences with their simultaneous intervals around zero."""
    colour, sesoi = colours(analysis), analysis.plan.primary.sesoi
    if sesoi:
        axes.axhspan(-sesoi, sesoi, color=GRID, alpha=0.45, linewidth=0)
    axes.axhline(0, color=INK, linewidth=1)
    for x, comparison in enumerate(band):
        shown, own = comparison.difference.shown, colour[comparison.arm]
        beside = np.full(len(comparison.paired), x - 0.2)
        axes.plot(beside, comparison.paired, "o", color=own, markersize=3.6, alpha=0.6)
        if shown.low is not None and shown.high is not None:
            axes.plot([x, x], [shown.low, shown.high], color=own, linewidth=2.4)
        axes.plot([x], [shown.value or 0.0], "o", color=own, markersize=7.5)
        text = analysis.primary.gap(shown.value)
        axes.annotate(text, (x, shown.value or 0.0), (9, 0), textcoords="offset points", va="center", fontsize=10)


def _seeds_plot(analysis: Analysis) -> Picture:
    """Draw every seed and the mean of every arm, when there is nothing to compare with."""
    primary, summaries = analysis.primary, analysis.summaries[analysis.primary.name]
    counts = sorted({summary.n for summary in summaries.values()})
    runs = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    caption = f"Every dot is one run, n = {runs} per arm; the bar is the arm's mean."
    alt = f"{primary.label} by arm. " + " ".join(
        f"{a}: {primary.text(s.mean)} {primary.unit}." for a, s in summaries.items()
    )

    return _picture("estimation", alt, caption, lambda width: _seeds(analysis, width))


def _seeds(analysis: Analysis, width: float) -> Figure:
    summaries, colour = analysis.summaries[analysis.primary.name], colours(analysis)
    crowded = len(summaries) > (9 if width == WIDE else 3)  # then the names stand at a slant
    drawn = figure(width, 300)
    axes = drawn.add_axes((58 / width, 0.06, 1 - 68 / width, 0.6 if crowded else 0.74))
    for x, (arm, summary) in enumerate(summaries.items()):
        present = [value for value in summary.values if value is not None]
        axes.plot(np.full(len(present), x), present, "o", color=colour[arm], markersize=7)
        if summary.n > 1 and summary.mean is not None:
            axes.plot([x - 0.15, x + 0.15], [summary.mean] * 2, color=INK, linewidth=2)
        _arm_label(axes, x, arm, colour[arm], slant=30 if crowded else 0)
    axes.set_xlim(-0.5, len(summaries) - 0.5)
    axes.margins(y=0.2)
    _only_horizontals(axes)
    _heading(axes, f"{analysis.primary.label}, {analysis.primary.unit}", lift=80 if crowded else 25)
    return drawn


def loss_curves(analysis: Analysis, curves: Sequence[Curve], metric_label: str) -> Picture | None:
    """Draw one panel per arm: every seed thin, the mean with its t band, the control's mean behind.

    None when no run has a curve.
    """
    arms = [arm for arm in analysis.plan.arms if any(curve.arm == arm for curve in curves)]
    if not arms:
        return None
    by_arm = {arm: [curve for curve in curves if curve.arm == arm] for arm in arms}
    caption = f"{metric_label} over seconds of counted training ({_seeds_per_arm(by_arm)})."
    if len(curves) > len(arms):
        caption += (
            f" Thin lines: single seeds. Thick: their mean, with its {analysis.confidence:.0%} t interval as a band."
        )
    if analysis.plan.control in arms and len(arms) > 1:
        caption += f" Grey: the mean of {analysis.plan.control}."
    alt = f"{metric_label} over training time. " + " ".join(
        f"{arm} ends at {np.mean([c.values[-1] for c in found]):.3f}." for arm, found in by_arm.items()
    )
    return _picture("curves", alt, caption, lambda width: _curves(analysis, by_arm, metric_label, width))


def _seeds_per_arm(by_arm: dict[str, list[Curve]]) -> str:
    fewest, most = min(map(len, by_arm.values())), max(map(len, by_arm.values()))
    return f"n = {most} seed{'s' * (most > 1)} per arm" if fewest == most else f"n = {fewest} to {most} seeds per arm"


def _curves(analysis: Analysis, by_arm: dict[str, list[Curve]], label: str, width: float) -> Figure:
    n_columns = min(len(by_arm), 3 if width == WIDE else 2)
    n_rows = -(-len(by_arm) // n_columns)
    row_height = (230 if n_columns > 1 else 320) if width == WIDE else (190 if n_columns > 1 else 260)
    drawn = figure(width, row_height * n_rows + 44)
    grid: Any = drawn.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    base_width = drawn.get_figheight() * 72
    drawn.subplots_adjust(
        left=44 / width, right=1 - 12 / width, bottom=40 / base_width, top=1 - 44 / base_width, wspace=0.08, hspace=0.24
    )
    colour, control = colours(analysis), by_arm.get(str(analysis.plan.control))
    thin = sum(map(len, by_arm.values())) <= _MOST_THIN_LINES
    for axes, (arm, curves) in zip(grid.flat, by_arm.items(), strict=False):
        if control and arm != analysis.plan.control:
            behind = mean_curve(control, analysis.confidence)
            axes.plot(behind.seconds, behind.mean, color=CONTROL, linewidth=1.2, alpha=0.8)
        _bundle(axes, curves, colour[arm], analysis.confidence, thin)
        axes.set_title(arm, loc="left", color=colour[arm], weight="bold", fontsize=11, pad=4)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=_TIME_STEPS))
        axes.yaxis.set_major_locator(MaxNLocator(5))
    for axes in grid.flat[len(by_arm) :]:
        axes.set_visible(False)
    _limit_loss(grid.flat[0], [curve for curves in by_arm.values() for curve in curves])
    _heading(grid.flat[0], label, lift=26)
    drawn.text(1 - 12 / width, 6 / base_width, "seconds of counted training", ha="right", color=MUTED)
    return drawn


def _bundle(axes: Axes, curves: Sequence[Curve], colour: str, confidence: float, thin: bool) -> None:
    mean = mean_curve(curves, confidence)
    if thin and mean.n > 1:
        for curve in curves:
            axes.plot(curve.seconds, curve.values, color=colour, linewidth=0.8, alpha=0.5)
    if mean.low is not None and mean.high is not None:
        axes.fill_between(mean.seconds, mean.low, mean.high, color=colour, alpha=0.16, linewidth=0)
    marker = "o" if len(mean.seconds) == 1 else None  # one evaluation makes no line
    axes.plot(mean.seconds, mean.mean, marker=marker, color=colour, linewidth=2)


def _limit_loss(axes: Axes, curves: Sequence[Curve]) -> None:
    """Let the axis show what happens after the first steep fall; the beginning may leave it at the top."""
    low = min(float(curve.values.min()) for curve in curves)
    late = [curve.values[curve.seconds >= _SETTLED * curve.seconds[-1]] for curve in curves]
    high = max(float(values.max()) for values in late if len(values))
    margin = 0.06 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + 3 * margin)


def gap_curves(analysis: Analysis, curves: Sequence[Curve], unit: str) -> Picture | None:
    """Draw how far each arm lies from the control at the same second and seed: single seeds and their mean.

    None without a control or without curves.
    """
    gaps = gaps_to(curves, str(analysis.plan.control))
    by_arm = {arm: [gap for gap in gaps if gap.arm == arm and len(gap.seconds) > 1] for arm in analysis.plan.arms}
    by_arm = {arm: found for arm, found in by_arm.items() if found}
    if not by_arm:
        return None
    thin = ", thin ones single seeds" if len(gaps) <= _MOST_THIN_LINES and len(gaps) > len(by_arm) else ""
    caption = (
        f"Each arm minus {analysis.plan.control} at the same seed and the same second ({_seeds_per_arm(by_arm)}): "
        f"thick lines are means over seeds{thin}."
    )
    alt = f"Gap to {analysis.plan.control} over training time. " + " ".join(
        f"{arm} ends at {np.mean([gap.values[-1] for gap in found]):+.3f}." for arm, found in by_arm.items()
    )
    heading = f"Difference from {analysis.plan.control}, {unit}"
    return _picture("gaps", alt, caption, lambda width: _gap_figure(analysis, by_arm, heading, width))


def _gap_figure(analysis: Analysis, by_arm: dict[str, list[Curve]], heading: str, width: float) -> Figure:
    height = 340 if width == WIDE else 300
    drawn = figure(width, height)
    label_room = 14 + 7.0 * max(map(len, by_arm))
    axes = drawn.add_axes((58 / width, 46 / height, 1 - (58 + label_room) / width, 1 - 82 / height))
    colour = colours(analysis)
    thin = sum(map(len, by_arm.values())) <= _MOST_THIN_LINES
    axes.axhline(0, color=INK, linewidth=1)
    ends = {}
    for arm, gaps in by_arm.items():
        mean = mean_curve(gaps, analysis.confidence)
        if thin and mean.n > 1:
            for gap in gaps:
                axes.plot(gap.seconds, gap.values, color=colour[arm], linewidth=0.8, alpha=0.4)
        if len(mean.seconds):  # the seeds may have no second in common
            axes.plot(mean.seconds, mean.mean, color=colour[arm], linewidth=2)
            ends[arm] = (float(mean.seconds[-1]), float(mean.mean[-1]))
    _limit_gaps(axes, [gap for gaps in by_arm.values() for gap in gaps])
    _end_labels(axes, ends, colour, height)
    axes.xaxis.set_major_locator(MaxNLocator(6 if width == WIDE else 4, steps=_TIME_STEPS))
    _heading(axes, heading, lift=12)
    axes.set_xlabel("seconds of counted training", loc="right")
    return drawn


def _limit_gaps(axes: Axes, gaps: Sequence[Curve]) -> None:
    late = np.concatenate([gap.values[gap.seconds >= _SETTLED * gap.seconds[-1]] for gap in gaps] + [np.zeros(1)])
    low, high = float(late.min()), float(late.max())
    margin = 0.1 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)


def _end_labels(axes: Axes, ends: dict[str, tuple[float, float]], colour: dict[str, str], height: float) -> None:
    """Name each line at its end, moving labels apart where they would overlap."""
    low, high = axes.get_ylim()
    least = (high - low) * 15 / (height - 82)
    places: dict[str, float] = {}
    below = -np.inf
    for arm, (_, y) in sorted(ends.items(), key=lambda item: item[1][1]):
        places[arm] = below = max(y, below + least)
    excess = max(0.0, below - high)
    right = max((x for x, _ in ends.values()), default=0.0)
    for arm, y in places.items():
        placed: Any = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}
        axes.annotate(arm, (right, y - excess), color=colour[arm], weight="bold", **placed)


def drift_plot(analysis: Analysis) -> Picture | None:
    """Draw the probes before and after every run in order of their start. None with fewer than two probed runs."""
    probes = [probe for probe in analysis.drift.probes if probe.pace is not None]
    if len(probes) < 2:
        return None
    caption = (
        f"The machine's pace around each of n = {len(probes)} runs, in order of their start; 100% is the fastest. "
        f"Below the shaded band the machine was more than {TOLERANCE:.0%} slower."
    )
    alt = f"Machine pace over {len(probes)} runs. {analysis.drift.sentence}"
    return _picture("drift", alt, caption, lambda width: _drift(analysis, width))


def _drift(analysis: Analysis, width: float) -> Figure:
    probes = [probe for probe in analysis.drift.probes if probe.pace is not None]
    drawn = figure(width, 200)
    axes = drawn.add_axes((48 / width, 0.2, 1 - 58 / width, 0.62))
    axes.axhspan(100 * (1 - TOLERANCE), 100, color=GRID, alpha=0.45, linewidth=0)
    slow = {probe.run_id for probe in analysis.drift.slow}
    orders = np.arange(1, len(probes) + 1)
    ends = np.array([[rate or np.nan for rate in (probe.before, probe.after)] for probe in probes]) * 100
    axes.vlines(orders, np.nanmin(ends, axis=1), np.nanmax(ends, axis=1), color=MUTED, linewidth=1.2, alpha=0.7)
    is_slow = np.array([probe.run_id in slow for probe in probes])
    for chosen, colour in ((~is_slow, MUTED), (is_slow, ACCENT)):
        axes.plot(orders[chosen], np.nanmean(ends[chosen], axis=1), "o", color=colour, markersize=5.5)
    axes.set_ylim(min(93.0, axes.get_ylim()[0]), max(101.5, axes.get_ylim()[1]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
    low, high = axes.get_ylim()
    step = next((step for step in _PACE_STEPS if high - low <= 5 * step), _PACE_STEPS[-1])
    axes.yaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("run, in order of start", loc="right")
    _heading(axes, "Machine pace", lift=10)
    return drawn


def _heading(axes: Axes, text: str, lift: float) -> None:
    axes.annotate(
        text, (0, 1), (0, lift), xycoords="axes fraction", textcoords="offset points", color=MUTED, fontsize=11
    )


def _share_limits(group: Sequence[Axes]) -> None:
    limits = [axes.get_ylim() for axes in group]
    for axes in group:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
