"""A small kit for charts: axes with honest ticks, and panels that lines, dots, bands and intervals are drawn on.

A :class:`Canvas` is as wide as the page it is for, in CSS pixels; a :class:`Panel` on it turns values into places.
Whatever is drawn ``inside`` a panel is cut off at its edge; axes and labels are not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

import numpy as np

from lmexp.analysis.colours import GRID, INK, MUTED, PAPER
from lmexp.analysis.svg import document, element, marks, number, path

SANS = "var(--sans, system-ui, sans-serif)"
TIME_STEPS = (1.0, 2.0, 3.0, 5.0, 6.0, 10.0)  # ticks at 60 s as well as at 50 s
_STEPS = (1.0, 2.0, 5.0, 10.0)
_OVERHANG = 4  # pixels by which a dot on the edge of a panel may reach out of it


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels: ``low`` lies at ``start``, ``high`` at ``end``; of logarithms when ``log``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    steps: Sequence[float] = _STEPS

    def at(self, values: float | np.ndarray) -> np.ndarray:
        """Return the places of values; NaN for what is missing or, on a logarithmic axis, not above zero."""
        low, high, given = self.low, self.high, np.asarray(values, dtype=float)
        if self.log:
            low, high = log10(low), log10(high)
            given = np.log10(given, out=np.full_like(given, np.nan), where=given > 0)
        return self.start + (given - low) / (high - low) * (self.end - self.start)

    def place(self, value: float) -> float:
        """Return the place of one value."""
        return float(self.at(value))

    def within(self, part: tuple[float, float] | None) -> tuple[float, float]:
        """Return the places, the lesser first, of a part of the axis as far as it lies on it; None is all of it."""
        low, high = sorted((self.start, self.end))
        if part is None:
            return low, high
        first, last = (min(max(self.place(end), low), high) for end in part)
        return min(first, last), max(first, last)

    def ticks(self, about: int) -> list[float]:
        """Return round values within the axis, about so many."""
        found = (
            log_ticks(self.low, self.high, about) if self.log else round_ticks(self.low, self.high, about, self.steps)
        )
        return [value for value in found if self.low <= value <= self.high]


def round_ticks(low: float, high: float, about: int, steps: Sequence[float] = _STEPS) -> list[float]:
    """Return multiples of a round step that lie between two values, about as many as asked for."""
    rough = (high - low) / max(1, about)
    base = 10.0 ** floor(log10(rough))
    step = next((s * base for s in steps if s * base >= 0.7 * rough), 10 * base)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(place * step, 12 - floor(log10(step))) for place in range(first, last + 1)]


def log_ticks(low: float, high: float, about: int) -> list[float]:
    """Return round values for a logarithmic axis: powers of ten, with 2 and 5 between them where there is room."""
    if high / low < 8:
        return [value for value in round_ticks(low, high, about) if value > 0]
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    digits = (1, 2, 5) if len(decades) * 3 <= 2 * about + 2 else (1, 3) if len(decades) <= about else (1,)
    return [digit * 10.0**decade for decade in decades for digit in digits]


def span(values: Sequence[float] | np.ndarray, share: float = 0.08, log: bool = False) -> tuple[float, float]:
    """Return the ends of an axis that holds all the values with some room on either side."""
    known = np.asarray(values, dtype=float).ravel()
    known = known[np.isfinite(known) & ((known > 0) | (not log))]
    if not len(known):
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = (np.log(known.min()), np.log(known.max())) if log else (known.min(), known.max())
    room = share * (high - low) or (0.05 if log else abs(high) * 0.05 or 0.5)
    ends = (low - room, high + room)
    return (float(np.exp(ends[0])), float(np.exp(ends[1]))) if log else (float(ends[0]), float(ends[1]))


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Write the ticks of an axis with as many decimals as tell them apart, thousands set apart, a true minus sign."""
    places = max((_decimals(value) for value in ticks), default=0)
    largest = max((abs(value) for value in ticks), default=0.0)
    if largest >= 1e6:
        return [f"{value:.3g}".replace("e+0", "e").replace("e+", "e").replace("-", "\N{MINUS SIGN}") for value in ticks]
    return [f"{value + 0.0:,.{places}f}".replace("-", "\N{MINUS SIGN}") for value in ticks]


def _decimals(value: float) -> int:
    text = f"{value:.10f}".rstrip("0")
    return len(text.partition(".")[2])


def factor_texts(ticks: Sequence[float]) -> list[str]:
    """Write the ticks of an axis of ratios, each with the decimals of its own."""
    return [f"\N{MULTIPLICATION SIGN}{value:g}" for value in ticks]


