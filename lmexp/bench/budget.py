"""``lmexp bench budget``: how far from its budget of seconds a run ends."""

from argparse import Namespace

from lmexp.bench.harness import OURS, Benchmark, Side
from lmexp.bench.runs import rows_of, without_results
from lmexp.compose import compose_run

_UNITS = {"overrun_seconds": "s", "overrun_steps": "steps", "overrun_share": "1"}


def benchmark(given: Namespace) -> Benchmark:
    """Return the benchmark: runs of ``given.seconds``; below zero a run ended early, which it may by one step."""
    overrides = [*without_results(given.overrides), f"budget.seconds={given.seconds}", "budget.evaluations=1"]
    config = compose_run(overrides).config

    def launch(repeat: int) -> dict[str, float]:
        (row,) = rows_of([*overrides, f"seed={config.seed + repeat}"])
        overrun = row["train_seconds"] - given.seconds
        return {
            "overrun_seconds": overrun,
            "overrun_steps": overrun / (row["train_seconds"] / row["steps"]),
            "overrun_share": overrun / given.seconds,
        }

    title = f"The end of a budget of {given.seconds:g} s: {config.arm}"
    return Benchmark(title, [Side(OURS, launch)], _UNITS, config.sha256)
