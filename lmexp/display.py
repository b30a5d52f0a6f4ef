"""What a person sees on the terminal: a bar for one run, a table for many. Never imports MLX."""

import sys
import time
from collections.abc import Sequence
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from lmexp import results
from lmexp.config import FrozenRun
from lmexp.plan import read_plan

# How often the table is drawn anew while a run goes on: seldom, because on a small CPU drawing takes time from the run.
_TABLE_SECONDS = 20.0
_STYLES = {"done": "green", "failed": "red", "running": "yellow", "missing": "dim"}


def duration(seconds: float) -> str:
    """Say a duration as a person would: ``42 s``, ``3 min 20 s``, ``1 h 25 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def rate(per_second: float | None) -> str:
    """Say tokens per second."""
    return "" if per_second is None else f"{per_second:,.0f} tok/s"


class RunBar:
    """The progress bar of one run; silent when not on a terminal. Call it with every observation."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[facts]}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=1.0, facts="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def __call__(self, observation: Any) -> None:
        """Show an observation of :mod:`lmexp.run`."""
        facts = facts_of(vars(observation))
        self._progress.update(self._task, description=observation.phase, completed=observation.progress, facts=facts)


def facts_of(observation: dict[str, Any]) -> str:
    """Say in one line what a run told: loss, score, speed, time left."""
    loss, bpb = observation.get("train_loss_nats"), observation.get("val_bpb")
    left = observation.get("seconds_left")
    parts = [
        f"step {observation['step']:,}" if observation.get("step") else "",
        "" if loss is None else f"loss {loss:.3f}",
        "" if bpb is None else f"val {bpb:.3f} bpb",
        rate(observation.get("tokens_per_second")),
        "" if left is None else f"{duration(left)} left",
    ]
    return "  ".join(part for part in parts if part)


def cells_table(title: str, runs: Sequence[FrozenRun], labels: Sequence[str]) -> RenderableType:
    """Return a table of labels (arms, in order of first appearance) by seeds: each cell's score, or its state."""
    seeds, metric = sorted({run.config.seed for run in runs}), metric_of(runs)
    table = Table(header_style="bold")
    table.add_column("arm")
    for seed in seeds:
        table.add_column(f"seed {seed}", justify="right")
    by_label: dict[str, dict[int, Text]] = {}
    for run, label in zip(runs, labels, strict=True):
        by_label.setdefault(label, {})[run.config.seed] = _cell(run, metric)
    for label, cells in by_label.items():
        table.add_row(label, *(cells.get(seed, Text("")) for seed in seeds))
    return Group(
        Text(title, style="bold"), table, Text(f"A number is the {metric} of a run that is done.", style="dim")
    )


def metric_of(runs: Sequence[FrozenRun]) -> str:
    """Return what to show of the runs: the primary metric of their plan; without one, of what all of them measure."""
    planned = next((run.config for run in runs if run.config.plan_sha256), None)
    if planned is not None:
        return read_plan(planned.experiment).primary.name
    generates = all(run.config.decode.n_tokens is not None for run in runs)
    return "decode_tokens_per_second" if generates else "val_bpb"


def _score(row: dict[str, Any], metric: str) -> str:
    value = results.measured(row, metric)
    return "" if value is None else f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"


def _cell(run: FrozenRun, metric: str) -> Text:
    state = run.state
    row = results.read_row(run.folder) if state in ("done", "failed") else None
    if state == "done" and row is not None:
        return Text(_score(row, metric) or "unmeasured", style=_STYLES["done"])
    return Text(str(row["status"]) if row else state, style=_STYLES[state])


def time_left(runs: Sequence[FrozenRun]) -> str | None:
    """Estimate how long the missing cells take: from those that are done, None when none is."""
    spent, missing = [], 0
    for run in runs:
        if run.state == "done":
            started = (run.folder / results.CONFIG_FILE).stat().st_mtime
            spent.append((run.folder / results.DONE).stat().st_mtime - started)
        else:
            missing += 1
    return duration(missing * sum(spent) / len(spent)) if spent and missing else None


def troubles(runs: Sequence[FrozenRun]) -> list[str]:
    """Say which runs failed and why, and what runs were warned of."""
    rows = [row for run in runs if (row := results.read_row(run.folder))]
    failed = [
        f"{row['run_id']} {row['status']}: {row['error']} (it runs again when the sweep is resumed)"
        for row in rows
        if row["status"] != "ok"
    ]
    warned = sorted({row["warnings"] for row in rows if row["warnings"]})
    return failed + [f"Warning: {warning}." for warning in warned]


def labels_of(runs: Sequence[FrozenRun], job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """Name the rows of the table: the arm of a plan, or what an ad hoc sweep varies, the seed apart."""
    shared = set(job_overrides[0]).intersection(*job_overrides[1:])
    labels = []
    for run, overrides in zip(runs, job_overrides, strict=True):
        varied = [item for item in overrides if item not in shared and not item.startswith("seed=")]
        labels.append(run.config.arm if run.config.plan_sha256 or not varied else " ".join(varied))
    return labels


class SweepDisplay:
    """One table that fills, and a line on the run under way. Not on a terminal: one line per finished run."""

    def __init__(self, runs: Sequence[FrozenRun], job_overrides: Sequence[Sequence[str]]):
        labelled = list(zip(labels_of(runs, job_overrides), runs, strict=True))
        labelled.sort(key=lambda pair: pair[0])  # the order of the sweep is shuffled; that of the table need not be
        self._labels, self._runs = [label for label, _ in labelled], [run for _, run in labelled]
        self._console = Console()
        self._now: tuple[FrozenRun, dict[str, Any]] | None = None
        self._table: RenderableType | None = None
        self._table_made_at = 0.0
        self._live = Live(console=self._console, refresh_per_second=2, get_renderable=self._render)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._now = self._table = None
        if self._console.is_terminal:
            self._live.stop()
        else:
            self._console.print(self._render())
        for line in troubles(self._runs):
            self._console.print(line, highlight=False)

    def observe(self, run: FrozenRun, observation: dict[str, Any]) -> None:
        """Show what the run under way tells."""
        self._now = (run, observation)

    def finished(self, run: FrozenRun) -> None:
        """Take in a run that has ended."""
        self._now = self._table = None
        if not self._console.is_terminal:
            row = results.read_row(run.folder) or {}
            metric = metric_of(self._runs)
            score = f"  {metric} {_score(row, metric)}" if row.get("status") == "ok" else ""
            self._console.print(f"{run.config.run_id}  {row.get('status', 'missing')}{score}", highlight=False)

    def _render(self) -> RenderableType:
        if self._table is None or time.monotonic() - self._table_made_at > _TABLE_SECONDS:
            self._table = cells_table(self._title(), self._runs, self._labels)
            self._table_made_at = time.monotonic()
        if self._now is None:
            return self._table
        run, observation = self._now
        used = observation.get("progress")
        share = "" if used is None else f"{used:4.0%}"
        line = f"{run.config.arm} seed {run.config.seed}: {observation['phase']} {share}  {facts_of(observation)}"
        return Group(self._table, Text(line, style="yellow"))

    def _title(self) -> str:
        states = [run.state for run in self._runs]
        left = time_left(self._runs)
        counts = f"{states.count('done')} of {len(states)} done"
        return f"{self._runs[0].config.experiment}: {counts}" + (f", about {left} left" if left else "")
