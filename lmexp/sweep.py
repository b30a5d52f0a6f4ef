"""Many runs: which, in what order, each in a fresh process, one at a time on a device, each exactly once."""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmexp import platform, results
from lmexp.compose import cell_overrides, compose_run, plain_errors, value_of
from lmexp.config import ADHOC, FrozenRun, checked_seed, save, to_mapping
from lmexp.display import SweepDisplay
from lmexp.evidence import counted_rows
from lmexp.files import write_text
from lmexp.lock import read_lock
from lmexp.plan import Plan, cells, check_measured, confirmation_cells, read_plan
from lmexp.results import make_writable
from lmexp.stages import DIVERGED, choose
from lmexp.streams import stream_seed

# How long an interrupted run may take to write its rows before it is killed.
_PATIENCE_SECONDS = 30.0
_POLL_SECONDS = 0.5


def expand(arguments: Sequence[str]) -> list[list[str]]:
    """Turn a multirun's arguments into the overrides of every run, in the order they run.

    A plan gives its missing parts: ``experiment=NAME`` alone is all its cells, ``arm=a,b`` or ``seed=0`` some of them.
    Runs come in blocks of one seed, shuffled inside a block, so that a machine that slowly drifts favours no arm.
    What a confirmation might need comes last; :func:`launch` carries out what the sweep chooses of it.

    Raises:
        UserError: an override that cannot be read, an unknown plan or arm, or a plan whose metrics nobody measures.
    """
    runs: list[list[str]] = []
    for point in _product(arguments):
        experiment = value_of("experiment", point)
        runs += [point] if experiment in (None, ADHOC) else _plan_cells(str(experiment), point)
    return sorted(runs, key=_place)


def _place(run: Sequence[str]) -> tuple[bool, int, int]:
    """Return the sort key of a run: its stage, its block, then a hash of what it is, which shuffles the block.

    The order follows from the plan alone, so it is the same when a sweep is resumed or only some arms are run.
    """
    experiment, arm = value_of("experiment", run), value_of("arm", run)
    seed = checked_seed(value_of("seed", run) or 0)
    if experiment in (None, ADHOC):
        identity = [item for item in run if not item.startswith("seed=")]
        return False, seed, stream_seed(seed, "order", *identity)
    plan = read_plan(str(experiment))
    return _confirms(plan, seed), seed, stream_seed(seed, "order", plan.sha256, str(arm))


def _confirms(plan: Plan, seed: int) -> bool:
    return plan.confirmation is not None and seed in plan.confirmation.seeds


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
    check_measured(plan)
    arm, seed = value_of("arm", user), value_of("seed", user)
    arms, seeds = [arm] if arm else [], [checked_seed(seed)] if seed else []
    fresh = [
        cell for cell in confirmation_cells(plan) if (not arm or cell.arm == arm) and (not seeds or cell.seed in seeds)
    ]
    sweep = [] if seeds and _confirms(plan, seeds[0]) else cells(plan, arms, seeds)
    return [cell_overrides(plan, cell.arm, cell.seed, user) for cell in (*sweep, *fresh)]


@dataclass
class Child:
    """A run in its own process, and what the driver knows of it."""

    run: FrozenRun
    process: subprocess.Popen[str]
    stderr: Any


def launch(job_overrides: Sequence[Sequence[str]]) -> list[tuple[Sequence[str], dict[str, Any] | None]]:
    """Compose and freeze every run, then carry out those that are missing or failed.

    All configs are frozen before the first run starts: editing a file meanwhile changes nothing.

    Returns:
        The overrides and the row of every run that belongs to the sweep; of a confirmation, of what the sweep chose.

    Raises:
        UserError: any of the runs cannot be composed (none is started then), or the results folder cannot be written.
        KeyboardInterrupt: after the run under way has ended and written its rows.
    """
    jobs = [(compose_run(overrides), overrides) for overrides in job_overrides]
    for root in {run.folder.parent for run, _ in jobs}:
        make_writable(root)
    sweep = [job for job in jobs if not _is_confirmation(job[0])]
    _carry_out(sweep)
    chosen = chosen_runs([run for run, _ in jobs])
    confirmation = [job for job in jobs if job[0] in chosen]
    _carry_out(confirmation)
    return [(overrides, results.read_row(run.folder)) for run, overrides in (*sweep, *confirmation)]


