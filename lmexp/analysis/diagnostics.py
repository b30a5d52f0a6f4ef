"""The residuals of the blocked fit: what is left of every run when its arm and its seed are taken out."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.desk import Table


@dataclass(frozen=True)
class Residuals:
    """One entry per run of a complete seed, in order of start.

    ``residual`` and ``fitted`` are on the scale of the analysis: in the metric's unit, or logarithms for speeds and
    durations. ``order`` counts the runs of complete seeds from 1, in order of their start.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    order: np.ndarray
    fitted: np.ndarray
    residual: np.ndarray


def residuals(analysis: Analysis) -> Residuals | None:
    """Return the residuals of the primary metric; None with fewer than two arms or two complete seeds."""
    summaries = analysis.summaries[analysis.primary.name]
    table = Table(np.array([s.values for s in summaries.values()], dtype=float), analysis.primary)
    scaled = table.scaled
    if min(scaled.shape) < 2:
        return None
    fitted = scaled.mean(axis=1, keepdims=True) + scaled.mean(axis=0, keepdims=True) - scaled.mean()
    cells = [(arm, seed) for arm in summaries for seed in analysis.complete]
    started = pd.Series(analysis.used["started_at"].astype(str)).to_dict()
    order = sorted(range(len(cells)), key=lambda place: (started[cells[place]], cells[place]))
    flat, rest = fitted.ravel()[order], (scaled - fitted).ravel()[order]
    arms, seeds = zip(*(cells[place] for place in order), strict=True)
    return Residuals(arms, seeds, np.arange(1, len(order) + 1), flat, rest)
