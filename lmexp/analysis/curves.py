"""Loss curves: the evaluations of every run over charged seconds, and their mean over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmexp.analysis.pictures import evenly
from lmexp.errors import UserError
from lmexp.statistics.distributions import t_quantile

Steps = Mapping[str, pd.DataFrame] | Callable[[str], pd.DataFrame]


_SAME_TIME = 0.02  # of the budget


@dataclass(frozen=True)
class Curve:
    """One run's evaluations: ``seconds`` charged to the budget (points,) and ``values`` (points,)."""

    arm: str
    seed: int
    seconds: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class MeanCurve:
    """The mean over seeds at common times, all (points,); the band is None with fewer than two seeds."""

    seconds: np.ndarray
    mean: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    n: int


def sample_of(used: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the rows whose log points are worth reading for figures: all of them, or the same few seeds of every arm.

    Args:
        used: rows indexed by (arm, seed).
        most: about how many rows; at least three seeds per arm are kept.

    Returns:
        The rows of seeds that are evenly spaced from the first to the last: the same ones every time.
    """
    arms, seeds = used.index.get_level_values("arm"), used.index.get_level_values("seed")
    each = max(3, most // max(1, arms.nunique()))
    return used[seeds.isin(evenly(sorted(set(seeds)), each))]


def read_curves(used: pd.DataFrame, steps: Steps, metric: str) -> tuple[list[Curve], list[str]]:
    """Return the curves of the runs that count, and the runs that have none.

    Args:
        used: rows indexed by (arm, seed) with ``run_id``.
        steps: log points by run, or a function that loads them and raises UserError when it cannot.
        metric: column of the log points.
    """
    curves, without = [], []
    for arm, seed, run_id in used.reset_index()[["arm", "seed", "run_id"]].itertuples(index=False):
        table = load_steps(steps, str(run_id))
        curve = None if table is None or metric not in table else _curve(str(arm), int(seed), table, metric)
        if curve is None or not len(curve.seconds):
            without.append(str(run_id))
        else:
            curves.append(curve)
    return curves, without


def _curve(arm: str, seed: int, table: pd.DataFrame, metric: str) -> Curve:
    seconds, values = (table[column].to_numpy(dtype=float) for column in ("seconds", metric))
    known = ~(np.isnan(seconds) | np.isnan(values))
    return Curve(arm, seed, seconds[known], values[known])


def load_steps(steps: Steps, run_id: str) -> pd.DataFrame | None:
    """Return a run's log points, None when there are none to be had."""
    try:
        return steps(run_id) if callable(steps) else steps.get(run_id)
    except UserError:  # the caller names every run without a curve
        return None


def mean_curve(curves: Sequence[Curve], confidence: float) -> MeanCurve:
    """Return the mean of curves with a pointwise t band, at the first one's times that all of them cover."""
    start, end = max(curve.seconds[0] for curve in curves), min(curve.seconds[-1] for curve in curves)
    seconds = curves[0].seconds[(curves[0].seconds >= start) & (curves[0].seconds <= end)]
    seconds = np.unique(np.append(seconds, [start, end])) if end >= start else seconds
    stack = np.stack([np.interp(seconds, curve.seconds, curve.values) for curve in curves])
    mean, n = stack.mean(axis=0), len(curves)
    if n < 2:
        return MeanCurve(seconds, mean, None, None, n)
    reach = t_quantile((1 + confidence) / 2, n - 1) * stack.std(axis=0, ddof=1) / np.sqrt(n)
    return MeanCurve(seconds, mean, mean - reach, mean + reach, n)


def gaps_to(curves: Sequence[Curve], control: str) -> list[Curve]:
    """Return arm minus control of the same seed at the arm's times, for every curve whose seed the control has."""
    base = {curve.seed: curve for curve in curves if curve.arm == control}
    return [_gap(curve, base[curve.seed]) for curve in curves if curve.arm != control and curve.seed in base]


def _gap(curve: Curve, base: Curve) -> Curve:
    # Two runs evaluate at the same fraction of the budget, to the step: a moment apart is the same time.
    moment = _SAME_TIME * base.seconds[-1]
    both = (curve.seconds >= base.seconds[0] - moment) & (curve.seconds <= base.seconds[-1] + moment)
    seconds = curve.seconds[both]
    return Curve(curve.arm, curve.seed, seconds, curve.values[both] - np.interp(seconds, base.seconds, base.values))