def _carry_out(jobs: Sequence[tuple[FrozenRun, Sequence[str]]]) -> None:
    """Carry out every run in turn; those that another process is at, on a device of its own, come last."""
    left = [run for run, _ in jobs]
    if not left:
        return
    with SweepDisplay(left, [overrides for _, overrides in jobs]) as display:
        while left:
            run = next((run for run in left if run.state != "running"), left[0])
            if ensure_done(run, display.observe):
                left = [other for other in left if other is not run]
                display.finished(run)


def _plan_of(run: FrozenRun) -> Plan | None:
    return None if run.config.plan_sha256 is None else read_plan(run.config.experiment)


def _is_confirmation(run: FrozenRun) -> bool:
    plan = _plan_of(run)
    return plan is not None and _confirms(plan, run.config.seed)


def chosen_runs(runs: Sequence[FrozenRun]) -> list[FrozenRun]:
    """Return the runs of a confirmation that the finished sweep of their plan calls for; none before it is finished."""
    fresh = [run for run in runs if _is_confirmation(run)]
    chosen: dict[tuple[object, ...], set[str]] = {}
    for run in fresh:
        if _population(run) not in chosen:
            plan = read_plan(run.config.experiment)
            chosen[_population(run)] = set(choose(plan, _rows_beside(run)).chosen.values())
    return [run for run in fresh if run.config.arm in chosen[_population(run)]]


def _population(run: FrozenRun) -> tuple[object, ...]:
    """Return what runs have in common that belong together: where they lie, and how they stand to their plan."""
    return run.folder.parent, run.config.overrides, run.config.lock_sha256


def _rows_beside(run: FrozenRun) -> list[Mapping[str, Any]]:
    """Return the rows of the sweep that this run confirms: those that count under its lock, or its exploratory like.

    Of two exploratory runs of one cell the last in the list counts, which is the latest.
    """
    config, root = run.config, run.folder.parent
    lock = None if config.lock_sha256 is None else read_lock(read_plan(config.experiment))
    if lock is not None:
        return counted_rows(lock, root)
    rows = [results.read_row(folder) for folder in results.run_folders(root)]
    alike = [
        row
        for row in rows
        if row is not None
        and row["plan_sha256"] == config.plan_sha256
        and (row["overrides"] or "") == " ".join(config.overrides)
        and not row["registered"]
        and row["status"] in ("ok", DIVERGED)
    ]
    return sorted(alike, key=lambda row: str(row["started_at"]))


def ensure_done(run: FrozenRun, observe: Callable[[FrozenRun, dict[str, Any]], None]) -> bool:
    """Run one cell unless it is done. Of all processes that try, exactly one finishes it.

    Returns:
        False, after a little while, when another process is at this cell or at this device: then try again.
    """
    if run.is_done or _is_settled(run):
        return True
    # A worker would wait for its device too, but loading it would take time from the run that is under way there.
    holder = "another process" if run.state == "running" else platform.holder_here()
    if holder is not None:
        observe(run, {"phase": f"waiting for {holder}"})
        time.sleep(_POLL_SECONDS)
        return False
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
    return results.state(run.folder) != "running"  # another process claimed the cell between our look and our start


def _is_settled(run: FrozenRun) -> bool:
    """Tell whether a cell of a sweep that chooses has diverged: that is its result, and the arm is not chosen.

    At the fresh seeds it is none (:func:`lmexp.evidence.weigh`): there a cell that diverged runs again.
    """
    plan, row = _plan_of(run), results.read_row(run.folder)
    registered = row is not None and bool(row["registered"])
    if (
        plan is None
        or plan.confirmation is None
        or run.config.seed not in plan.seeds
        or row is None
        or registered < (run.config.lock_sha256 is not None)
    ):
        return False
    return bool(row["status"] == DIVERGED)


def _clear_away(run: FrozenRun) -> None:
    """Set an earlier attempt aside before the worker starts: if it dies at once, the old row is not its own."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with results.claim(run.folder) as ours:
        if ours and not run.is_done:
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
        env=platform.environment(),
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
    save(child.run)
    write_text(folder / results.ERROR_FILE, said or error)
    results.write_run(folder, {**child.run.config.row(), "status": "failed", "error": error})
    results.finish(folder, results.FAILED)


def plan_runs(name: str, user: Sequence[str] = ()) -> list[FrozenRun]:
    """Compose every cell of a plan, with the user's overrides, in the order they run.

    Raises:
        UserError: an unknown plan, or overrides that do not compose.
    """
    return [compose_run(overrides) for overrides in expand([f"experiment={name}", *user])]
