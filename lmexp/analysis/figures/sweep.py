"""The curves of a sweep: every level of the swept factor, what was chosen, and what it is worth without the luck."""

from collections.abc import Iterator, Sequence

import numpy as np

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.chart import Axis, Canvas, Panel, Tile, shortened, span, text_width, tiles
from lmexp.analysis.colours import ACCENT, INK, MUTED, arm_colours
from lmexp.analysis.pictures import WIDE, Picture, counted, evenly, picture, sample_text
from lmexp.analysis.sweeps import Competition
from lmexp.stages import DIVERGED

_MOST_SEEDS = 60
_REACH = 5.0  # the axis ends at so many times the distance from the best mean to the middle one


def sweep_plot(analysis: Analysis) -> Picture | None:
    """Draw one panel per competition: every seed, the means, the choice, its held-out estimate, and fresh seeds.

    None for a plan without a confirmation, where nothing competes, and before its sweep has a run.
    """
    sweep = analysis.sweep
    if sweep is None:
        return None
    contests = [each for each in sweep.competitions if len(each.arms) > 1 and np.isfinite(each.values).any()]
    if not contests:
        return None
    n = len(analysis.source.seeds)
    caption = (
        f"Every small dot is one run of the sweep (n = {counted(n, 'seed')} per level), every large one a mean. "
        "The ring is the level that was chosen. Held out: each seed measured at the level that the others choose, "
        f"with an approximate {analysis.confidence:.0%} interval. Fresh: the chosen level at seeds that nobody had "
        f"seen ({_fresh_text(analysis)}). Hollow dots at the edge lie beyond it; crosses are runs that diverged."
        f"{sample_text(min(n, _MOST_SEEDS), n)}"
    )
    alt = f"{analysis.primary.label} over the sweep. " + " ".join(_said(analysis, each) for each in contests)
    return picture("sweep", alt, caption, lambda width: _sweep(analysis, contests, width))


def _fresh_text(analysis: Analysis) -> str:
    fresh = max(summary.n for summary in analysis.summaries[analysis.primary.name].values())
    return f"n = {fresh}" if fresh else "none yet"


def _said(analysis: Analysis, found: Competition) -> str:
    if found.chosen is None:
        return f"{found.name}: nothing chosen."
    level = found.labels[found.arms.index(found.chosen)]
    edge = ", at the edge of the grid" if found.at_edge else ""
    primary = analysis.primary
    return f"{found.name}: chosen {level}{edge}, held out {primary.text(found.best.held_out)} {primary.unit}."


def _sweep(analysis: Analysis, competitions: Sequence[Competition], width: float) -> Canvas:
    height, places = _layout(competitions, width)
    canvas, primary = Canvas(width, height), analysis.primary
    colour = arm_colours(analysis.plan.arms, analysis.plan.control)
    ends = _ends(analysis, competitions)
    for tile, found in zip(places, competitions, strict=True):
        places_x, x_ends, is_log = _levels(found)
        x = Axis(*x_ends, tile.left, tile.right, is_log)
        panel = canvas.panel(x, Axis(*ends, tile.bottom, tile.top, primary.logarithmic))
        panel.rules(5, named=tile.is_first)
        own = colour.get(found.name, INK)
        panel.title(shortened(found.name, tile.right - tile.left, 12, True), own, bold=True, lift=24, size=12)
        panel.title(_note(found), ACCENT if found.at_edge else MUTED, lift=9, size=10.5)
        _name_levels(panel, found, places_x)
        _draw(panel, analysis, found, places_x, own)
    canvas.text(0, 14, f"{primary.label}, {primary.unit}".rstrip(", "))
    _key(canvas, 14.0 if width == WIDE else 32.0)
    return canvas


def _layout(competitions: Sequence[Competition], width: float) -> tuple[float, list[Tile]]:
    """Lay out the panels: few side by side where there are many levels to name, more room where the names are long."""
    is_wide, levels = width == WIDE, max(len(each.labels) for each in competitions)
    most = (4 if levels <= 5 else 2) if is_wide else (2 if levels <= 5 else 1)
    is_short = all(len(label) <= 6 for each in competitions for label in each.labels)
    head, foot = (62.0, 40.0) if is_short else (100.0, 76.0)
    first = 62.0 if is_wide else 76.0  # the key has a line of its own
    columns, tall = min(most, len(competitions)), 200 if is_wide else 170
    return tiles(len(competitions), width, columns, tall, left=52, gap=14, head=head, foot=foot, first=first)


def _key(canvas: Canvas, y: float) -> None:
    """Name the marks, at the right end of a line."""
    x = canvas.width - 10
    for name, colour, hollow, radius in (
        ("fresh seeds", INK, False, 3.2), ("held out", MUTED, True, 3.2), ("chosen", INK, True, 6.0),
    ):  # fmt: skip
        x -= text_width(name, 10.5)
        canvas.text(x, y, name, size=10.5)
        x -= 12
        canvas.dot(x, y - 4, colour, radius, hollow)
        x -= 20


def _note(found: Competition) -> str:
    return "chosen at the grid's edge" if found.at_edge else "" if found.chosen else "nothing chosen"


