"""Which runs count: every launched run is used, or left out by a rule that is named; every planned cell has a state.

The rules, in order. A run is left out when
1. it is an earlier attempt of a cell that ran again;
2. its arm or seed is not in the plan;
3. it was made with other command-line overrides than the runs reported here (none: the plan's own cells);
4. it did not end ``ok``;
5. its primary metric was not measured;
6. its cell already has a run that counts: one of this version of the plan before others, then the one that started
   first.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lmexp.plan import Plan

Record = dict[Hashable, Any]

OK, MISSING, UNMEASURED = "ok", "missing", "unmeasured"
SUPERSEDED = "an earlier attempt of a cell that ran again"
_OTHER_SETTINGS = "other settings"
_AS_PLANNED = ""  # overrides of a cell that is the plan's own


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

    @property
    def superseded(self) -> bool:
        """Whether the cell ran again after this attempt."""
        return self.rule == SUPERSEDED


@dataclass(frozen=True)
class Accounting:
    """Every cell and every launched run, counted. ``settings`` names what the reported runs ran under."""

    cells: tuple[CellState, ...]
    left_out: tuple[LeftOut, ...]
    n_launched: int
    settings: str
    as_planned: bool  # the settings are the plan's own

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


def account(plan: Plan, runs: pd.DataFrame) -> tuple[Accounting, pd.DataFrame]:
    """Sort the launched runs into used and left out.

    Args:
        plan: the plan.
        runs: rows of ``run.parquet``, one per launched run.

    Returns:
        The accounting, and the used rows with ``arm`` and ``seed`` as their index, in the plan's order.
    """
    runs = _in_order(plan, runs)
    records = runs.to_dict("records")
    settings = _reported_settings(records)
    rules = _rules(plan, records, settings)
    left_out = tuple(_left_out(row, rule) for row, rule in zip(records, rules, strict=True) if rule)
    used = runs[np.array([rule is None for rule in rules], dtype=bool)].set_index(["arm", "seed"])
    order = [(arm, seed) for arm in plan.arms for seed in plan.seeds]
    cells = _cell_states(order, used, left_out)
    table = used.loc[[cell for cell, state in zip(order, cells, strict=True) if state.state == OK]]
    return Accounting(cells, left_out, len(runs), _describe(settings), settings == _AS_PLANNED), table


def _in_order(plan: Plan, runs: pd.DataFrame) -> pd.DataFrame:
    """Sort by what decides between two runs of a cell: this version of the plan first, then the earliest start."""
    ours = runs["plan_sha256"] == plan.sha256 if "plan_sha256" in runs else False
    ordered = runs.assign(_other=~pd.Series(ours, index=runs.index, dtype=bool))
    ordered = ordered.sort_values(["_other", "started_at", "run_id"], na_position="last", kind="stable")
    return ordered.drop(columns="_other").reset_index(drop=True)


def values(plan: Plan, used: pd.DataFrame, metric: str) -> np.ndarray:
    """Return one metric as (arms, seeds) in the plan's order, NaN where there is no finite value."""
    column = pd.to_numeric(used[metric], errors="coerce") if metric in used else pd.Series(dtype=float)
    measured = {cell: value for cell, value in column.items() if np.isfinite(value)}
    return np.array([[measured.get((arm, seed), np.nan) for seed in plan.seeds] for arm in plan.arms])


def _overrides(row: Record) -> str:
    """Return what must be equal among runs that are compared; null is the plan's own cell."""
    overrides = row.get("overrides")
    return overrides if isinstance(overrides, str) else _AS_PLANNED


def _is_superseded(row: Record) -> bool:
    """Tell whether the row is an earlier attempt; rows of a store without that column are not."""
    value: Any = row.get("superseded")
    return bool(pd.notna(value) and value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _reported_settings(records: list[Record]) -> str:
    """Choose the overrides to report: the plan's own if any run has them, else those with most finished cells."""
    finished: Counter[str] = Counter()
    for row in records:
        if not _is_superseded(row):
            finished[_overrides(row)] += row["status"] == OK
    # Insertion follows the start of the runs, and max() keeps the first of equals: the earliest settings win a tie.
    return max(finished, key=lambda text: (text == _AS_PLANNED, finished[text]), default=_AS_PLANNED)


def _rules(plan: Plan, records: list[Record], settings: str) -> list[str | None]:
    taken: dict[tuple[object, object], str] = {}
    rules: list[str | None] = []
    for row in records:
        rule = _rule(plan, row, settings, taken)
        rules.append(rule)
        if rule is None:
            taken[row["arm"], row["seed"]] = str(row["run_id"])
    return rules


def _rule(
    plan: Plan,
    row: Record,
    settings: str,
    taken: dict[tuple[object, object], str],
) -> str | None:
    cell = (row["arm"], row["seed"])
    if _is_superseded(row):
        return SUPERSEDED
    if row["arm"] not in plan.arms or row["seed"] not in plan.seeds:
        return "not a cell of the plan"
    if _overrides(row) != settings:
        return f"{_OTHER_SETTINGS}: {_describe(_overrides(row))}"
    if row["status"] != OK:
        return str(row["status"])
    if not _is_number(row.get(plan.primary.name)):
        return f"{plan.primary.name} was not measured"
    return f"{taken[cell]} counts for this cell" if cell in taken else None


def _describe(settings: str) -> str:
    return settings or "as the plan says"


def _left_out(row: Record, rule: str) -> LeftOut:
    error = row.get("error")
    text = error if isinstance(error, str) and error else None
    return LeftOut(str(row["run_id"]), str(row["arm"]), int(row["seed"]), str(row["status"]), rule, text)


def _cell_states(
    order: list[tuple[str, int]], used: pd.DataFrame, left_out: tuple[LeftOut, ...]
) -> tuple[CellState, ...]:
    counted = {cell: str(run_id) for cell, run_id in used["run_id"].items()}
    # Later runs replace earlier ones: the state of a cell is that of the last.
    ours = [run for run in left_out if not run.superseded and not run.rule.startswith(_OTHER_SETTINGS)]
    tried = {(run.arm, run.seed): run for run in ours}
    return tuple(_cell_state(*cell, counted.get(cell), tried.get(cell)) for cell in order)


def _cell_state(arm: str, seed: int, counted: str | None, tried: LeftOut | None) -> CellState:
    if counted is not None:
        return CellState(arm, seed, OK, counted, None)
    if tried is None:
        return CellState(arm, seed, MISSING, None, None)
    return CellState(arm, seed, UNMEASURED if tried.status == OK else tried.status, tried.run_id, tried.error)
