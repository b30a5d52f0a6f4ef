"""Small horizontal pictures of one estimate: its interval on a line, against the regions of a verdict or against zero.

They are written as SVG by hand, with positions in per cent: they stretch with the page while their text stays sharp.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from lmexp.analysis.svg import accessible
from lmexp.criteria import Comparison
from lmexp.statistics.estimates import Estimate


@dataclass(frozen=True)
class Scale:
    """A linear scale; ``place`` turns a value into a position in per cent, clipped to the picture."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Return the position of a value between 0 and 100."""
        return round(min(100.0, max(0.0, 100 * (value - self.low) / (self.high - self.low))), 2)


def scale_of(estimates: Sequence[Estimate], marks: Sequence[float]) -> Scale:
    """Return a scale that shows all estimates and marks, but is not blown up by an interval that dwarfs both."""
    centres = [e.value for e in estimates if e.value is not None] + list(marks)
    limits = [limit for e in estimates for limit in (e.low, e.high) if limit is not None and isfinite(limit)]
    low, high = min(centres, default=0.0), max(centres, default=1.0)
    room = 2 * (high - low) or 1.0
    low = max(min([low, *limits]), low - room)
    high = min(max([high, *limits]), high + room)
    margin = 0.08 * (high - low) or 0.5
    return Scale(low - margin, high + margin)


def verdict_strip(
    estimate: Estimate, supporting: Sequence[Comparison], falsifying: Sequence[Comparison], scale: Scale, alt: str
) -> str:
    """Draw an estimate's interval over the regions in which it would support and falsify the claim."""
    parts = [_region(comparison, scale, "falsify") for comparison in falsifying]
    parts += [_region(comparison, scale, "support") for comparison in supporting]
    bounds = {comparison.threshold for comparison in (*supporting, *falsifying)}
    for bound in sorted(bounds):
        x = scale.place(bound)
        parts.append(f'<line class="bound" x1="{x}%" x2="{x}%" y1="6" y2="36"/>')
        parts.append(f'<text class="tick" x="{x}%" y="50" text-anchor="{_anchor(x)}">{_number(bound)}</text>')
    parts.append(_interval(estimate, scale, 21))
    return _svg(parts, 54, alt, "strip")


def zero_strip(estimate: Estimate, scale: Scale, colour: str, alt: str) -> str:
    """Draw an interval against zero, one row of a forest plot. ``colour`` is a CSS colour."""
    x = scale.place(0.0)
    parts = [f'<line class="zero" x1="{x}%" x2="{x}%" y1="0" y2="24"/>', _interval(estimate, scale, 12, colour)]
    return _svg(parts, 24, alt, "forest")


def _region(comparison: Comparison, scale: Scale, kind: str) -> str:
    edge = scale.place(comparison.threshold)
    start, end = (0.0, edge) if "<" in comparison.operator else (edge, 100.0)
    return f'<rect class="{kind}" x="{start}%" width="{round(end - start, 2)}%" y="6" height="30"/>'


def _interval(estimate: Estimate, scale: Scale, y: int, colour: str | None = None) -> str:
    style = f' style="--own:{colour}"' if colour else ""
    if estimate.value is None:
        return f'<text class="tick" x="50%" y="{y + 4}" text-anchor="middle">undefined</text>'
    parts = []
    if estimate.low is not None and estimate.high is not None:
        left, right = scale.place(estimate.low), scale.place(estimate.high)
        parts.append(f'<line class="bar" x1="{left}%" x2="{right}%" y1="{y}" y2="{y}"/>')
        for limit, at in ((estimate.low, left), (estimate.high, right)):
            if not scale.low <= limit <= scale.high:  # the interval goes on: an open end
                parts.append(f'<circle class="open" cx="{at}%" cy="{y}" r="3"/>')
    parts.append(f'<circle class="point" cx="{scale.place(estimate.value)}%" cy="{y}" r="5"/>')
    return f"<g{style}>{''.join(parts)}</g>"


def _anchor(x: float) -> str:
    return "start" if x < 8 else "end" if x > 92 else "middle"


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _svg(parts: Sequence[str], height: int, alt: str, kind: str) -> str:
    return f'<svg class="{kind}" width="100%" height="{height}" {accessible(alt)}>{"".join(parts)}</svg>'
