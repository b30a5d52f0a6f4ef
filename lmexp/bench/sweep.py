"""``lmexp bench sweep``: what a cell of a sweep costs beside its own work."""

import time
from argparse import Namespace

from lmexp.bench.harness import OURS, Benchmark, Side
from lmexp.bench.runs import rows_of, without_results
from lmexp.compose import compose_run
from lmexp.errors import UserError

_DEFAULT = ("model=gpt_tiny", "budget=steps", "budget.steps=20", "budget.evaluations=1")
_UNITS = {"seconds_per_cell": "s", "reported_seconds_per_cell": "s", "overhead_seconds_per_cell": "s"}
_REPORTED = ("compile_seconds", "train_seconds", "eval_seconds")


def benchmark(given: Namespace) -> Benchmark:
    """Return the benchmark: a sweep of ``given.cells`` seeds, its wall time less what the cells' own rows report.

    The rest is the start of processes, composing, two probes of a second each, the test text, checkpoints and rows.

    Raises:
        UserError: fewer than two cells.
    """
    if given.cells < 2:
        raise UserError(f"--cells {given.cells} must be at least 2: a sweep has several.")
    overrides = [*_DEFAULT, *without_results(given.overrides)]
    config = compose_run(overrides).config

    def launch(repeat: int) -> dict[str, float]:
        seeds = ",".join(str(repeat * given.cells + seed) for seed in range(given.cells))
        started = time.perf_counter()
        rows = rows_of(["-m", *overrides, f"seed={seeds}"])
        spent = (time.perf_counter() - started) / given.cells
        reported = sum(row[column] for row in rows for column in _REPORTED) / given.cells
        return {
            "seconds_per_cell": spent,
            "reported_seconds_per_cell": reported,
            "overhead_seconds_per_cell": spent - reported,
        }

    title = f"A sweep of {given.cells} cells of {config.arm}, {config.budget.amount:g} {config.budget.unit} each"
    return Benchmark(title, [Side(OURS, launch)], _UNITS, config.sha256)
