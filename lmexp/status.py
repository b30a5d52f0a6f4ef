"""What is true of a plan's runs, and the report made from them."""

from collections.abc import Sequence

from rich.console import Console

from lmexp import results
from lmexp.config import FrozenRun
from lmexp.display import cells_table, time_left, troubles
from lmexp.errors import UserError
from lmexp.plan import read_plan
from lmexp.sweep import plan_runs

_EARLIER = "an earlier plan or config"


def print_status(name: str, overrides: Sequence[str]) -> None:
    """Print a table of a plan's cells as they are now.

    Raises:
        UserError: an unknown plan, or overrides that do not compose.
    """
    console = Console()
    arms = list(read_plan(name).arms)
    # As the plan lists them: the order of the sweep is shuffled.
    runs = sorted(plan_runs(name, overrides), key=lambda run: (arms.index(run.config.arm), run.config.seed))
    console.print(cells_table(_title(name, overrides, runs), runs, [run.config.arm for run in runs]))
    left = time_left(runs)
    for line in [f"About {left} left."] * bool(left) + _remarks(runs):
        console.print(line, highlight=False)


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

    Raises:
        UserError: an unknown plan, or no run to report on.
    """
    from lmexp.analysis.report import terminal_tables, write_report

    console = Console()
    plan, runs = read_plan(name), plan_runs(name, overrides)
    frame = results.runs_table(run.folder for run in runs)
    root = runs[0].folder.parent
    if frame.empty:
        raise UserError(_nothing_to_report(name, overrides, runs))
    report = write_report(
        plan, frame, lambda run_id: results.read_steps(root / run_id), root, notes=_remarks(runs), overrides=overrides
    )
    for table in terminal_tables(report.analysis):
        console.print(table)
    console.print(f"Report: {report.path}", highlight=False)


def _nothing_to_report(name: str, overrides: Sequence[str], runs: Sequence[FrozenRun]) -> str:
    cells, groups = " ".join([name, *overrides]), [group for group in other_groups(runs) if group != _EARLIER]
    if groups:
        commands = " or ".join(f"lmexp report {name} {group}" for group in groups)
        return f"No run of {cells} yet, but some with other settings: type {commands}."
    return f"No run of {cells} yet in {runs[0].folder.parent}; make them with lmexp run -m experiment={name}."
