"""How fast each launch ran once it had settled: the warm-up cut off by the plan's rule, never by eye."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmexp.analysis.curves import Steps, load_steps
from lmexp.statistics.timing import Launch, launch, windows

SPEED_COLUMNS = ("steps_per_second", "tokens_per_second")


@dataclass(frozen=True)
class LaunchSpeed:
    """One run's launch: its step times over counted seconds, and where the rule says that it had settled."""

    arm: str
    seed: int
    run_id: str
    seconds: np.ndarray  # (windows,) end of each window between log points, in counted seconds
    step_seconds: np.ndarray  # (windows,) mean seconds of a step in that window
    launch: Launch


@dataclass(frozen=True)
class Speeds:
    """The launches of the runs that count."""

    launches: tuple[LaunchSpeed, ...]
    without: tuple[str, ...]  # runs without log points

    @property
    def unsettled(self) -> tuple[LaunchSpeed, ...]:
        """The launches in which no steady state was found: they have no speed."""
        return tuple(each for each in self.launches if each.launch.median is None)

    @property
    def remark(self) -> str:
        """What a reader should know before believing the speeds; nothing when every launch settled."""
        named = [each.run_id for each in self.unsettled]
        parts = [f"{', '.join(named[:4])} found no steady state and have no speed"] if named else []
        parts += [f"{', '.join(self.without[:4])} have no log points to tell their speed"] if self.without else []
        return "; ".join(parts) + "." if parts else ""

    def applied(self, used: pd.DataFrame) -> pd.DataFrame:
        """Return the rows with the speeds of the settled part; none where there is no steady state."""
        median = {(each.arm, each.seed): each.launch.median for each in self.launches}
        per_second = np.array(
            [1 / value if (value := median.get(cell)) else np.nan for cell in used.index], dtype=float
        )
        tokens_per_step = used["tokens_per_second"] / used["steps_per_second"]
        return used.assign(steps_per_second=per_second, tokens_per_second=per_second * tokens_per_step)


def steady_speeds(used: pd.DataFrame, steps: Steps, rule: str, confidence: float) -> Speeds:
    """Cut the warm-up off every launch, and take the median step time of what is left.

    Args:
        used: rows indexed by (arm, seed) with ``run_id``.
        steps: log points by run, or a function that loads them and raises UserError when it cannot.
        rule: of the plan (:func:`lmexp.statistics.timing.warm_up_cut`).
        confidence: coverage of each launch's own interval.
    """
    launches, without = [], []
    for arm, seed, run_id in used.reset_index()[["arm", "seed", "run_id"]].itertuples(index=False):
        table = load_steps(steps, str(run_id))
        if table is None or len(points := _rising(table)) < 2:
            without.append(str(run_id))
            continue
        seconds = points["seconds"].to_numpy(float)
        step_seconds, counts = windows(points["step"].to_numpy(float), seconds)
        found = launch(step_seconds, rule, confidence, counts)
        launches.append(LaunchSpeed(str(arm), int(seed), str(run_id), seconds[1:], step_seconds, found))
    return Speeds(tuple(launches), tuple(without))


def _rising(table: pd.DataFrame) -> pd.DataFrame:
    """Return the log points at which steps had been done since the one before."""
    points = table[["step", "seconds"]].dropna()
    return points[(points["step"].diff() > 0) | (points.index == points.index[0])] if len(points) else points
