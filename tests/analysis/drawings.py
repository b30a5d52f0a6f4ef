"""Reads a figure back: dots and lines by their colour, turned into values by the ticks written beside the axis."""

import re
from xml.etree import ElementTree

import numpy as np

_SVG = "{http://www.w3.org/2000/svg}"
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


class Drawing:
    """The marks and texts of one SVG, in pixels."""

    def __init__(self, svg):
        self.root = ElementTree.fromstring(svg)
        self.texts = [
            (element.text, float(element.get("x")), float(element.get("y")), element.get("style"))
            for element in self.root.iter(f"{_SVG}text")
        ]

    def paths(self, colour, width=None):
        """Return the paths in a colour (a CSS variable's name), with this width where one is given: (points, 2)."""
        found = []
        for element in self.root.iter(f"{_SVG}path"):
            style = element.get("style")
            drawn = re.search(r"stroke-width:([\d.]+)", style)
            if f"stroke:var(--{colour}," in style and (width is None or float(drawn[1]) == width):
                found.append(
                    np.array([pair.split(",") for pair in re.findall(r"[-\d.]+,[-\d.]+", element.get("d"))], float)
                )
        return found

    def upright_scale(self, place=0):
        """Return the function from pixels to values of a vertical axis; ``place`` counts the axes from the top."""
        ends = [(x, y, text) for text, x, y, _ in self.texts if re.fullmatch(rf"[{TIMES}{MINUS}]?[\d.,]+%?", text)]
        leftmost = min(x for x, _, _ in ends)
        axes, last = [[]], None
        for x, y, text in ends:
            if x - leftmost > 1:
                continue
            if last is not None and y > last:  # ticks rise; the next axis starts lower down
                axes.append([])
            axes[-1].append((y - 3.8, text))
            last = y
        return _scale(axes[place])

    def level_scale(self, y, before=np.inf):
        """Return the function from pixels to values of a horizontal axis whose ticks stand at this height."""
        ticks = [(x, text) for text, x, at, _ in self.texts if abs(at - y) < 0.6 and re.search(r"\d", text)]
        return _scale([tick for tick in ticks if tick[0] < before])


def number(text):
    return float(text.replace(MINUS, "-").replace(TIMES, "").replace(",", "").replace("%", ""))


def _scale(ticks):
    """Fit values to places, linear or logarithmic, whichever is nearer; factors stand on logarithmic axes."""
    places, values = np.array([place for place, _ in ticks]), np.array([number(text) for _, text in ticks])
    plain = np.polyfit(places, values, 1)
    if (values <= 0).any():
        return lambda pixels: np.polyval(plain, pixels)
    log = np.polyfit(places, np.log(values), 1)
    misses = [np.abs(fitted - values).max() for fitted in (np.polyval(plain, places), np.exp(np.polyval(log, places)))]
    if misses[0] <= misses[1] and not any(TIMES in text for _, text in ticks):
        return lambda pixels: np.polyval(plain, pixels)
    return lambda pixels: np.exp(np.polyval(log, pixels))
