"""Generated plans and rows for the tests of the analysis room: seeded, of the store's shape, not results."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lmexp.analysis import Analysis, analyse
from lmexp.lock import Lock, sealed
from lmexp.plan import Analysis as PlannedAnalysis
from lmexp.plan import Hypothesis, Metric, Plan
from lmexp.results import RUN_SCHEMA, STEP_SCHEMA

LOCK_SHA256 = "10c4ed" * 10 + "10c4"
ARMS = ("baseline", "gqa", "swiglu", "rmsnorm", "rope", "llama")
EFFECTS = {"baseline": 0.0, "gqa": -0.01, "swiglu": -0.05, "rmsnorm": -0.01, "rope": -0.12, "llama": -0.2}
SPEED = {"baseline": 2400, "gqa": 2520, "swiglu": 2350, "rmsnorm": 2450, "rope": 2280, "llama": 2330}
HYPOTHESES = (
    Hypothesis("H1", "Attention dominates: GQA brings most", "share(gqa) > 0.5", "share(gqa) < 0.2"),
    Hypothesis("H2", "The feed-forward dominates: SwiGLU brings most", "share(swiglu) > 0.5", "share(swiglu) < 0.2"),
    Hypothesis("H3", "Normalisation dominates: RMSNorm brings most", "share(rmsnorm) > 0.5", "share(rmsnorm) < 0.2"),
    Hypothesis(
        "H4",
        "Interactions dominate: no single change brings much",
        "share(gqa) < 0.2 and share(swiglu) < 0.2 and share(rmsnorm) < 0.2 and share(rope) < 0.2",
        "share(gqa) > 0.5 or share(swiglu) > 0.5 or share(rmsnorm) > 0.5 or share(rope) > 0.5",
    ),
)


def make_plan(**changes) -> Plan:
    fields = {
        "name": "gpt_to_llama",
        "question": "Which single LLaMA feature improves a GPT baseline most under a fixed time budget?",
        "base": ("model=gpt_small", "data=shakespeare", "budget.seconds=300"),
        "arms": {arm: () if arm == "baseline" else (f"model.change={arm}",) for arm in ARMS},
        "control": "baseline",
        "seeds": (0, 1, 2),
        "free": (),
        "primary": Metric("val_bpb", "lower", "bits/byte", 0.01),
        "secondary": ("tokens_per_second", "peak_memory_bytes"),
        "hypotheses": HYPOTHESES,
        "analysis": PlannedAnalysis(0.05, "blocked_anova", "dunnett_blocked", "hedges_g", "llama"),
        "exploratory": (),
        "deviations": (),
        "factors": {},
        "confirmation": None,
        "repeats": "first",
        "references": (),
        "content": {"name": "made up"},
        "path": Path("experiments/gpt_to_llama/plan.yaml"),
    }
    return Plan(**{**fields, **changes})


def make_lock(plan: Plan, *amendments: tuple[str, int]) -> Lock:
    """A lock of this plan written before the made rows, and amendments (reason, runs that existed) after it."""
    shared = {"plan": dict(plan.content), "cells": {}, "lmexp_version": "0.1.0", "git_commit": None}
    first = sealed(kind="lock", at="2026-11-01T00:00:00+00:00", reason=None, runs_existed=0, previous=None, **shared)
    entries = [replace(first, sha256=LOCK_SHA256)]
    for reason, existed in amendments:
        later = {"kind": "amendment", "at": "2026-11-01T01:00:00+00:00", "reason": reason, "runs_existed": existed}
        entries.append(sealed(previous=entries[-1].sha256, **(shared | later | {"cells": {}})))
    return FixedLock(tuple(entries), plan.path.with_name("lock.json"))


class FixedLock(Lock):
    """A lock whose first hash is made up, so that rows can name it before the plan of a test is known."""

    def faults(self) -> list[str]:
        return []


def analysed(plan: Plan, runs: pd.DataFrame, *amendments: tuple[str, int]) -> Analysis:
    """The analysis of runs that follow the plan's lock."""
    return analyse(plan, runs, make_lock(plan, *amendments))


