"""Which runs count: every launched run is used, or left out by a rule that is named; every planned cell has a state.

Runs fall into populations: those that follow the plan's lock (registered), and one for every other way of running the
plan. One population is reported; the others are exploratory beside it. A run is left out when

1. it belongs to another population;
2. its arm or seed is not in the plan, or the sweep of the plan did not choose its arm;
3. it did not end ``ok``, or its primary metric was not measured;
4. its cell already has a run that counts. Of registered runs the one that started first does (``design.repeats:
   first``) or none (``refuse``): nobody can run a cell again until it pleases. Of exploratory ones the latest does.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lmexp.lock import Entry, Lock, cell_key, moment
from lmexp.plan import Plan

Record = dict[Hashable, Any]
Cell = tuple[str, int]

OK, MISSING, UNMEASURED, REPEATED = "ok", "missing", "unmeasured", "repeated"
REGISTERED = "registered"  # the population of runs that follow the plan's lock
NOT_BELIEVED = "says that it is registered, but "
AS_PLANNED = "as the plan says, not registered"
SUPERSEDED = "an earlier attempt of a cell that ran again"
_NOT_CHOSEN = "not chosen by the sweep"
_EXPLORATORY, _OTHERS = "exploratory: ", "other settings: "


@dataclass(frozen=True)
class CellState:
    """What became of one cell of the plan: ``ok``, a status of a run that did not end well, or ``missing``."""

    arm: str
    seed: int
    state: str
    run_id: str | None
    error: str | None

    def __str__(self) -> str:
        return f"{self.arm} seed {self.seed} ({self.state})"


@dataclass(frozen=True)
class LeftOut:
    """A launched run that is not in the statistics, and the rule that leaves it out."""

    run_id: str
    arm: str
    seed: int
    status: str
    rule: str
    error: str | None


@dataclass(frozen=True)
class Accounting:
    """Every cell and every launched run, counted. ``settings`` names the population that is reported."""

    cells: tuple[CellState, ...]
    left_out: tuple[LeftOut, ...]
    n_launched: int
    settings: str

    @property
    def n_used(self) -> int:
        """Runs that are in the statistics; equally many cells."""
        return sum(cell.state == OK for cell in self.cells)

    @property
    def gaps(self) -> tuple[CellState, ...]:
        """The cells without a run that counts."""
        return tuple(cell for cell in self.cells if cell.state != OK)

    @property
    def states(self) -> dict[str, int]:
        """How many cells are in each state, ``ok`` and ``missing`` always named; the values add up to the cells."""
        counts = Counter({OK: 0, MISSING: 0})
        counts.update(cell.state for cell in self.cells)
        return dict(counts)


def with_populations(plan: Plan, runs: pd.DataFrame, lock: Lock | None) -> pd.DataFrame:
    """Return the runs with a column ``population``: ``registered``, or in words how else a run was made.

    Args:
        plan: the plan, as its lock promises it when there is one.
        runs: rows of ``run.parquet``, one per launched run.
        lock: the plan's lock.
    """
    faults = lock.faults() if lock else []  # once: the chain is hashed to find them, and there may be thousands of runs
    found = [_population(plan, row, lock, faults) for row in runs.to_dict("records")]
    return runs.assign(population=np.array(found, dtype=object)).reset_index(drop=True)


def _population(plan: Plan, row: Record, lock: Lock | None, faults: list[str]) -> str:
    if row.get("registered") is True or _text(row.get("file_fault")):
        if fault := _registration_fault(plan, row, lock, faults):
            return f"{NOT_BELIEVED}{fault}"
        is_stale = row.get("amended_since") is True or _differs(plan, row, lock.current if lock else None)
        return "follows an earlier entry of the lock, and its cell was amended since" if is_stale else REGISTERED
    if text := _text(row.get("overrides")):
        return text if text != REGISTERED else f"overrides: {text}"  # no row may name its own population
    return AS_PLANNED if row.get("plan_sha256") == plan.sha256 else "another version of the plan, not registered"


def _differs(plan: Plan, row: Record, entry: Entry | None) -> bool:
    """Tell whether a run's config is another than an entry promises its cell. Free keys: `lmexp.evidence` can tell."""
    promised = entry and entry.cells.get(cell_key(str(row["arm"]), int(row["seed"])))
    return not plan.free and promised not in (None, row["config_sha256"])


def _registration_fault(plan: Plan, row: Record, lock: Lock | None, faults: list[str]) -> str | None:
    """Say why a run that claims to follow the lock does not; None when it does."""
    if lock is None:
        return "the plan has no lock"
    if fault := _text(row.get("file_fault")):
        return fault
    if faults:
        return faults[0]
    entry = next((entry for entry in lock.entries if entry.sha256 == row.get("lock_sha256")), None)
    if entry is None:
        return "no entry of the lock has the hash that it names"
    started, made = moment(row["started_at"]), moment(entry.at)
    if started is None or made is None:
        return "nobody can tell whether it started after that entry was written"
    if started < made:
        return "it started before that entry was written"
    if _differs(plan, row, entry):
        return "its config is not the one that the lock holds"
    return None


def reported_population(runs: pd.DataFrame) -> str:
    """Choose what to report: registered runs if there are any, else the plan's own cells, else the most complete."""
    ended = runs[runs["status"] == OK]["population"].value_counts()
    by_start = runs.sort_values("started_at", kind="stable")["population"].unique()
    finished = {str(name): int(ended.get(name, 0)) for name in by_start}
    # max() keeps the first of equals: the population whose first run started earliest wins a tie.
    return max(finished, key=lambda text: (text == REGISTERED, text == AS_PLANNED, finished[text]), default=AS_PLANNED)


