"""The sweep of a plan with a confirmation: what it chose, and how much the best of it is too good by luck."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lmexp.analysis.cells import OK, REGISTERED, values
from lmexp.analysis.measures import listed
from lmexp.analysis.omnibus import Omnibus, omnibus
from lmexp.plan import Plan
from lmexp.stages import DIVERGED, Choice, choose
from lmexp.statistics.selection import BestOfSweep, best_of_sweep


@dataclass(frozen=True)
class Competition:
    """The arms of the sweep that compete for one arm of the confirmation.

    ``values`` is (arms, seeds) of the primary metric, NaN where a run diverged or is missing. ``labels`` names the
    arms: by the level of the one factor in which they differ (``factor``), or by themselves.
    """

    name: str
    arms: tuple[str, ...]
    labels: tuple[str, ...]
    factor: str | None
    values: np.ndarray
    chosen: str | None
    best: BestOfSweep

    @property
    def at_edge(self) -> bool:
        """Whether the chosen level is the first or last of its factor: a better one may lie outside the sweep."""
        return self.factor is not None and self.chosen in (self.arms[0], self.arms[-1]) and len(self.arms) > 1


@dataclass(frozen=True)
class Sweep:
    """The first stage. ``fixed`` tests the crossed design at fixed levels; it explores, and decides nothing."""

    choice: Choice
    competitions: tuple[Competition, ...]
    fixed: Omnibus | None

    @property
    def edges(self) -> str:
        """Say which levels were chosen at the edge of what was tried; nothing when none was."""
        chosen = [str(each.chosen) for each in self.competitions if each.at_edge]
        if not chosen:
            return ""
        lie = "lies" if len(chosen) == 1 else "lie"
        return f"{listed(chosen)} {lie} at the edge of what the sweep tried: better may lie outside."


def sweep_of(plan: Plan, used: pd.DataFrame, rows: pd.DataFrame) -> Sweep:
    """Describe the sweep.

    Args:
        plan: a plan with a confirmation.
        used: the sweep's runs that count, indexed by (arm, seed).
        rows: all of its runs in the reported population: a run that diverged counts as a result here.
    """
    assert plan.confirmation is not None
    results = _results(plan, rows)
    choice = choose(plan, results.reset_index().to_dict("records"))  # type: ignore[arg-type]
    used = used[used.index.isin(results[results["status"] != DIVERGED].index)]
    competitions = [
        _competition(plan, name, arms, used, choice) for name, arms in plan.confirmation.competitions.items()
    ]
    return Sweep(choice, tuple(competitions), _fixed(plan, used))


def _results(plan: Plan, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the run that is each cell's result, by (arm, seed): the rule of :func:`lmexp.evidence.weigh`.

    To a sweep that chooses, diverging is a result: a registered cell that diverged cannot be run until it ends well.
    Of registered runs the first to start is the result, or none if the plan refuses repeats; of others the latest.
    """
    ended = rows[rows["status"].isin((OK, DIVERGED))].sort_values(["started_at", "run_id"], kind="stable")
    registered = bool((rows["population"] == REGISTERED).any())
    if registered and plan.repeats == "refuse":
        return ended.drop_duplicates(["arm", "seed"], keep=False).set_index(["arm", "seed"])
    return ended.drop_duplicates(["arm", "seed"], keep="first" if registered else "last").set_index(["arm", "seed"])


def _competition(plan: Plan, name: str, arms: tuple[str, ...], used: pd.DataFrame, choice: Choice) -> Competition:
    table = values(replace(plan, arms=dict.fromkeys(arms, ())), used, plan.primary.name)
    factor, labels = _axis(plan, arms)
    best = best_of_sweep(table[None], plan.primary.direction, 1 - plan.analysis.alpha)[0]
    return Competition(name, arms, labels, factor, table, choice.chosen.get(name), best)


def _axis(plan: Plan, arms: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Return the one factor in which all these arms differ and their levels; without one, no factor and the arms."""
    levels = {arm: key for key, arm in plan.grid().items()}
    if len(arms) < 2 or any(arm not in levels for arm in arms):
        return None, arms
    varying = [
        (factor, tuple(levels[arm][place] for arm in arms))
        for place, factor in enumerate(plan.factors)
        if len({levels[arm][place] for arm in arms}) > 1
    ]
    return varying[0] if len(varying) == 1 else (None, arms)


def _fixed(plan: Plan, used: pd.DataFrame) -> Omnibus | None:
    """Test both factors and their interaction at fixed levels, where two are crossed and every cell has a value."""
    grid = plan.grid()
    if len(plan.factors) != 2:
        return None
    crossed = replace(
        plan,
        arms={arm: plan.arms[arm] for arm in grid.values()},
        control=None,
        analysis=replace(plan.analysis, omnibus="two_way_blocked"),
    )
    table = values(crossed, used, plan.primary.name)
    return omnibus(crossed, table) if np.isfinite(table).all() else None
