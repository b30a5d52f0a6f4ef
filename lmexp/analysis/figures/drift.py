"""The machine's pace: the probes before and after every run, in order of their start."""

from collections.abc import Sequence

import numpy as np

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.chart import Axis, Canvas
from lmexp.analysis.colours import ACCENT, MUTED
from lmexp.analysis.drift import TOLERANCE, Probe
from lmexp.analysis.pictures import WIDE, Picture, counted, evenly, picture, sample_text

_PACE_STEPS = (2, 5, 10, 20, 50)  # per cent between ticks; all of them divide 100, the pace that others refer to
_MOST_RUNS = 300


def drift_plot(analysis: Analysis) -> Picture | None:
    """Draw the probes before and after every run. None with fewer than two probed runs."""
    probes = [probe for probe in analysis.drift.probes if probe.pace is not None]
    if len(probes) < 2:
        return None
    caption = (
        f"The machine's pace around each of n = {counted(len(probes), 'run')}, in order of their start; 100% is the "
        f"fastest. Below the shaded band the machine was more than {TOLERANCE:.0%} slower."
        f"{sample_text(min(len(probes), _MOST_RUNS), len(probes), 'runs')}"
    )
    alt = f"Machine pace over {counted(len(probes), 'run')}. {analysis.drift.sentence}"
    slow = {probe.run_id for probe in analysis.drift.slow}
    return picture("drift", alt, caption, lambda width: _drift(probes, slow, width))


def _drift(probes: list[Probe], slow: set[str], width: float) -> Canvas:
    places = evenly(range(len(probes)), _MOST_RUNS)
    ends = np.array([[probes[place].before, probes[place].after] for place in places], dtype=float) * 100
    orders, is_slow = np.array(places) + 1.0, np.array([probes[place].run_id in slow for place in places])
    low, high = min(93.0, float(np.nanmin(ends)) - 1), max(101.5, float(np.nanmax(ends)) + 0.5)
    canvas = Canvas(width, 210)
    x = Axis(0.4, len(probes) + 0.6, 52, width - 8)
    panel = canvas.panel(x, Axis(low, high, 168, 30, steps=_steps(low, high)))
    panel.shade(y=(100 * (1 - TOLERANCE), 100))
    panel.rules(5, lambda ticks: [f"{value:.0f}%" for value in ticks])
    panel.scale_below(8 if width == WIDE else 5, _whole, "run, in order of start")
    panel.title("Machine pace", lift=12)
    lifted = np.column_stack([ends, np.full(len(ends), np.nan)]).ravel()  # before to after, the pen leaves between runs
    panel.line(np.repeat(orders, 3), lifted, MUTED, 1.2, opacity=0.7)
    pace = np.nanmean(ends, axis=1)
    for chosen, colour in ((~is_slow, MUTED), (is_slow, ACCENT)):
        panel.dots(orders[chosen], pace[chosen], colour, 2.8 if len(places) < 100 else 1.8)
    return canvas


def _steps(low: float, high: float) -> tuple[float, ...]:
    """Return the tick steps, in the digits of the axis, that reach 100%."""
    step = next((step for step in _PACE_STEPS if high - low <= 5 * step), _PACE_STEPS[-1])
    return (step / 10 if step >= 10 else step,)


def _whole(ticks: Sequence[float]) -> list[str]:
    return [f"{value:.0f}" if value == round(value) else "" for value in ticks]