def account(
    plan: Plan, runs: pd.DataFrame, settings: str, chosen: dict[str, str] | None = None
) -> tuple[Accounting, pd.DataFrame]:
    """Sort the launched runs into used and left out.

    Args:
        plan: the plan; its arms and seeds are the cells.
        runs: rows of ``run.parquet`` with their populations, one per launched run.
        settings: the population to report.
        chosen: for the confirmation of a plan, the arm of the sweep behind each of the plan's arms.

    Returns:
        The accounting, and the used rows with ``arm`` and ``seed`` as their index, in the plan's order.
    """
    if chosen is not None:
        runs = _renamed(runs, chosen)
    # What decides between two runs of a cell is their start.
    first, latest = [True, True], [False, True]
    runs = runs.sort_values(
        ["started_at", "run_id"], ascending=first if settings == REGISTERED else latest, kind="stable"
    )
    records = runs.to_dict("records")
    rules = _rules(plan, records, settings)
    left_out = tuple(_left_out(row, rule) for row, rule in zip(records, rules, strict=True) if rule)
    used = runs[np.array([rule is None for rule in rules], dtype=bool)].set_index(["arm", "seed"])
    order = [(arm, seed) for arm in plan.arms for seed in plan.seeds]
    cells = _cell_states(order, used, [run for run in left_out if not run.rule.startswith((_EXPLORATORY, _OTHERS))])
    table = used.loc[[cell for cell, state in zip(order, cells, strict=True) if state.state == OK]]
    return Accounting(cells, left_out, len(runs), settings), table


def _renamed(runs: pd.DataFrame, chosen: dict[str, str]) -> pd.DataFrame:
    """Give the runs of chosen arms the names they are judged under; one arm may have been chosen for several."""
    parts = [runs[runs["arm"] == arm].assign(arm=name) for name, arm in chosen.items()]
    others = runs[~runs["arm"].isin(list(chosen.values()))]
    return pd.concat([*parts, others.assign(arm=others["arm"].map(lambda arm: f"{arm} ({_NOT_CHOSEN})"))])


def values(plan: Plan, used: pd.DataFrame, metric: str) -> np.ndarray:
    """Return one metric as (arms, seeds) in the plan's order, NaN where there is no finite value."""
    column = pd.to_numeric(used[metric], errors="coerce") if metric in used else pd.Series(dtype=float)
    measured = {cell: value for cell, value in column.items() if np.isfinite(value)}
    return np.array([[measured.get((arm, seed), np.nan) for seed in plan.seeds] for arm in plan.arms])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _rules(plan: Plan, records: list[Record], settings: str) -> list[str | None]:
    """Return, for each run in order of precedence, the rule that leaves it out; None for those that count."""
    rules = [_rule(plan, row, settings) for row in records]
    candidates: dict[Cell, list[int]] = {}
    for place, (row, rule) in enumerate(zip(records, rules, strict=True)):
        if rule is None:
            candidates.setdefault((row["arm"], row["seed"]), []).append(place)
    for places in candidates.values():
        if len(places) > 1:
            for place, rule in zip(places, _repeat_rules(plan, records, places, settings), strict=True):
                rules[place] = rule
    return rules


def _repeat_rules(plan: Plan, records: list[Record], places: list[int], settings: str) -> list[str | None]:
    """Return the rules for the runs of one cell that ran well more than once, the one with precedence first."""
    if settings != REGISTERED:
        return [None, *[SUPERSEDED] * (len(places) - 1)]
    if plan.repeats == "refuse":
        return ["the cell ran more than once, and the plan refuses that"] * len(places)
    first = records[places[0]]["started_at"]
    return [None, *[f"the run that started first, at {first}, counts for this cell"] * (len(places) - 1)]


def _rule(plan: Plan, row: Record, settings: str) -> str | None:
    if row["population"] != settings:
        return f"{_EXPLORATORY if settings == REGISTERED else _OTHERS}{row['population']}"
    if not isinstance(row["arm"], str):
        return "its row names no arm"
    if row["arm"].endswith(f"({_NOT_CHOSEN})"):
        return _NOT_CHOSEN
    if row["arm"] in plan.exploratory:
        return "an arm that the plan calls exploratory"
    if row["arm"] not in plan.arms or row["seed"] not in plan.seeds:
        return "not a cell of the plan"
    if row["status"] != OK:
        return SUPERSEDED if row.get("superseded") is True else str(row["status"])
    return None if _is_number(row.get(plan.primary.name)) else f"{plan.primary.name} was not measured"


def _left_out(row: Record, rule: str) -> LeftOut:
    error = _text(row.get("error"))
    return LeftOut(str(row["run_id"]), str(row["arm"]), int(row["seed"]), str(row["status"]), rule, error)


def _cell_states(order: list[Cell], used: pd.DataFrame, left_out: list[LeftOut]) -> tuple[CellState, ...]:
    counted = {cell: str(run_id) for cell, run_id in used["run_id"].items()}
    tried: dict[Cell, LeftOut] = {}
    for run in left_out:
        if run.rule != SUPERSEDED:
            tried[run.arm, run.seed] = run
    return tuple(_cell_state(*cell, counted.get(cell), tried.get(cell)) for cell in order)


def _cell_state(arm: str, seed: int, counted: str | None, tried: LeftOut | None) -> CellState:
    if counted is not None:
        return CellState(arm, seed, OK, counted, None)
    if tried is None:
        return CellState(arm, seed, MISSING, None, None)
    state = tried.status if tried.status != OK else REPEATED if "more than once" in tried.rule else UNMEASURED
    return CellState(arm, seed, state, tried.run_id, tried.error)


def by_population(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the runs of every population by its name, in order of their first start."""
    names = runs.sort_values("started_at", kind="stable")["population"].unique()
    return {str(name): runs[runs["population"] == name] for name in names}
