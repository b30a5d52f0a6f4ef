"""Crossed designs: how one factor's effect depends on the other, and the speed-up at every level of the other."""

from collections.abc import Iterator, Sequence

import numpy as np

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.chart import Axis, Canvas, Panel, Tile, factor_texts, shortened, span, stacked, text_width, tiles
from lmexp.analysis.colours import INK, arm_colour
from lmexp.analysis.crossing import Crossing, crossing_of, effects, means, parting, ratios, thresholds
from lmexp.analysis.measures import number_text
from lmexp.analysis.pictures import WIDE, Picture, counted, evenly, picture, sample_text
from lmexp.statistics.estimates import Estimate

_MOST_SEEDS = 60


def interaction_plot(analysis: Analysis) -> Picture | None:
    """Draw the primary measure's means of all combinations: one factor along the axis, one line per level of the other.

    Lines that are parallel, on a logarithmic axis for speeds and durations, show that the factors do not interact.
    """
    found = crossing_of(analysis)
    if found is None or not np.isfinite(found.values).any():
        return None
    primary, n = analysis.primary, found.values.shape[2]
    parallel = (
        "logarithmic axis: parallel lines are equal ratios" if primary.logarithmic else "parallel: no interaction"
    )
    caption = (
        f"{primary.label} over {found.over}, one line per level of {found.compared} (n = {counted(n, 'seed')} each; "
        f"{parallel}). Small dots are single runs; a mean is drawn where every seed has a value."
        f"{sample_text(min(n, _MOST_SEEDS), n)}"
    )
    return picture("interaction", _alt(found), caption, lambda width: _interaction(found, width))


def _alt(found: Crossing) -> str:
    values = means(found.values, found.measure.logarithmic)
    return f"{found.measure.label} by {found.compared} and {found.over}. " + " ".join(
        f"{level}, {place}: {found.measure.text(None if np.isnan(values[i, j]) else float(values[i, j]))}."
        for i, level in enumerate(found.levels)
        for j, place in enumerate(found.places)
    )


def _interaction(found: Crossing, width: float) -> Canvas:
    height = 330.0
    canvas = Canvas(width, height)
    names = max(text_width(level, 11, bold=True) for level in found.levels)
    right = width - 20 - min(names, width / 4)
    panel = _panel(canvas, found, Tile(58, right, 34, height - 46, True, True), _ends(found))
    panel.rules(6)
    panel.title(_title(found), lift=14)
    _name_lines(panel, found, _draw_means(panel, found))
    return canvas


def _title(found: Crossing) -> str:
    return f"{found.measure.label}, {found.measure.unit}".rstrip(", ")


def _ends(found: Crossing) -> tuple[float, float]:
    return span(found.values * found.measure.scale, log=found.measure.on_log_axis)


def _panel(canvas: Canvas, found: Crossing, tile: Tile, ends: tuple[float, float], is_log: bool | None = None) -> Panel:
    """Return a panel with the places of a crossing beneath it."""
    is_log = found.measure.on_log_axis if is_log is None else is_log
    x = Axis(-0.4, len(found.places) - 0.6, tile.left, tile.right)
    panel = canvas.panel(x, Axis(*ends, tile.bottom, tile.top, is_log))
    panel.names_below(range(len(found.places)), found.places)
    canvas.text(tile.right, tile.bottom + 33, found.over, anchor="end")
    return panel


def _draw_means(panel: Panel, found: Crossing) -> dict[str, float]:
    """Draw one line per compared level; return where each ends, in pixels."""
    values = found.values * found.measure.scale
    centres, seeds = means(values, found.measure.logarithmic), evenly(range(values.shape[2]), _MOST_SEEDS)
    ends = {}
    for row, level in enumerate(found.levels):
        own, across = _colour(found, level), np.arange(len(found.places), dtype=float) + _aside(found, row)
        panel.dots(np.repeat(across, len(seeds)), values[row][:, seeds].ravel(), own, 2, opacity=0.55)
        panel.line(across, centres[row], own)
        panel.dots(across, centres[row], own, 3.6)
        known = np.flatnonzero(np.isfinite(centres[row]))
        if len(known):
            ends[level] = panel.y.place(centres[row, known[-1]])
    return ends


