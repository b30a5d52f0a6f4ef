"""The two stages of a plan with a confirmation: a sweep that chooses, and fresh seeds for what was chosen.

The best of many noisy means is too good by luck. So the sweep only chooses, by the rule below, and what it chose runs
again at seeds that nobody has seen: those runs alone are judged.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lmexp.plan import Plan
from lmexp.results import measured

DIVERGED = "diverged"


@dataclass(frozen=True)
class Choice:
    """What the sweep chose. ``chosen`` gives the arm for each judged arm; ``gaps`` says why one has none (yet)."""

    chosen: Mapping[str, str]
    gaps: tuple[str, ...]


@dataclass(frozen=True)
class _Candidate:
    arm: str
    mean: float  # of the primary metric over the sweep's seeds, turned so that lower is better; infinite: diverged
    n_params: float


def choose(plan: Plan, rows: Iterable[Mapping[str, Any]]) -> Choice:
    """Choose the arm that runs again, for each competition of the plan's confirmation.

    The arm with the best mean of the primary metric over the sweep's seeds wins. Among arms whose means lie within the
    plan's smallest effect of interest of the best, the one with the fewest parameters does; then the better mean; then
    the plan's order. An arm that diverged at any seed is never chosen. Nothing is chosen before every cell of the
    competition has ended ``ok`` or ``diverged``.

    Args:
        plan: a plan with a confirmation.
        rows: the runs of the sweep that count: at most one for each arm and seed.
    """
    assert plan.confirmation is not None
    by_cell = {(row["arm"], row["seed"]): row for row in rows}
    chosen, gaps = {}, []
    for name, arms in plan.confirmation.competitions.items():
        missing = [f"{arm} seed {seed}" for arm in arms for seed in plan.seeds if not _ended(by_cell.get((arm, seed)))]
        if missing:
            more = len(missing) - 1
            named = missing[0] + (f" and {more} more" if more else "")
            gaps.append(f"{name} waits for {len(missing)} run{'s' * (more > 0)} of the sweep ({named})")
            continue
        candidates = [_candidate(plan, arm, [by_cell[arm, seed] for seed in plan.seeds]) for arm in arms]
        winner = _winner([c for c in candidates if math.isfinite(c.mean)], plan.primary.sesoi or 0.0)
        if winner is None:
            gaps.append(f"every arm that competes for {name} diverged")
        else:
            chosen[name] = winner.arm
    return Choice(chosen, tuple(gaps))


def _ended(row: Mapping[str, Any] | None) -> bool:
    return row is not None and row["status"] in ("ok", DIVERGED)


def _candidate(plan: Plan, arm: str, rows: list[Mapping[str, Any]]) -> _Candidate:
    sign = 1.0 if plan.primary.direction == "lower" else -1.0
    values = [measured(row, plan.primary.name) if row["status"] == "ok" else None for row in rows]
    known = [sign * float(value) for value in values if value is not None and math.isfinite(value)]
    mean = sum(known) / len(known) if len(known) == len(rows) else math.inf
    return _Candidate(arm, mean, float(rows[0].get("n_params") or math.inf))


def _winner(candidates: list[_Candidate], sesoi: float) -> _Candidate | None:
    best = min((candidate.mean for candidate in candidates), default=0.0)
    near = [candidate for candidate in candidates if candidate.mean <= best + sesoi]
    return min(near, key=lambda candidate: (candidate.n_params, candidate.mean), default=None)
