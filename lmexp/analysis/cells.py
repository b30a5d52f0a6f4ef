"""Which runs count: every launched run is used, or left out by a rule that is named; every planned cell has a state.

The rules, in order. A run is left out when
1. its arm or seed is not in the plan;
2. it was made under other settings (command-line overrides, budget) than the runs reported here;
3. it did not end ``ok``;
4. its primary metric was not measured;
5. its cell already had a run that counts: the one that started first.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lmexp.plan import Plan

Record = dict[Hashable, Any]
Settings = tuple[str, float | None]  # overrides beyond the plan, budget in seconds (None: not recorded)

OK, MISSING, UNMEASURED = "ok", "missing", "unmeasured"
_OTHER_SETTINGS = "other settings"


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
    runs = runs.sort_values(["started_at", "run_id"], na_position="last", kind="stable").reset_index(drop=True)
    records = _records(runs)
    settings = _reported_settings(plan, records)
    rules = _rules(plan, records, settings)
    left_out = tuple(_left_out(row, rule) for row, rule in zip(records, rules, strict=True) if rule)
    used = runs[np.array([rule is None for rule in rules], dtype=bool)].set_index(["arm", "seed"])
    order = [(arm, seed) for arm in plan.arms for seed in plan.seeds]
    cells = _cell_states(order, used, left_out)
    table = used.loc[[cell for cell, state in zip(order, cells, strict=True) if state.state == OK]]
    as_planned = _alike(settings, ("", _planned_budget(plan)))
    return Accounting(cells, left_out, len(runs), _describe(settings), as_planned), table


def values(plan: Plan, used: pd.DataFrame, metric: str) -> np.ndarray:
    """Return one metric as (arms, seeds) in the plan's order, NaN where there is no finite value."""
    column = pd.to_numeric(used[metric], errors="coerce") if metric in used else pd.Series(dtype=float)
    measured = {cell: value for cell, value in column.items() if np.isfinite(value)}
    return np.array([[measured.get((arm, seed), np.nan) for seed in plan.seeds] for arm in plan.arms])


def _records(runs: pd.DataFrame) -> list[Record]:
    return runs.to_dict("records")


def _setting(row: Record) -> Settings:
    """Return what must be equal among runs that are compared."""
    budget: Any = row.get("budget_seconds")
    overrides = row.get("overrides")
    return (overrides if isinstance(overrides, str) else "", float(budget) if _is_number(budget) else None)


def _alike(first: Settings, second: Settings) -> bool:
    """Whether two runs may be compared; a run that failed before it recorded its budget goes with any budget."""
    return first[0] == second[0] and (first[1] == second[1] or None in (first[1], second[1]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _reported_settings(plan: Plan, records: list[Record]) -> Settings:
    """Choose the settings to report: the plan's own if any run has them, else those with most finished cells."""
    finished = Counter({_setting(row): 0 for row in records})
    finished.update(_setting(row) for row in records if row["status"] == OK)
    if not finished:
        return ("", None)
    planned = _planned_budget(plan)
    own = ("", planned)
    # Insertion follows the start of the runs, and max() keeps the first of equals: the earliest settings win a tie.
    return max(finished, key=lambda setting: (_alike(setting, own), finished[setting]))


def _planned_budget(plan: Plan) -> float | None:
    for override in reversed(plan.base):
        key, _, value = override.partition("=")
        if key == "budget.seconds":
            return float(value)
    return None


def _rules(plan: Plan, records: list[Record], settings: Settings) -> list[str | None]:
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
    settings: Settings,
    taken: dict[tuple[object, object], str],
) -> str | None:
    cell = (row["arm"], row["seed"])
    if row["arm"] not in plan.arms or row["seed"] not in plan.seeds:
        return "not a cell of the plan"
    if not _alike(_setting(row), settings):
        return f"{_OTHER_SETTINGS}: {_describe(_setting(row))}"
    if row["status"] != OK:
        return str(row["status"])
    if not _is_number(row.get(plan.primary.name)):
        return f"{plan.primary.name} was not measured"
    return f"{taken[cell]} started first" if cell in taken else None


def _describe(setting: Settings) -> str:
    overrides, budget = setting
    return overrides or ("as the plan says" if budget is None else f"budget of {budget:g} s")


def _left_out(row: Record, rule: str) -> LeftOut:
    error = row.get("error")
    text = error if isinstance(error, str) and error else None
    return LeftOut(str(row["run_id"]), str(row["arm"]), int(row["seed"]), str(row["status"]), rule, text)


def _cell_states(
    order: list[tuple[str, int]], used: pd.DataFrame, left_out: tuple[LeftOut, ...]
) -> tuple[CellState, ...]:
    counted = {cell: str(run_id) for cell, run_id in used["run_id"].items()}
    # Later attempts replace earlier ones: the state of a cell is that of its last attempt.
    tried = {(run.arm, run.seed): run for run in left_out if not run.rule.startswith(_OTHER_SETTINGS)}
    return tuple(_cell_state(*cell, counted.get(cell), tried.get(cell)) for cell in order)


def _cell_state(arm: str, seed: int, counted: str | None, tried: LeftOut | None) -> CellState:
    if counted is not None:
        return CellState(arm, seed, OK, counted, None)
    if tried is None:
        return CellState(arm, seed, MISSING, None, None)
    return CellState(arm, seed, UNMEASURED if tried.status == OK else tried.status, tried.run_id, tried.error)