def text_width(text: str, size: float = 11, bold: bool = False) -> float:
    """Return about how many pixels a text takes in a sans-serif font."""
    return len(text) * size * (0.6 if bold else 0.55)


def shortened(text: str, pixels: float, size: float = 11, bold: bool = False) -> str:
    """Return the text, or as much of it as fits with an ellipsis."""
    most = max(2, int(pixels / (size * (0.6 if bold else 0.55))))
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


class Canvas:
    """A drawing of a width and a height in CSS pixels, from the top left."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self._parts: list[str] = []
        self._panels: list[Panel] = []

    def panel(self, x: Axis, y: Axis) -> "Panel":
        """Return a new panel between the ends of two axes; ``y`` starts at the bottom."""
        self._panels.append(Panel(self, x, y))
        return self._panels[-1]

    def put(self, part: str) -> None:
        """Add an element on top of what is there, beneath all panels."""
        self._parts.append(part)

    def text(
        self, x: float, y: float, text: str, colour: str = MUTED, anchor: str = "start", size: float = 11,
        bold: bool = False,
    ) -> None:  # fmt: skip
        """Write a line of text whose baseline is at ``y``; nothing where there is nothing to say."""
        if text:
            self.put(written(x, y, text, colour, anchor, size, bold))

    def dot(self, x: float, y: float, colour: str, radius: float, hollow: bool = False) -> None:
        """Draw a mark of a key."""
        inner = PAPER if hollow else colour
        self.put(element("circle", f"fill:{inner};stroke:{colour};stroke-width:1.4", cx=x, cy=y, r=radius - 0.7))

    def svg(self, alt: str) -> str:
        """Return the drawing with its text alternative."""
        return document([*self._parts, *(panel.svg() for panel in self._panels)], self.width, self.height, alt)


def written(
    x: float, y: float, text: str, colour: str, anchor: str, size: float, bold: bool, halo: bool = False
) -> str:
    """Return a line of text as an element; a halo in the colour of the paper keeps lines from crossing it out."""
    style = f"fill:{colour};font:{'600 ' if bold else ''}{size:g}px {SANS}"
    style += f";paint-order:stroke;stroke:{PAPER};stroke-width:3px" if halo else ""
    return element("text", style, text, x=x, y=y, text_anchor=anchor)


def slanted(x: float, y: float, text: str, size: float) -> str:
    """Return a line of text that rises to a point, as an element."""
    turn = f"rotate(-38 {number(x)} {number(y)})"
    return element("text", f"fill:{MUTED};font:{size:g}px {SANS}", text, x=x, y=y, text_anchor="end", transform=turn)


class Panel:
    """A plotting area with two axes. Its methods take values, never pixels."""

    def __init__(self, canvas: Canvas, x: Axis, y: Axis):
        self.canvas, self.x, self.y = canvas, x, y
        self._behind: list[str] = []
        self._inside: list[str] = []
        self._over: list[str] = []

    def svg(self) -> str:
        """Return the panel: axes, then what is drawn inside and cut off at its edge, then labels."""
        left, right = self.x.start - _OVERHANG, self.x.end + _OVERHANG
        top, bottom = self.y.end - _OVERHANG, self.y.start + _OVERHANG
        box = f"{number(left)} {number(top)} {number(right - left)} {number(bottom - top)}"
        x, y, width, height = box.split()
        head = f'<svg x="{x}" y="{y}" width="{width}" height="{height}" viewBox="{box}" style="overflow:hidden">'
        inside = f"{head}{''.join(self._inside)}</svg>" if self._inside else ""
        return "".join(self._behind) + inside + "".join(self._over)

    def rules(
        self, about: int = 5, write: Callable[[Sequence[float]], list[str]] = tick_texts, named: bool = True
    ) -> None:
        """Draw a horizontal rule at round values of the vertical axis, with the values to the left."""
        ticks = self.y.ticks(about)
        for value, text in zip(ticks, write(ticks), strict=True):
            y = self.y.place(value)
            self._behind.append(_straight(self.x.start, self.x.end, y, y, GRID, 0.8))
            if named:
                self._behind.append(written(self.x.start - 7, y + 3.8, text, MUTED, "end", 11, False))

    def scale_below(
        self, about: int = 5, write: Callable[[Sequence[float]], list[str]] = tick_texts, title: str = ""
    ) -> None:
        """Write round values of the horizontal axis beneath the panel (but empty texts), and what they are."""
        ticks = self.x.ticks(about)
        for value, text in zip(ticks, write(ticks), strict=True):
            if not text:
                continue
            x = self.x.place(value)
            self._behind.append(_straight(x, x, self.y.start, self.y.start + 4, GRID, 1))
            self._behind.append(written(x, self.y.start + 17, text, MUTED, "middle", 11, False))
        if title:
            self._behind.append(written(self.x.end, self.y.start + 33, title, MUTED, "end", 11, False))

    def columns(self, about: int = 5) -> None:
        """Draw a vertical rule at round values of the horizontal axis."""
        for value in self.x.ticks(about):
            x = self.x.place(value)
            self._behind.append(_straight(x, x, self.y.start, self.y.end, GRID, 0.8))

    def title(self, text: str, colour: str = MUTED, bold: bool = False, lift: float = 10, size: float = 11) -> None:
        """Write a line above the panel; nothing where there is nothing to say."""
        if not text:
            return
        self._over.append(written(self.x.start, self.y.end - lift, text, colour, "start", size, bold))

    def line(
        self, xs: np.ndarray, ys: np.ndarray, colour: str, width: float = 2, opacity: float = 1, dash: str = ""
    ) -> None:
        """Draw a line through points, both (points,); it is lifted at missing ones."""
        style = f"fill:none;stroke:{colour};stroke-width:{width:g};stroke-linejoin:round;stroke-linecap:round"
        style += (f";opacity:{opacity:g}" if opacity < 1 else "") + (f";stroke-dasharray:{dash}" if dash else "")
        data = path(*thinned(self.x.at(xs), self.y.at(ys)))
        if data:
            self._inside.append(element("path", style, d=data))

    def band(self, xs: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, opacity: float = 0.16) -> None:
        """Fill between two lines over the same points, all (points,)."""
        across, lower = thinned(self.x.at(xs), self.y.at(low))
        _, upper = thinned(self.x.at(xs), self.y.at(high))
        data = path(np.concatenate([across, across[::-1]]), np.concatenate([lower, upper[::-1]]))
        self._inside.append(element("path", f"fill:{colour};opacity:{opacity:g}", d=f"{data}Z"))

    def dots(
        self, xs: np.ndarray, ys: np.ndarray, colour: str, radius: float = 3, opacity: float = 1, hollow: bool = False
    ) -> None:
        """Draw a dot at every point, both (points,); missing ones are left out."""
        data = marks(self.x.at(xs), self.y.at(ys))
        if not data:
            return
        faded = f";opacity:{opacity:g}" if opacity < 1 else ""
        for colour_here, size in [(colour, 2 * radius)] + [(PAPER, 2 * radius - 2.8)] * hollow:
            style = f"fill:none;stroke:{colour_here};stroke-width:{size:g};stroke-linecap:round{faded}"
            self._inside.append(element("path", style, d=data))

    def interval(self, x: float, low: float | None, high: float | None, colour: str, width: float = 2.4) -> None:
        """Draw a vertical interval; nothing where it is undefined."""
        if low is not None and high is not None:
            ends = np.array([low, high])
            self.line(np.array([x, x]), ends, colour, width)

    def across(self, y: float, low: float | None, high: float | None, colour: str, width: float = 2.4) -> None:
        """Draw a horizontal interval; nothing where it is undefined. An end beyond the panel has a hollow dot."""
        if low is None or high is None:
            return
        ends = np.clip([low, high], self.x.low, self.x.high)
        self.line(ends, np.array([y, y]), colour, width)
        beyond = [end for end, limit in zip(ends, (low, high), strict=True) if end != limit]
        self.dots(np.array(beyond), np.full(len(beyond), y), colour, 3.4, hollow=True)

    def level(self, value: float, colour: str = INK, width: float = 1, dash: str = "") -> None:
        """Draw a horizontal line from edge to edge."""
        self.line(np.array([self.x.low, self.x.high]), np.array([value, value]), colour, width, dash=dash)

    def upright(self, value: float, colour: str = INK, width: float = 1, dash: str = "") -> None:
        """Draw a vertical line from edge to edge."""
        self.line(np.array([value, value]), np.array([self.y.low, self.y.high]), colour, width, dash=dash)

    def shade(
        self, x: tuple[float, float] | None = None, y: tuple[float, float] | None = None, colour: str = GRID,
        opacity: float = 0.45,
    ) -> None:  # fmt: skip
        """Fill a region behind everything: a part of one axis over the whole of the other."""
        left, right = self.x.within(x)
        top, bottom = self.y.within(y)
        style = f"fill:{colour};opacity:{opacity:g}"
        self._behind.append(element("rect", style, x=left, y=top, width=right - left, height=bottom - top))

    def label(
        self, x: float, y: float, text: str, colour: str = INK, anchor: str = "start", size: float = 11,
        bold: bool = False, nudge: tuple[float, float] = (0, 0),
    ) -> None:  # fmt: skip
        """Write beside a point; ``nudge`` moves the text by pixels."""
        place = (self.x.place(x) + nudge[0], self.y.place(y) + 3.8 + nudge[1])
        if text and all(map(isfinite, place)):
            self._over.append(written(*place, text, colour, anchor, size, bold, halo=True))

    def above(self, x: float, text: str, colour: str, bold: bool = True, size: float = 11, lift: float = 6) -> None:
        """Write a name above a place on the horizontal axis."""
        self._over.append(written(self.x.place(x), self.y.end - lift, text, colour, "middle", size, bold))

    def names_below(self, places: Sequence[float] | np.ndarray, names: Sequence[str], size: float = 11) -> None:
        """Write a name beneath each place on the horizontal axis: slanted where level ones would run together."""
        room = abs(self.x.end - self.x.start) / max(1, len(names)) - 6
        is_slanted = any(text_width(name, size) > room for name in names)
        for value, name in zip(places, names, strict=True):
            x, y = self.x.place(float(value)), self.y.start + 17
            if is_slanted:
                self._over.append(slanted(x + 3, y - 4, shortened(name, 76, size), size))
            else:
                self._over.append(written(x, y, name, MUTED, "middle", size, False))


def _straight(x1: float, x2: float, y1: float, y2: float, colour: str, width: float) -> str:
    return element("line", f"stroke:{colour};stroke-width:{width:g}", x1=x1, x2=x2, y1=y1, y2=y2)


def thinned(xs: np.ndarray, ys: np.ndarray, least: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Drop points of a line that follow closer than a pixel and a half: nobody can see them, and each costs bytes."""
    if len(xs) < 3 or len(xs) * least <= abs(xs[-1] - xs[0]) or not np.isfinite(xs).all():
        return xs, ys
    bins = np.floor((xs - xs[0]) / least)
    keep = np.append(bins[1:] != bins[:-1], True)
    keep[0] = True
    return xs[keep], ys[keep]