def _colour(found: Crossing, level: str) -> str:
    others = [each for each in found.levels if each != found.base]
    return arm_colour(others.index(level)) if level in others else INK


def _aside(found: Crossing, row: int) -> float:
    """Return how far a level's dots stand beside their place, so that levels do not hide each other."""
    return 0.05 * (row - (len(found.levels) - 1) / 2)


def _name_lines(panel: Panel, found: Crossing, ends: dict[str, float]) -> None:
    room = panel.canvas.width - panel.x.end - 10
    for name, y in stacked(ends, panel.y.end, panel.y.start, 14).items():
        panel.canvas.text(panel.x.end + 8, y + 3.8, shortened(name, room, bold=True), _colour(found, name), bold=True)


def other_interactions_plot(analysis: Analysis) -> Picture | None:
    """Draw the same for every other metric of the plan, one small panel each."""
    crossings = [crossing_of(analysis, metric) for metric in analysis.source.metrics[1:]]
    found = [each for each in crossings if each is not None and np.isfinite(each.values).any()]
    if not found:
        return None
    n = found[0].values.shape[2]
    caption = (
        f"The other measures over {found[0].over}, one line per level of {found[0].compared} (n = {counted(n, 'seed')} "
        f"each). What differs by factors stands on logarithmic axes.{sample_text(min(n, _MOST_SEEDS), n)}"
    )
    return picture("others", " ".join(map(_alt, found)), caption, lambda width: _others(found, width))


def _others(found: Sequence[Crossing], width: float) -> Canvas:
    is_wide = width == WIDE
    height, places = tiles(len(found), width, 3 if is_wide else 1, 130, left=58, gap=62, head=72)
    canvas = Canvas(width, height)
    for tile, each in zip(places, found, strict=True):
        panel = _panel(canvas, each, tile, _ends(each))
        panel.rules(4)
        panel.title(_title(each), INK, bold=True, lift=10)
        _draw_means(panel, each)
    _key(canvas, found[0].levels, found[0])
    return canvas


def _key(canvas: Canvas, levels: Sequence[str], found: Crossing) -> None:
    """Name the levels above panels that are too small for names."""
    x = 0.0
    for level in levels:
        canvas.text(x, 14, level, _colour(found, level), bold=True, size=12)
        x += text_width(level, 12, bold=True) + 18


def speed_up_plot(analysis: Analysis) -> Picture | None:
    """Draw the speed-up over the control at every level of the other factor, with intervals.

    None unless two factors are crossed, the primary metric is a speed or a duration, and the plan has a control.
    """
    found = crossing_of(analysis)
    known = {key: each for key, each in effects(analysis).items() if each.value is not None}
    if found is None or not known or not found.measure.logarithmic:
        return None
    counts = sorted({each.n_seeds for each in known.values()})
    runs = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    caption = (
        f"How many times better than {found.base} at the same {found.over}: ratios of paired launches (n = {runs}), "
        f"with {analysis.confidence:.0%} t intervals of their logarithms, each for itself. Above the line is better."
    )
    alt = f"Ratio to {found.base}. " + " ".join(
        f"{level}, {place}: {number_text(each.value)}." for (level, place), each in known.items()
    )
    return picture("speedup", alt, caption, lambda width: _speed_up(found, known, width))


def _speed_up(found: Crossing, known: dict[tuple[str, str], Estimate], width: float) -> Canvas:
    height = 300.0 if width == WIDE else 270.0
    canvas = Canvas(width, height)
    names = max(text_width(level, 11, bold=True) for level in found.levels)
    tile = Tile(58, width - 20 - min(names, width / 4), 34, height - 46, True, True)
    panel = _panel(canvas, found, tile, _ratio_ends(known), is_log=True)
    panel.rules(6, factor_texts)
    panel.level(1.0, INK)
    panel.title(f"Speed-up over {found.base} (logarithmic)", lift=14)
    _name_lines(panel, found, _draw_all_ratios(panel, found, known))
    return canvas


