"""From launches to a table: medians, spreads, and ratios of launches that stood beside each other."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table


@dataclass(frozen=True)
class Launch:
    """One launch of one side: which repeat it belongs to, when it started, and its figures by name."""

    side: str
    repeat: int
    started_at: str  # ISO 8601, UTC
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Spread:
    """The middle of several launches, and how far apart they lie."""

    median: float
    lowest: float
    highest: float


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the extremes of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def values_of(launches: Iterable[Launch], side: str, figure: str) -> dict[int, float]:
    """Return one figure of one side, by repeat."""
    return {
        launch.repeat: launch.figures[figure] for launch in launches if launch.side == side and figure in launch.figures
    }


def paired_ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Return ours over theirs, for every repeat that has both: what slows the machine for a while slows both."""
    return [ours[repeat] / theirs[repeat] for repeat in sorted(ours) if repeat in theirs]


def table(title: str, launches: Sequence[Launch], sides: Sequence[str], figures: Iterable[str]) -> Table:
    """Return what was measured: under each figure a row for every side that has it.

    Args:
        title: what was measured on what.
        launches: of all sides.
        sides: in the order in which they are shown; ratios are the first one's over each other's.
        figures: in the order in which they are shown.
    """
    shown = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=box.SIMPLE_HEAD)
    shown.add_column("median (lowest to highest)", no_wrap=True)
    shown.add_column("", justify="right")
    shown.add_column(f"{sides[0]} / side", justify="right")
    for figure in figures:
        measured = [side for side in sides if values_of(launches, side, figure)]
        if len(measured) > 1:
            shown.add_row(figure, "", "")
        for side in measured:
            shown.add_row(figure if len(measured) == 1 else f"  {side}", *_cells(launches, sides[0], side, figure))
    return shown


def _cells(launches: Sequence[Launch], first: str, side: str, figure: str) -> tuple[str, str]:
    """Return a side's own spread, and that of our ratio to it."""
    ours, theirs = (values_of(launches, name, figure) for name in (first, side))
    ratios = [] if side == first else paired_ratios(ours, theirs)
    return _said(spread(list(theirs.values()))), _said(spread(ratios)) if ratios else ""


def _said(measured: Spread) -> str:
    if measured.lowest == measured.highest:
        return _number(measured.median)
    return f"{_number(measured.median)} ({_number(measured.lowest)} to {_number(measured.highest)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
