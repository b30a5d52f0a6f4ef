"""``lmexp bench report``: what the report of an invented experiment costs, in a fresh process."""

import os
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lmexp.bench.harness import OURS, Benchmark, Side, run_process
from lmexp.bench.invented import NAME, Size, write_experiment
from lmexp.errors import UserError

_UNITS = {"seconds": "s", "processor_seconds": "s", "peak_bytes": "bytes", "page_bytes": "bytes"}
# The report's own process says what it used, once it is done; getrusage counts the peak in KiB, on macOS in bytes.
_WATCHED = """
import os, resource, sys
cores = int(sys.argv.pop(1))
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
from lmexp.cli import main
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(code)
"""


def benchmark(given: Namespace) -> Benchmark:
    """Return the benchmark of a locked plan with a finished run in every cell.

    Raises:
        UserError: a size below what an experiment has.
    """
    for option, value, fewest in (("arms", given.arms, 2), ("seeds", given.seeds, 2), ("points", given.points, 10)):
        if value < fewest:
            raise UserError(f"--{option} {value} must be at least {fewest}.")
    resources = ExitStack()
    home = given.keep or Path(resources.enter_context(TemporaryDirectory()))
    if not (home / "experiments").exists():
        write_experiment(home, Size(given.arms, given.seeds, given.points), given.warm_up)
    title = f"A report of {given.arms} x {given.seeds} runs of {given.points} log points, on {given.cores} core(s)"
    return Benchmark(title, [Side(OURS, lambda repeat: _report(home, given.cores))], _UNITS, resources=resources)


def _report(home: Path, cores: int) -> Mapping[str, float]:
    results = home / "results"
    command = [sys.executable, "-c", _WATCHED, str(cores), "report", NAME, f"paths.results={results}"]
    environment: dict[str, Any] = {"OPENBLAS_NUM_THREADS": str(cores), "PYTHONPATH": os.pathsep.join(sys.path)}
    started = time.perf_counter()
    said = run_process(command, folder=home, **environment)
    seconds = time.perf_counter() - started
    processor_seconds, peak = map(float, said.splitlines()[-1].split())
    page = (results / NAME / "report.html").stat().st_size
    return {"seconds": seconds, "processor_seconds": processor_seconds, "peak_bytes": peak, "page_bytes": page}
