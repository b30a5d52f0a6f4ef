"""Many runs: which, in what order, each in a fresh process, one at a time, each exactly once."""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lmexp import results
from lmexp.compose import cell_overrides, compose_run, plain_errors, value_of
from lmexp.config import ADHOC, FrozenRun, checked_seed, to_mapping
from lmexp.display import SweepDisplay
from lmexp.files import write_text
from lmexp.plan import cells, read_plan
from lmexp.results import make_writable
from lmexp.streams import stream_seed

# How long an interrupted run may take to write its rows before it is killed.
_PATIENCE_SECONDS = 30.0


def expand(arguments: Sequence[str]) -> list[list[str]]:
    """Turn a multirun's arguments into the overrides of every run, in the order they run.

    A plan gives its missing parts: ``experiment=NAME`` alone is all its cells, ``arm=a,b`` or ``seed=0`` some of them.
    Runs come in blocks of one seed, shuffled inside a block, so that a machine that slowly drifts favours no arm.

    Raises:
        UserError: an override that cannot be read, or an unknown plan or arm.
    """
    runs: list[list[str]] = []
    for point in _product(arguments):
        experiment = value_of("experiment", point)
        runs += [point] if experiment in (None, ADHOC) else _plan_cells(str(experiment), point)
    return sorted(runs, key=_place)


def _place(run: Sequence[str]) -> tuple[int, int]:
    """Return the sort key of a run: its block, then a hash of what it is, which shuffles the block.

    The order follows from the plan alone, so it is the same when a sweep is resumed or only some arms are run.
    """
    experiment, arm = value_of("experiment", run), value_of("arm", run)
    if experiment in (None, ADHOC):
        identity = [item for item in run if not item.startswith("seed=")]
    else:
        identity = [read_plan(str(experiment)).sha256, str(arm)]
    seed = checked_seed(value_of("seed", run) or 0)
    return seed, stream_seed(seed, "order", *identity)


def _product(arguments: Sequence[str]) -> list[list[str]]:
    """Return every combination of what the arguments sweep, as Hydra's own sweeper would."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    with plain_errors():
        parsed = OverridesParser.create().parse_overrides(list(arguments))
        points = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    return [list(point) for point in points]


def _plan_cells(name: str, user: list[str]) -> list[list[str]]:
    plan = read_plan(name)
    arm, seed = value_of("arm", user), value_of("seed", user)
    chosen = cells(plan, arms=[arm] if arm else [], seeds=[checked_seed(seed)] if seed else [])
    return [cell_overrides(plan, cell.arm, cell.seed, user) for cell in chosen]


@dataclass
class Child:
    """A run in its own process, and what the driver knows of it."""

    run: FrozenRun
    process: subprocess.Popen[str]
    stderr: Any


def launch(job_overrides: Sequence[Sequence[str]]) -> list[dict[str, Any] | None]:
    """Compose and freeze every run, then carry out those that are missing or failed; return each run's row.

    All configs are frozen before the first run starts: editing a file meanwhile changes nothing.

    Raises:
        UserError: any of the runs cannot be composed (none is started then), or the results folder cannot be written.
        KeyboardInterrupt: after the run under way has ended and written its rows.
    """
    runs = [compose_run(overrides) for overrides in job_overrides]
    for root in {run.folder.parent for run in runs}:
        make_writable(root)
    with SweepDisplay(runs, job_overrides) as display:
        for run in runs:
            ensure_done(run, display.observe)
            display.finished(run)
    return [results.read_row(run.folder) for run in runs]


def ensure_done(run: FrozenRun, observe: Callable[[FrozenRun, dict[str, Any]], None]) -> None:
    """Run one cell unless it is done; wait for it when another process is at it. Exactly one of them finishes it."""
    while results.state(run.folder) == "running":
        observe(run, {"phase": "running in another process"})
        time.sleep(0.5)
    if results.state(run.folder) == "done" and results.read_row(run.folder) is not None:
        return
    _clear_away(run)
    child = _start(run)
    try:
        for line in child.process.stdout or ():
            observe(run, json.loads(line))
        child.process.wait()
    except BaseException:
        _end(child)
        raise
    finally:
        _record_silent_death(child)
    if results.state(run.folder) == "running":  # another process claimed the cell between our look and our start
        ensure_done(run, observe)


def _clear_away(run: FrozenRun) -> None:
    """Set an earlier attempt aside before the worker starts: if it dies at once, the old row is not its own."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with results.claim(run.folder) as ours:
        if ours and not results.is_done(run.folder):
            results.set_attempt_aside(run.folder)


def _start(run: FrozenRun) -> Child:
    """Start a worker in a session of its own: a Ctrl-C reaches the driver alone, which ends the worker in order."""
    stderr = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  # read and closed when the worker has ended
    process = subprocess.Popen(
        [sys.executable, "-m", "lmexp.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )
    message = {"run": to_mapping(run), "folder": str(run.folder)}
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # the worker died at once: its exit code tells
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
    return Child(run, process, stderr)


def _end(child: Child) -> None:
    """Close the worker's standard input, which it takes as an interrupt, and wait for its rows."""
    assert child.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.process.stdin.close()
    try:
        child.process.wait(timeout=_PATIENCE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.process.kill()
        child.process.wait()


def _record_silent_death(child: Child) -> None:
    """Write the row of a run that could not write its own: killed, or crashed inside a library."""
    folder = child.run.folder
    with child.stderr as file:
        file.seek(0)
        said = file.read()
    if results.state(folder) != "missing" or child.process.returncode == 0:
        return
    code = child.process.returncode
    ending = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    error = f"the process ended with {ending} before it could write its row"
    write_text(folder / results.ERROR_FILE, said or error)
    results.write_run(folder, {**child.run.config.row(), "status": "failed", "error": error})
    results.finish(folder, results.FAILED)


def plan_runs(name: str, user: Sequence[str] = ()) -> list[FrozenRun]:
    """Compose every cell of a plan, with the user's overrides, in the order they run.

    Raises:
        UserError: an unknown plan, or overrides that do not compose.
    """
    return [compose_run(overrides) for overrides in expand([f"experiment={name}", *user])]
