"""An invented experiment on disk, as large as asked: a locked plan, and the folder of a finished run for every cell."""

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml

from lmexp import config as config_room
from lmexp import files, results
from lmexp.compose import frozen_cells
from lmexp.config import FrozenRun, RunConfig
from lmexp.lock import append, cell_key, sealed
from lmexp.plan import Plan, parse_plan

NAME = "invented"
_FIRST = datetime(2026, 1, 1, tzinfo=UTC)
_STEPS_PER_POINT, _TOKENS_PER_STEP = 14, 1024
_TOKENS_PER_SECOND = 2400.0


@dataclass(frozen=True)
class Size:
    """How large: ``n_arms`` x ``n_seeds`` runs of ``n_points`` log points."""

    n_arms: int
    n_seeds: int
    n_points: int


def write_experiment(home: Path, size: Size, warm_up: str) -> None:
    """Write the plan into ``home/experiments`` and the runs, with the configs that it promises, into ``home/results``.

    Args:
        home: a folder that exists.
        size: of the experiment.
        warm_up: the plan's rule for launches.
    """
    plan = _write_plan(home, size, warm_up)
    configs, errors = frozen_cells(plan)
    assert not errors, errors
    followed = _lock(plan, configs)
    generator = np.random.Generator(np.random.PCG64(0))
    # Invented rows need not survive a power cut, and waiting for the disk forty thousand times takes minutes.
    with mock.patch.object(os, "fsync"), mock.patch.object(files, "_sync_folder"):
        for order, (seed, arm) in enumerate((seed, arm) for seed in plan.seeds for arm in plan.arms):
            config = replace(configs[cell_key(arm, seed)], arm=arm, **followed)
            _write_run(home, config, order, _score(plan, arm, seed, generator), size.n_points, generator)


def _write_plan(home: Path, size: Size, warm_up: str) -> Plan:
    path = home / "experiments" / NAME / "plan.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(_plan(size, warm_up), sort_keys=False), encoding="utf-8")
    return parse_plan(path)


def _plan(size: Size, warm_up: str) -> dict[str, Any]:
    arms = {f"arm{place}": [f"optimizer.lr={place + 1}e-4"] for place in range(size.n_arms)}
    last, steps = f"arm{size.n_arms - 1}", _STEPS_PER_POINT * size.n_points
    base = ["model=gpt_tiny", "data=synthetic", "budget=steps", f"budget.steps={steps}"]
    return {
        "name": NAME,
        "question": "How long does a report take?",
        "design": {"base": base, "arms": arms, "control": "arm0", "seeds": list(range(size.n_seeds))},
        "metrics": {
            "primary": {"name": "val_bpb", "direction": "lower", "unit": "bits/byte", "sesoi": 0.01},
            "secondary": ["tokens_per_second", "steps_per_second", "peak_memory_bytes"],
        },
        "hypotheses": [
            {
                "id": "H1",
                "claim": "The last arm is best",
                "supported_if": f"diff({last}, arm0) < 0",
                "falsified_if": f"diff({last}, arm0) > 0",
            }
        ],
        "analysis": {
            "alpha": 0.05,
            "omnibus": "blocked_anova",
            "contrasts": "dunnett_blocked",
            "effect_size": "hedges_g",
            "full": last,
            "warm_up": warm_up,
        },
    }


def _lock(plan: Plan, configs: dict[str, RunConfig]) -> dict[str, Any]:
    """Promise the plan and its cells; return what a run that follows the promise says of it."""
    promised = {cell: config.sha256_without(plan.free) for cell, config in configs.items()}
    content = {"plan": dict(plan.content), "cells": promised, "lmexp_version": "0", "git_commit": None}
    entry = sealed(kind="lock", at=_FIRST.isoformat(), reason=None, runs_existed=0, previous=None, **content)
    return {
        "experiment": NAME,
        "plan_sha256": plan.sha256,
        "lock_sha256": append(plan, entry).current.sha256,
    }


def _score(plan: Plan, arm: str, seed: int, generator: np.random.Generator) -> float:
    """Return bits per byte: each arm better than the one before it, and a part that all arms of a seed share."""
    of_seed = np.random.Generator(np.random.PCG64([1, seed])).normal(0, 0.03)
    return float(2.3 - 0.01 * list(plan.arms).index(arm) + of_seed + generator.normal(0, 0.01))


def _write_run(
    home: Path, config: RunConfig, order: int, score: float, n_points: int, generator: np.random.Generator
) -> None:
    """Write one run's folder, as a run leaves it."""
    folder = home / "results" / NAME / config.run_id
    folder.mkdir(parents=True)
    speed = _TOKENS_PER_SECOND * (1 + generator.normal(0, 0.01))
    points = _points(config.run_id, score, speed, n_points, generator)
    started_at = (_FIRST + timedelta(days=1, minutes=order)).isoformat()
    config_room.save(FrozenRun(config, folder))
    results.write_steps(folder, points)
    results.write_run(folder, {**config.row(), **_measured(points, speed), "started_at": started_at})
    results.finish(folder, results.DONE)


# fmt: off
def _measured(points: list[dict[str, Any]], speed: float) -> dict[str, Any]:
    """Return what a run measures, as its log points sum it up."""
    last, scores = points[-1], [point["val_bpb"] for point in points if point["val_bpb"] is not None]
    score = last["val_bpb"]
    return {
        "status": "ok", "git_commit": "c0ffee" * 6 + "c0ff", "git_dirty": False, "host": "invented", "device": "gpu",
        "chip": "invented", "mlx_version": "0", "blas": "none", "n_params": 4_741_376,
        "n_params_non_embedding": 4_000_000, "train_seconds": last["seconds"], "compile_seconds": 2.0 * score,
        "time_to_first_step_seconds": 4.0 * score, "eval_seconds": 20.0 * score, "steps": last["step"],
        "tokens": last["tokens"], "tokens_per_second": speed, "steps_per_second": speed / _TOKENS_PER_STEP,
        "peak_memory_bytes": int(1.4e9 + 1e6 * score), "train_loss_nats": 0.7 * score, "val_loss_nats": 0.7 * score,
        "val_bpb": score, "val_bpb_best": min(scores), "step_at_best": last["step"], "test_bpb": score + 0.02,
        "probe_before": 180.0 + score, "probe_after": 179.0 + score,
    }


def _points(
    run_id: str, score: float, speed: float, n_points: int, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """Return log points whose loss falls to the run's score; every tenth is an evaluation, and the last."""
    progress = np.linspace(0, 1, n_points + 1)[1:]
    loss = score + 3 * np.exp(-12 * progress) + generator.normal(0, 0.004, n_points)
    settling = 1 + np.exp(-np.arange(n_points) / 3)
    tokens_per_point = _STEPS_PER_POINT * _TOKENS_PER_STEP
    seconds = np.cumsum(tokens_per_point / speed * (1 + 0.02 * generator.standard_normal(n_points)) * settling)
    return [
        {
            "run_id": run_id, "step": _STEPS_PER_POINT * (place + 1), "tokens": tokens_per_point * (place + 1),
            "seconds": float(seconds[place]), "progress": float(progress[place]), "lr": 1e-3,
            "train_loss_nats": 0.7 * float(loss[place]), "grad_norm": 1.0,
            "val_bpb": float(loss[place]) if (n_points - place) % 10 == 1 else None,
            "tokens_per_second": speed, "peak_memory_bytes": 1_400_000_000,
        }
        for place in range(n_points)
    ]
# fmt: on