def stacked(wanted: dict[str, float], low: float, high: float, least: float) -> dict[str, float]:
    """Move labels apart: return a place for each, at least so far from the next, in the order of what they want.

    All lie between ``low`` and ``high``; where there is no room for that, they stand as far apart as there is.
    """
    least = min(least, (high - low) / max(1, len(wanted) - 1))
    order = sorted(wanted, key=lambda name: wanted[name])
    places: list[float] = []
    for name in order:
        places.append(max(wanted[name], places[-1] + least) if places else max(wanted[name], low))
    ceiling = high
    for place in reversed(range(len(places))):
        places[place] = min(places[place], ceiling)
        ceiling = places[place] - least
    return dict(zip(order, places, strict=True))


@dataclass(frozen=True)
class Tile:
    """The plotting area of one of several small charts, in pixels; ``is_first`` stands at the left of its row."""

    left: float
    right: float
    top: float
    bottom: float
    is_first: bool
    is_last_row: bool


def tiles(
    count: int, width: float, columns: int, height: float, left: float = 46, gap: float = 18, head: float = 44,
    foot: float = 40, first: float | None = None,
) -> tuple[float, list[Tile]]:  # fmt: skip
    """Lay out small charts in rows.

    Args:
        count: how many charts.
        width: of the whole drawing.
        columns: most charts in a row.
        height: of one plotting area.
        left: room for the values of the vertical axis, at the left of each row.
        gap: pixels between neighbours.
        head: pixels above each plotting area, ``foot`` beneath the last row.
        first: pixels above the first row, where less will do than for rows beneath another.

    Returns:
        The height of the drawing and the tiles, row by row.
    """
    columns, spared = max(1, min(columns, count)), 0.0 if first is None else head - first
    n_rows = -(-count // columns)
    each = (width - left - 10 - gap * (columns - 1)) / columns
    found = []
    for place in range(count):
        row, column = divmod(place, columns)
        start, top = left + column * (each + gap), head + row * (height + head) - spared
        found.append(Tile(start, start + each, top, top + height, column == 0, place + columns >= count))
    return n_rows * (height + head) - spared + foot, found