def ratios_plot(analysis: Analysis) -> Picture | None:
    """Draw the ratio to the control at every level of the other factor, one panel for each metric of the plan.

    Dashed lines are what the plan's criteria hold these ratios against. None unless two factors are crossed and a
    metric differs by factors without being a speed, such as bytes.
    """
    found = [each for name in analysis.source.metrics if (each := crossing_of(analysis, name)) is not None]
    found = [each for each in found if each.measure.on_log_axis and each.base and ratios(analysis, each.measure.name)]
    if not any(each.measure.proportional for each in found):
        return None
    sentences = " ".join(_partings(analysis, found))
    caption = (
        f"Each measure over that of {found[0].base} at the same {found[0].over} (n = "
        f"{counted(found[0].values.shape[2], 'seed')}), with {analysis.confidence:.0%} intervals, each for itself (no "
        "wider than a point where all seeds counted the same). Logarithmic axes; dashed lines are what the plan's "
        f"criteria ask for. {sentences}"
    ).strip()
    alt = f"Ratio to {found[0].base}. " + " ".join(
        f"{each.measure.label}, {level}, {place}: {number_text(ratio.value)}."
        for each in found
        for (level, place), ratio in ratios(analysis, each.measure.name).items()
    )
    return picture("ratios", alt, caption, lambda width: _ratios(analysis, found, width))


def _partings(analysis: Analysis, found: Sequence[Crossing]) -> Iterator[str]:
    """Say where each ratio passes what the criteria hold it against, and stays beyond it."""
    for each in found:
        known = ratios(analysis, each.measure.name)
        for level in (level for level in each.levels if level != each.base):
            for threshold in thresholds(analysis, each.measure.name):
                place, side = parting(known, level, threshold), "below" if threshold < 1 else "above"
                is_so = f"is {side} {number_text(threshold)} from {each.over} {place} on"
                is_not = f"is not {side} {number_text(threshold)} at {each.over} {each.places[-1]}"
                yield f"{each.measure.label}: {level} {is_so if place else is_not}."


def _ratios(analysis: Analysis, found: Sequence[Crossing], width: float) -> Canvas:
    height, places = tiles(len(found), width, 2 if width == WIDE else 1, 130, left=58, gap=62, head=72)
    canvas = Canvas(width, height)
    for tile, each in zip(places, found, strict=True):
        known = {key: ratio for key, ratio in ratios(analysis, each.measure.name).items() if ratio.value is not None}
        held = [*thresholds(analysis, each.measure.name), 1.0]
        panel = _panel(canvas, each, tile, span(np.append(_ratio_ends(known), held), log=True), is_log=True)
        panel.rules(5, factor_texts)
        for threshold in held:
            panel.level(threshold, INK, dash="" if threshold == 1.0 else "5 4")
        panel.title(f"{each.measure.label}, ratio to {each.base}", INK, bold=True, lift=10)
        _draw_all_ratios(panel, each, known)
    _key(canvas, [level for level in found[0].levels if level != found[0].base], found[0])
    return canvas


def _draw_all_ratios(panel: Panel, found: Crossing, known: dict[tuple[str, str], Estimate]) -> dict[str, float]:
    """Draw one line per compared level; return where each ends, in pixels."""
    ends = {}
    for row, level in enumerate(found.levels):
        places = [place for place in found.places if (level, place) in known]
        if places:
            across = np.array([found.places.index(place) for place in places], dtype=float) + _aside(found, row)
            ends[level] = _draw_ratios(panel, across, [known[level, place] for place in places], _colour(found, level))
    return ends


def _ratio_ends(known: dict[tuple[str, str], Estimate]) -> tuple[float, float]:
    """Return an axis for all ratios and 1, which no interval may dwarf."""
    centres = np.array([1.0, *(each.value or 1.0 for each in known.values())])
    low, high = span(centres, 0.3, log=True)
    limits = [limit for each in known.values() for limit in (each.low, each.high) if limit is not None]
    return span(np.append(centres, np.clip(limits, low * low / high, high * high / low)), log=True)


def _draw_ratios(panel: Panel, across: np.ndarray, found: Sequence[Estimate], colour: str) -> float:
    """Draw the ratios of one level; return where its line ends, in pixels."""
    values = np.array([each.value for each in found], dtype=float)
    panel.line(across, values, colour, 1.2, opacity=0.6)
    for x, each in zip(across.tolist(), found, strict=True):
        panel.interval(x, each.low, each.high, colour)
    panel.dots(across, values, colour, 4)
    return panel.y.place(values[-1])
