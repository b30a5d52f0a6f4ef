"""Measure what a report costs: ``python benchmarks/report.py [--arms 10] [--seeds 1000] [--points 200]``.

Writes a synthetic experiment into a folder of its own (a locked plan, and for every cell a run folder with its rows, as
``lmexp.results`` writes them), then times ``lmexp report`` on it in a fresh process, on one core where the system can
hold a process to one, and prints seconds (of the wall and of the
processor: close other programs), peak memory and the size of the page. ``--keep DIR`` leaves the store for
another measurement. Nothing here belongs to the test suite.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml

from lmexp import config as config_module
from lmexp import files, results
from lmexp.compose import frozen_cells
from lmexp.config import FrozenRun, RunConfig
from lmexp.lock import append, cell_key, sealed
from lmexp.plan import Plan, parse_plan

NAME = "synthetic"
_WATCHED = """
import resource, sys
from lmexp.cli import main
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print("used", used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def main() -> None:
    """Write the store, if it is not there, and time reports of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--points", type=int, default=200, help="log points of a run")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--warm-up", default="none", help="the plan's rule for launches: none, mser5 or change_point")
    parser.add_argument("--keep", type=Path, help="folder of the store, written if it is not there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = given.keep or Path(temporary)
        if not (home / "experiments").exists():
            started = time.perf_counter()
            write_store(home, given.arms, given.seeds, given.points, given.warm_up)
            print(f"wrote {given.arms * given.seeds:,} runs in {time.perf_counter() - started:.1f} s")
        for _ in range(given.repeats):
            measure(home, given.cores)


def write_store(home: Path, n_arms: int, n_seeds: int, n_points: int, warm_up: str) -> None:
    """Write a locked plan and a finished run for each of its cells, with the configs that it promises."""
    plan = _write_plan(home, n_arms, n_seeds, warm_up)
    configs, errors = frozen_cells(plan)
    assert not errors, errors
    promised = {cell: config.sha256_without(plan.free) for cell, config in configs.items()}
    content = {"plan": dict(plan.content), "cells": promised, "lmexp_version": "0", "git_commit": None}
    first = sealed(kind="lock", at="2026-01-01T00:00:00+00:00", reason=None, runs_existed=0, previous=None, **content)
    followed: dict[str, Any] = {
        "experiment": NAME,
        "plan_sha256": plan.sha256,
        "lock_sha256": append(plan, first).current.sha256,
    }
    generator = np.random.Generator(np.random.PCG64(0))
    # Made-up rows need not survive a power cut, and waiting for the disk forty thousand times takes minutes.
    with mock.patch.object(os, "fsync"), mock.patch.object(files, "_sync_folder"):
        for order, (seed, arm) in enumerate((seed, arm) for seed in plan.seeds for arm in plan.arms):
            shared = np.random.Generator(np.random.PCG64([1, seed])).normal(0, 0.03)
            value = 2.3 - 0.01 * list(plan.arms).index(arm) + shared + generator.normal(0, 0.01)
            config = replace(configs[cell_key(arm, seed)], arm=arm, **followed)
            _write_run(home, config, order, value, n_points, generator)


def _write_plan(home: Path, n_arms: int, n_seeds: int, warm_up: str) -> Plan:
    path = home / "experiments" / NAME / "plan.yaml"
    path.parent.mkdir(parents=True)
    arms = {f"arm{place}": [f"optimizer.lr={place + 1}e-4"] for place in range(n_arms)}
    last, base = f"arm{n_arms - 1}", ["model=gpt_tiny", "data=synthetic", "budget=steps", f"budget.steps={14 * 200}"]
    content = {
        "name": NAME,
        "question": "How long does a report take?",
        "design": {"base": base, "arms": arms, "control": "arm0", "seeds": list(range(n_seeds))},
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
            "alpha": 0.05, "omnibus": "blocked_anova", "contrasts": "dunnett_blocked", "effect_size": "hedges_g",
            "full": last, "warm_up": warm_up,
        },
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return parse_plan(path)


def _write_run(
    home: Path, config: RunConfig, order: int, value: float, n_points: int, generator: np.random.Generator
) -> None:
    """Write one run's folder, as a run leaves it."""
    folder = home / "results" / NAME / config.run_id
    folder.mkdir(parents=True)
    speed = 2400.0 * (1 + generator.normal(0, 0.01))
    points = _points(config.run_id, value, speed, n_points, generator)
    started = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(minutes=order)
    config_module.save(FrozenRun(config, folder))
    results.write_steps(folder, points)
    results.write_run(folder, {**config.row(), **_measured(points, speed), "started_at": started.isoformat()})
    results.finish(folder, results.DONE)


def _measured(points: list[dict], speed: float) -> dict:
    """Return what a run measures, as its log points sum it up."""
    last, scores = points[-1], [point["val_bpb"] for point in points if point["val_bpb"] is not None]
    value = last["val_bpb"]
    return {
        "status": "ok", "git_commit": "c0ffee" * 6 + "c0ff", "git_dirty": False, "host": "made-up", "device": "gpu",
        "chip": "made up", "mlx_version": "0", "blas": "none", "n_params": 4_741_376,
        "n_params_non_embedding": 4_000_000, "train_seconds": last["seconds"], "compile_seconds": 2.0 * value,
        "time_to_first_step_seconds": 4.0 * value, "eval_seconds": 20.0 * value, "steps": last["step"],
        "tokens": last["tokens"], "tokens_per_second": speed, "steps_per_second": speed / 1024,
        "peak_memory_bytes": int(1.4e9 + 1e6 * value), "train_loss_nats": 0.7 * value, "val_loss_nats": 0.7 * value,
        "val_bpb": value, "val_bpb_best": min(scores), "step_at_best": last["step"], "test_bpb": value + 0.02,
        "probe_before": 180.0 + value, "probe_after": 179.0 + value,
    }  # fmt: skip


def _points(run_id: str, value: float, speed: float, n_points: int, generator: np.random.Generator) -> list[dict]:
    """Return log points whose loss falls to the run's value; every tenth is an evaluation, and the last."""
    progress = np.linspace(0, 1, n_points + 1)[1:]
    loss = value + 3 * np.exp(-12 * progress) + generator.normal(0, 0.004, n_points)
    settling = 1 + np.exp(-np.arange(n_points) / 3)
    seconds = np.cumsum(14 * (1024 / speed) * (1 + 0.02 * generator.standard_normal(n_points)) * settling)
    return [
        {
            "run_id": run_id, "step": 14 * (place + 1), "tokens": 14336 * (place + 1), "seconds": float(seconds[place]),
            "progress": float(progress[place]), "lr": 1e-3, "train_loss_nats": 0.7 * float(loss[place]),
            "grad_norm": 1.0, "val_bpb": float(loss[place]) if (n_points - place) % 10 == 1 else None,
            "tokens_per_second": speed, "peak_memory_bytes": 1_400_000_000,
        }
        for place in range(n_points)
    ]  # fmt: skip


def measure(home: Path, cores: int) -> None:
    """Make the report in a fresh process and print what it took."""
    command = [sys.executable, "-c", _WATCHED, "report", NAME, f"paths.results={home / 'results'}"]
    confined = {"preexec_fn": lambda: os.sched_setaffinity(0, range(cores))} if hasattr(os, "sched_setaffinity") else {}
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(cores), "PYTHONPATH": os.pathsep.join(sys.path)}
    started = time.perf_counter()
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False, env=environment, **confined)  # type: ignore[call-overload]
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr or done.stdout)
    cpu, peak = map(float, done.stderr.split()[-2:])
    peak *= 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB, macOS in bytes
    page = (home / "results" / NAME / "report.html").stat().st_size
    print(
        f"report in {seconds:.2f} s (of the processor {cpu:.2f} s), peak memory {peak / 2**20:,.0f} MiB, "
        f"page {page / 2**20:.2f} MiB",
        flush=True,
    )


if __name__ == "__main__":
    main()
