"""Turns matplotlib figures into inline SVG: the same bytes for the same figure, in the colours of the page around it.

Figures are drawn in marker colours that stand for roles (ink, grid, the third arm). In the SVG each becomes a CSS
variable with a fallback, so that one picture follows the page from light to dark and still stands alone, in a notebook.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from lmexp.analysis.svg import accessible

INK, MUTED, GRID, PAPER, ACCENT, CONTROL = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_ROLES = {
    INK: "var(--ink, #1d2730)",
    MUTED: "var(--muted, #66717c)",
    GRID: "var(--grid, #dde1e4)",
    PAPER: "var(--paper, #ffffff)",
    ACCENT: "var(--accent, #0b6e74)",
    CONTROL: "var(--control, #7b858f)",
}
# Okabe and Ito's hues, told apart with every common kind of colour blindness, darkened where thin lines would fade.
ARM_COLOURS = ("#0072b2", "#c95500", "#00835f", "#a8498f", "#a97c00", "#4b9fd5")

STYLE: Any = {
    "svg.fonttype": "none",  # real text: selectable, read aloud, set in the page's own font
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
}


def arm_colour(place: int) -> str:
    """Return the marker colour of the arm at this place among the arms that are not the control."""
    return f"#0a0a{place % len(ARM_COLOURS):02x}"


@dataclass(frozen=True)
class Picture:
    """One figure as SVG, wide and (where it differs) narrow for phones, with its text alternative and caption."""

    name: str
    wide: str
    narrow: str
    alt: str
    caption: str

    def _repr_html_(self) -> str:
        """Show the wide form in a notebook."""
        return f'<figure style="margin:0;max-width:60em">{self.wide}<figcaption>{self.caption}</figcaption></figure>'


@contextmanager
def house_style(name: str) -> Iterator[None]:
    """Draw and save inside this: matplotlib's own defaults and the house style, whatever the user's settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        matplotlib.rcParams["svg.hashsalt"] = name
        yield


def figure(width: float, height: float) -> Figure:
    """Return an empty figure of this many CSS pixels."""
    return Figure(figsize=(width / 72, height / 72), dpi=72)


def to_svg(drawn: Figure, name: str, alt: str) -> str:
    """Return a figure as one ``<svg>`` element without dates, duplicate ids or fixed colours.

    Call it inside :func:`house_style`.
    """
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # The metadata hold the date and the version of matplotlib: neither belongs to the figure.
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    return _named(_themed(_own_ids(svg, name)), alt).strip()


def _own_ids(svg: str, name: str) -> str:
    """Keep only ids that something refers to, and make them the figure's own: a page holds many figures."""
    wanted = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in wanted else "", svg)
    return re.sub(r'(url\(#|href="#)([^)"]+)', rf"\g<1>{name}-\2", svg)


def _themed(svg: str) -> str:
    arms = {arm_colour(place): f"var(--arm-{place}, {colour})" for place, colour in enumerate(ARM_COLOURS)}
    for marker, variable in {**_ROLES, **arms}.items():
        svg = svg.replace(marker, variable)
    # Matplotlib names the font that it measured with; the page's own font is close in width and looks at home.
    return re.sub(r"(font: (?:bold |italic |\d{3} )*[\d.]+px) [^;\"]+", r"\1 var(--sans, system-ui, sans-serif)", svg)


def _named(svg: str, alt: str) -> str:
    head = re.search(r"<svg[^>]*>", svg)
    assert head is not None
    box = re.search(r'viewBox="([^"]+)"', head[0])
    assert box is not None
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box[1]}"'
    return f'{opening} {accessible(alt)} style="width:100%;height:auto">' + svg[head.end() :]