def _ends(analysis: Analysis, competitions: Sequence[Competition]) -> tuple[float, float]:
    """Return an axis that shows the contest; levels that are far worse than the middle one leave it."""
    primary, is_log = analysis.primary, analysis.primary.logarithmic
    values = np.concatenate([each.values.ravel() for each in competitions]) * primary.scale
    values = values[np.isfinite(values)]
    shown = np.log(values) if is_log else values
    sign = -1.0 if primary.direction == "higher" else 1.0
    best, middle = (sign * shown).min(), float(np.median(sign * shown))
    worst = min((sign * shown).max(), best + _REACH * (middle - best)) if middle > best else (sign * shown).max()
    kept = sign * np.array([best, worst])
    fresh = [s.mean for s in analysis.summaries[primary.name].values() if s.mean is not None]
    kept = np.exp(kept) if is_log else kept
    return span(np.append(kept, np.array(fresh) * primary.scale), 0.1, is_log)


def _levels(found: Competition) -> tuple[np.ndarray, tuple[float, float], bool]:
    """Return the places of the levels and the ends of the axis: logarithmic for numbers that rise by factors."""
    try:
        numbers = np.array([float(label) for label in found.labels])
    except ValueError:
        numbers = np.zeros(1)
    if len(numbers) > 2 and numbers[0] > 0 and (np.diff(numbers) > 0).all() and numbers[-1] / numbers[0] >= 4:
        room = (numbers[-1] / numbers[0]) ** 0.16
        return numbers, (float(numbers[0] / room), float(numbers[-1] * room)), True
    places = np.arange(len(found.labels), dtype=float)
    return places, (-0.5, len(places) - 0.5), False


def _name_levels(panel: Panel, found: Competition, places: np.ndarray) -> None:
    panel.names_below(places, found.labels, size=10)
    if found.factor:
        x, y = panel.x.end, panel.y.start + 32
        panel.canvas.text(x, y, found.factor, anchor="end", size=10)


def _draw(panel: Panel, analysis: Analysis, found: Competition, places: np.ndarray, colour: str) -> None:
    values = found.values * analysis.primary.scale
    seeds = evenly(range(values.shape[1]), _MOST_SEEDS)
    flat, across = values[:, seeds].ravel(), np.repeat(places, len(seeds))
    beyond = (flat > panel.y.high) | (flat < panel.y.low)
    panel.dots(across[~beyond], flat[~beyond], colour, 2.2, opacity=0.6)
    panel.dots(across[beyond], np.clip(flat[beyond], panel.y.low, panel.y.high), colour, 3, hollow=True)
    is_whole = np.isfinite(values).all(axis=1)
    means = np.where(is_whole, np.nan_to_num(values).mean(axis=1), np.nan)
    if found.factor:  # levels of nothing have no order that a line could follow
        panel.line(places, means, colour, 1.8)
    panel.dots(places, means, colour, 3)
    _mark_diverged(panel, analysis, found, places)
    _mark_choice(panel, analysis, found, places, means, colour)


def _mark_diverged(panel: Panel, analysis: Analysis, found: Competition, places: np.ndarray) -> None:
    states = [(cell.arm, cell.state) for cell in analysis.accounting.cells]
    y = panel.y.low if analysis.primary.direction == "higher" else panel.y.high
    for arm, place in zip(found.arms, places, strict=True):
        count = states.count((arm, DIVERGED))
        if count:
            text = "\N{MULTIPLICATION SIGN}" * count if count <= 3 else f"{count}\N{MULTIPLICATION SIGN}"
            panel.label(float(place), y, text, INK, anchor="middle", size=12, bold=True, nudge=(0, 6))


def _mark_choice(
    panel: Panel, analysis: Analysis, found: Competition, places: np.ndarray, means: np.ndarray, colour: str
) -> None:
    """Ring the chosen level; beside it the held-out estimate and that of fresh seeds, with their intervals."""
    if found.chosen is None:
        return
    at, scale = found.arms.index(found.chosen), analysis.primary.scale
    ring = np.array([places[at]]), np.array([means[at]])
    panel.dots(*ring, INK, 6.5, hollow=True)
    panel.dots(*ring, colour, 3)
    best, fresh = found.best, analysis.summaries[analysis.primary.name].get(found.name)
    to_the_left = at == len(places) - 1
    beside = _beside(panel.x, float(places[at]), -1 if to_the_left else 1)
    held_out = (best.held_out, best.low, best.high)
    shown = [(next(beside), held_out, MUTED, "held out")]
    if fresh is not None and fresh.mean is not None:
        shown.append((next(beside), (fresh.mean, fresh.interval.low, fresh.interval.high), INK, "fresh"))
    for x, numbers, own, name in shown:
        if numbers[0] is not None:
            value, low, high = (None if limit is None else limit * scale for limit in numbers)
            panel.interval(x, low, high, own, 2)
            panel.dots(np.array([x]), np.array([value], dtype=float), own, 3.2, hollow=name == "held out")


def _beside(x: Axis, value: float, side: int) -> Iterator[float]:
    """Yield places next to a value, a few pixels further each time."""
    pixels = (x.end - x.start) / ((np.log(x.high / x.low)) if x.log else (x.high - x.low))
    for step in (11, 20, 29):
        yield value * float(np.exp(side * step / pixels)) if x.log else value + side * step / pixels
