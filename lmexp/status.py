"""What is true of a plan's runs, and the report made from them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from lmexp import results
from lmexp.compose import results_folder
from lmexp.config import FrozenRun
from lmexp.display import cells_table, time_left, troubles
from lmexp.errors import UserError
from lmexp.evidence import MOST_WEIGHED, with_faults
from lmexp.lock import Lock, read_lock
from lmexp.plan import Plan, read_plan
from lmexp.sweep import chosen_runs, plan_runs

if TYPE_CHECKING:
    import pandas as pd

_EARLIER = "an earlier plan or config"
_WAITING = "Then the confirmation: what the sweep chooses runs again at fresh seeds."


def print_status(name: str, overrides: Sequence[str]) -> None:
    """Print a table of a plan's cells as they are now.

    Raises:
        UserError: an unknown plan, or overrides that do not compose.
    """
    console, plan = Console(), read_plan(name)
    everything = plan_runs(name, overrides)
    fresh = set(plan.confirmation.seeds) if plan.confirmation else set()
    chosen = chosen_runs(everything)
    runs = [run for run in everything if run.config.seed not in fresh or run in chosen]
    arms = list(plan.arms)  # as the plan lists them: the order of the sweep is shuffled
    runs = sorted(runs, key=lambda run: (arms.index(run.config.arm), run.config.seed))
    console.print(cells_table(_title(name, overrides, runs), runs, [run.config.arm for run in runs]))
    if not runs:
        console.print(_WAITING, highlight=False)
        return
    left = time_left(runs)
    waiting = bool(fresh) and not chosen
    for line in [f"About {left} left."] * bool(left) + [_WAITING] * waiting + _standing(runs) + _remarks(runs):
        console.print(line, highlight=False)


def _standing(runs: Sequence[FrozenRun]) -> list[str]:
    """Say whether runs made now would follow the plan's lock."""
    followed = [run.config.lock_sha256 for run in runs]
    if all(followed):
        return [f"Registered: these cells follow the lock {str(followed[0])[:12]}."]
    plan = read_plan(runs[0].config.experiment)
    lock = read_lock(plan)
    if lock is None:
        return [f"Not registered: the plan is not locked (lmexp plan lock {plan.name})."]
    if lock.current.plan_sha256 != plan.sha256:
        return [
            f"Not registered: plan.yaml was edited since it was locked (lmexp plan amend {plan.name} --reason TEXT)."
        ]
    return [f"Not registered: {followed.count(None)} of these cells have another config than the lock holds."]


def _title(name: str, overrides: Sequence[str], runs: Sequence[FrozenRun]) -> str:
    states = [run.state for run in runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("done", "running", "failed", "missing"))
    return " ".join([name, *overrides]) + f": {len(runs)} cells, {counts}"


def _remarks(runs: Sequence[FrozenRun]) -> list[str]:
    """Say what a table cannot: why cells failed, what was warned of, files that were damaged, runs of other configs."""
    root = runs[0].folder.parent
    damaged = [f"{path} was damaged and is set aside; its cell runs again." for path in results.damaged_files(root)]
    groups = other_groups(runs)
    others = [f"{count} runs with other settings ({group}) lie beside these." for group, count in groups.items()]
    return [*troubles(runs), *damaged, *others]


def other_groups(runs: Sequence[FrozenRun]) -> dict[str, int]:
    """Return the runs under the same root that are not among these, counted by their command-line overrides."""
    ours = {run.folder for run in runs}
    groups: dict[str, int] = {}
    for folder in results.run_folders(runs[0].folder.parent):
        if folder not in ours and (row := results.read_row(folder)):
            group = row["overrides"] or _EARLIER
            groups[group] = groups.get(group, 0) + 1
    return groups


def write_plan_report(name: str, overrides: Sequence[str]) -> None:
    """Write a plan's report into its results folder, and print its verdicts.

    Of a locked plan the lock's own wording is judged, whatever the file says by now.

    Args:
        name: a plan.
        overrides: ``paths.results=DIR``, and the overrides of exploratory runs to report in place of registered ones.

    Raises:
        UserError: an unknown plan, a damaged lock, or no run to report on.
    """
    from lmexp.analysis.report import terminal_tables, write_report

    console, written = Console(), read_plan(name)
    lock = read_lock(written)
    plan = lock.plan() if lock else written
    root = results_folder(overrides) / name
    asked = [item for item in overrides if item.partition("=")[0] not in ("paths.results", *plan.free)]
    frame = with_faults(results.read_runs(root), lock, root)
    settings = _settings(frame, asked)
    if frame.empty or (asked and settings is None):
        raise UserError(_nothing_to_report(name, asked, root, frame))
    notes = _report_notes(written, lock, root, len(frame))
    report = write_report(plan, frame, _steps_of(frame), root, lock, settings, notes)
    for table in terminal_tables(report.analysis):
        console.print(table)
    console.print(f"Report: {report.path}", highlight=False)


def _steps_of(frame: "pd.DataFrame") -> Callable[[str], "pd.DataFrame"]:
    """Return a function that loads the log points of a run by its id; of several attempts, those of the latest row."""
    latest_last = frame[::-1]  # a folder's own row comes before those of its earlier attempts
    folders = dict(zip(latest_last["run_id"], latest_last["folder"], strict=True))
    return lambda run_id: results.read_steps(Path(folders[run_id]))


def _report_notes(written: Plan, lock: Lock | None, root: Path, n_runs: int) -> list[str]:
    notes = [f"{path} was damaged and is set aside; its cell runs again." for path in results.damaged_files(root)]
    if lock and lock.current.plan_sha256 != written.sha256:
        notes.append("plan.yaml was edited since it was locked: what is judged here is the plan as locked.")
    if n_runs > MOST_WEIGHED:
        notes.append(
            f"More than {MOST_WEIGHED:,} runs: only their seals and folders were checked here; "
            f"lmexp plan verify {written.name} checks all of them in full."
        )
    return notes + ([f"The lock was tampered with: {fault}." for fault in lock.faults()] if lock else [])


def _settings(frame: "pd.DataFrame", asked: Sequence[str]) -> str | None:
    """Return the recorded overrides that are the ones asked for, whatever their order; None when there are none."""
    recorded = frame["overrides"].dropna().unique()
    return next((text for text in recorded if asked and sorted(text.split(" ")) == sorted(asked)), None)


def _nothing_to_report(name: str, asked: Sequence[str], root: Path, frame: "pd.DataFrame") -> str:
    runs = " ".join([name, *asked])
    if len(frame):
        known = sorted(set(frame["overrides"].dropna()) | {""})
        commands = " or ".join(f"lmexp report {name} {group}".strip() for group in known)
        return f"No run of {runs} yet, but some with other settings: type {commands}."
    return f"No run of {runs} yet in {root}; make them with lmexp run -m experiment={name}."