def make_runs(plan: Plan, noise: float = 0.008, seed: int = 7, slowing: float = 0.0) -> pd.DataFrame:
    """One ok row per cell: arms differ by EFFECTS, seeds by an amount that all arms share, and ``noise`` is left."""
    generator = np.random.Generator(np.random.PCG64(seed))
    blocks = {k: generator.normal(0, 0.03) for k in plan.seeds}
    rows = []
    for order, (k, arm) in enumerate((k, arm) for k in plan.seeds for arm in plan.arms):
        bpb = 2.31 + EFFECTS.get(arm, 0.0) + blocks[k] + generator.normal(0, noise)
        speed = SPEED.get(arm, 2400) * (1 + generator.normal(0, 0.01))
        pace = 1 - slowing * order / max(1, len(plan.arms) * len(plan.seeds) - 1)
        rows.append(_row(plan, arm, k, order, bpb, speed, pace))
    return pd.DataFrame(rows, columns=[*RUN_SCHEMA.names, "folder"])


def _row(plan: Plan, arm: str, seed: int, order: int, bpb: float, speed: float, pace: float) -> dict:
    started = pd.Timestamp("2026-11-02T08:00:00Z") + pd.Timedelta(minutes=7 * order)
    run_id = f"{arm}-seed{seed}-{order:08x}"
    return {
        "experiment": plan.name,
        "arm": arm,
        "seed": seed,
        "run_id": run_id,
        "status": "ok",
        "error": None,
        "overrides": "",
        "plan_sha256": plan.sha256,
        "registered": True,
        "lock_sha256": LOCK_SHA256,
        "config_sha256": f"{order:064x}",
        "git_commit": "c0ffee" * 6 + "c0ff",
        "git_dirty": False,
        "started_at": started.isoformat(),
        "device": "gpu",
        "chip": "Apple M3 Max",
        "mlx_version": "0.32.4",
        "blas": "Accelerate",
        "n_params": 4_741_376 + 1024 * len(arm),
        "budget_seconds": 300.0,
        "train_seconds": 299.6,
        "steps": round(speed / 16 * 300 / 256),
        "tokens_per_second": speed,
        "peak_memory_bytes": 1.4e9 + 2e6 * len(arm) + 1e5 * seed,
        "val_bpb": bpb,
        "val_bpb_best": bpb,
        "probe_before": 180.0 * pace,
        "probe_after": 179.0 * pace,
        "folder": f"results/{plan.name}/{run_id}",
    }


def spoil(runs: pd.DataFrame, arm: str, seed: int, status: str, error: str) -> pd.DataFrame:
    """The same rows, but this cell's run ended with another status and has no loss."""
    cell = (runs["arm"] == arm) & (runs["seed"] == seed)
    loss = runs["val_bpb"].mask(cell)
    return runs.assign(status=runs["status"].mask(cell, status), error=runs["error"].mask(cell, error), val_bpb=loss)


def without(runs: pd.DataFrame, arm: str, seed: int) -> pd.DataFrame:
    """The same rows, but this cell never ran."""
    return runs[(runs["arm"] != arm) | (runs["seed"] != seed)]


def make_steps(runs: pd.DataFrame, n_points: int = 60, n_evaluations: int = 20) -> dict[str, pd.DataFrame]:
    """Log points for every run that has a value; val_bpb at evenly spaced evaluations, falling to the run's own."""
    return {row["run_id"]: _steps(row, n_points, n_evaluations) for row in runs.to_dict("records")}


def _steps(row: dict, n_points: int, n_evaluations: int) -> pd.DataFrame:
    progress = np.linspace(0, 1, n_points)
    generator = np.random.Generator(np.random.PCG64([int(row["seed"]), len(row["arm"])]))
    final = row["val_bpb"] if np.isfinite(row["val_bpb"]) else 2.5
    slower = 1 + 8 * (final - 2.1)
    bpb = final + 3.4 * np.exp(-14 * progress) + 0.5 * slower * (1 - progress) ** 2 * progress
    bpb += generator.normal(0, 0.006, n_points)
    bpb[-1] = final
    evaluated = np.zeros(n_points, bool)
    evaluated[np.linspace(0, n_points - 1, n_evaluations).round().astype(int)] = True
    table = pd.DataFrame(
        {
            "run_id": row["run_id"],
            "step": (progress * 2800).round(),
            "seconds": progress * row["train_seconds"],
            "progress": progress,
            "val_bpb": np.where(evaluated, bpb, np.nan),
            "train_loss_nats": bpb * 0.7,
            "tokens_per_second": row["tokens_per_second"],
        }
    )
    return table.reindex(columns=STEP_SCHEMA.names)
