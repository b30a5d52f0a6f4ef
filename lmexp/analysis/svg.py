"""Elements of SVG as text: what every picture of the report is made of.

The figures are written by hand rather than by a plotting library. A report draws some twenty pictures twice (for wide
pages and for phones) in a second, in the page's own font and colours, with the same bytes under every version of
everything; loading such a library alone takes longer.
"""

from collections.abc import Iterable
from html import escape
from math import isfinite

import numpy as np


def accessible(alt: str) -> str:
    """Return the attributes that let a picture be read aloud."""
    return f'role="img" aria-label="{escape(alt)}"'


def number(value: float) -> str:
    """Return a coordinate in pixels: a tenth of one is finer than any screen."""
    return f"{round(float(value), 1) + 0.0:g}"


def element(tag: str, style: str, text: str | None = None, **attributes: float | str) -> str:
    """Return one element. ``style``: CSS; attributes that are numbers are coordinates, an underscore is a hyphen."""
    written = "".join(
        f' {name.replace("_", "-")}="{escape(value) if isinstance(value, str) else number(value)}"'
        for name, value in attributes.items()
    )
    head = f"<{tag}{written}" + (f' style="{style}"' if style else "")
    return f"{head}/>" if text is None else f"{head}>{escape(text)}</{tag}>"


def path(xs: np.ndarray, ys: np.ndarray) -> str:
    """Return the data of a line through points in pixels, both (points,); it is lifted where a value is missing."""
    parts, is_down = [], False
    for x, y in zip(np.round(xs, 1).tolist(), np.round(ys, 1).tolist(), strict=True):
        if not (isfinite(x) and isfinite(y)):
            is_down = False
            continue
        parts.append(f"{'' if is_down else 'M'}{x:g},{y:g}")
        is_down = True
    return " ".join(parts)


def marks(xs: np.ndarray, ys: np.ndarray) -> str:
    """Return the data of a path that is a dot at every point, drawn by round line ends; missing points are left out."""
    points = zip(np.round(xs, 1).tolist(), np.round(ys, 1).tolist(), strict=True)
    return "".join(f"M{x:g},{y:g}h0" for x, y in points if isfinite(x) and isfinite(y))


def document(parts: Iterable[str], width: float, height: float, alt: str) -> str:
    """Return a picture that fills the width it is given, and stands alone as well as inside a page."""
    box = f'viewBox="0 0 {number(width)} {number(height)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} {accessible(alt)} style="width:100%;height:auto">'
    return f"{head}{''.join(parts)}</svg>"
