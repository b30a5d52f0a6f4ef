"""A figure of the report: drawn twice, for wide pages and for phones, with its text alternative and its caption."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

import numpy as np

from lmexp.analysis.chart import Canvas

WIDE, NARROW = 944.0, 350.0  # CSS pixels

Item = TypeVar("Item")


@dataclass(frozen=True)
class Picture:
    """One figure as SVG, wide and narrow, with its text alternative and caption."""

    name: str
    wide: str
    narrow: str
    alt: str
    caption: str

    def _repr_html_(self) -> str:
        """Show the wide form in a notebook."""
        caption = f"<figcaption>{escape(self.caption)}</figcaption>"
        return f'<figure style="margin:0;max-width:60em">{self.wide}{caption}</figure>'


def picture(name: str, alt: str, caption: str, draw: Callable[[float], Canvas]) -> Picture:
    """Return a figure; ``draw`` makes it for a width in CSS pixels."""
    wide, narrow = (draw(width).svg(alt) for width in (WIDE, NARROW))
    return Picture(name, wide, narrow, alt, caption)


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most so many items, evenly spaced from the first to the last: the same ones every time."""
    if len(items) <= most:
        return list(items)
    return [items[place] for place in np.linspace(0, len(items) - 1, most).round().astype(int)]


def counted(number: int, noun: str) -> str:
    """Return for instance ``1 seed`` or ``1,200 seeds``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def seeds_text(counts: Sequence[int]) -> str:
    """Return for instance ``n = 3 seeds per arm``, or the range where arms differ."""
    fewest, most = min(counts), max(counts)
    return f"n = {counted(most, 'seed')} per arm" if fewest == most else f"n = {fewest:,} to {most:,} seeds per arm"


def sample_text(drawn: int, n: int, what: str = "seeds") -> str:
    """Say that only some of many are drawn; nothing when all are."""
    return f" {drawn:,} of {n:,} {what} are drawn, evenly spaced." if drawn < n else ""
