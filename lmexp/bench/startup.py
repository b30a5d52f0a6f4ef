"""``lmexp bench startup``: how long a person waits before anything happens."""

import time
from argparse import Namespace

from lmexp.bench.harness import OURS, Benchmark, Side, run_process
from lmexp.bench.runs import LMEXP, rows_of, without_results
from lmexp.compose import compose_run

_DEFAULT = ("model=gpt_tiny", "budget=steps", "budget.steps=5", "budget.evaluations=1")
_UNITS = {"first_step_seconds": "s", "help_seconds": "s", "show_config_seconds": "s"}


def benchmark(given: Namespace) -> Benchmark:
    """Return the benchmark: the first counted step of a tiny run, ``lmexp --help`` and ``lmexp run --cfg job``."""
    overrides = [*_DEFAULT, *without_results(given.overrides)]
    config = compose_run(overrides).config

    def launch(repeat: int) -> dict[str, float]:
        (row,) = rows_of([*overrides, f"seed={config.seed + repeat}"])
        return {
            "first_step_seconds": row["time_to_first_step_seconds"],
            "help_seconds": _seconds("--help"),
            "show_config_seconds": _seconds("run", "--cfg", "job", *overrides),
        }

    title = f"From the shell to the first counted step of {config.arm}, and to an answer"
    return Benchmark(title, [Side(OURS, launch)], _UNITS, config.sha256)


def _seconds(*arguments: str) -> float:
    started = time.perf_counter()
    run_process([*LMEXP, *arguments])
    return time.perf_counter() - started
