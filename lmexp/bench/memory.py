"""``lmexp bench memory``: does training keep its memory, or does it grow with every step?"""

import resource
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lmexp.bench.harness import OURS, Benchmark, Measurement, Side
from lmexp.compose import compose_run, single_overrides
from lmexp.errors import UserError

if TYPE_CHECKING:
    from lmexp.bench.child import Task

_DEFAULT = ("model=gpt_tiny", "data.batch_size=1", "data.context_length=32")  # small steps: many of them matter
_UNITS = {
    "mlx_bytes": "bytes",
    "mlx_bytes_per_1000_steps": "bytes",
    "process_bytes": "bytes",
    "process_bytes_per_1000_steps": "bytes",
}
_READINGS = 50
_FEWEST_STEPS = 100
_SETTLING = 0.2  # of the steps: caches fill and the allocator finds its size
_STATM = Path("/proc/self/statm")


def benchmark(given: Namespace) -> Benchmark:
    """Return the benchmark: ``given.steps`` steps of the training loop, in one process.

    Raises:
        UserError: too few steps for a slope.
    """
    if given.steps < _FEWEST_STEPS:
        raise UserError(f"--steps {given.steps} is too few to see a slope: choose {_FEWEST_STEPS} or more.")
    run = compose_run([*_DEFAULT, *single_overrides(given.overrides)])
    title = f"Memory over {given.steps:,} steps of {run.config.arm}; slopes without the first fifth"
    launch = Measurement("memory:measure", run, 1.0, {"steps": given.steps})
    return Benchmark(title, [Side(OURS, launch)], _UNITS, run.config.sha256)


def measure(task: "Task") -> dict[str, float]:
    """Train, and read at the log's own pace what MLX holds and how large the process is."""
    import mlx.core as mx

    from lmexp.bench.train import run_loop

    steps = task.options["steps"]
    budget = replace(task.config.budget, seconds=None, steps=steps, tokens=None, flops=None, evaluations=1)
    readings: list[tuple[int, int, int]] = []

    def read(done: int) -> None:
        if done >= steps * (_SETTLING + (1 - _SETTLING) * len(readings) / _READINGS):
            readings.append((done, mx.get_active_memory(), _process_bytes()))

    run_loop(replace(task.config, budget=budget), read)
    at, held, size = np.array(readings, dtype=float).T
    return {
        "mlx_bytes": held[-1],
        "mlx_bytes_per_1000_steps": 1000 * np.polyfit(at, held, 1)[0],
        "process_bytes": size[-1],
        "process_bytes_per_1000_steps": 1000 * np.polyfit(at, size, 1)[0],
    }


def _process_bytes() -> int:
    """Return the resident size of this process; its peak where the system does not tell (macOS, in bytes there)."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
