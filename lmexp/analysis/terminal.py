"""An analysis on the terminal: verdicts, arms, differences from the control. Rich is loaded when it is needed."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.findings import contrast_detectable, finding, is_tested
from lmexp.analysis.measures import Measure, number_text, p_text
from lmexp.analysis.tables import interval_text
from lmexp.analysis.verdicts import EXPLORATORY, Verdict

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table
    from rich.text import Text

_STYLES = {
    "SUPPORTED": "bold green",
    "FALSIFIED": "bold red",
    "INCONCLUSIVE": "yellow",
    "INADMISSIBLE": "dim",
    "DEVIATED": "magenta",
    "EXPLORATORY": "dim",
}


def terminal_tables(analysis: Analysis) -> "list[RenderableType]":
    """Return what the terminal shows: verdicts, arms, differences from the control; as much as the plan allows."""
    verdicts: list[Any] = [_verdicts(analysis)] if analysis.verdicts else []
    gaps: list[Any] = [_Gaps(analysis)] if analysis.comparisons[analysis.primary.name] else []
    return [*verdicts, _Arms(analysis), *gaps, _standing(analysis)]


def _table() -> "Table":
    from rich.table import Table

    return Table(box=None, pad_edge=False)


def _verdicts(analysis: Analysis) -> "Table":
    """Return one row per hypothesis; beneath its claim, why the verdict is what it is."""
    table = _table()
    table.show_header = False
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for verdict in analysis.verdicts:
        table.add_row(verdict.hypothesis.id, _chip(verdict), _claim_and_reason(analysis, verdict))
    return table


def _chip(verdict: Verdict) -> "Text":
    from rich.text import Text

    return Text(verdict.verdict, style=_STYLES[verdict.verdict])


def _claim_and_reason(analysis: Analysis, verdict: Verdict) -> "Text":
    from rich.text import Text

    text = Text(verdict.hypothesis.claim, style="bold")
    if verdict.verdict == EXPLORATORY:
        lines = [f"{term}: {interval_text(estimate)}" for term, estimate in verdict.estimates.items()]
    else:
        lines = [] if analysis.breach else [verdict.reason]
        if verdict.bare and verdict.bare != verdict.reading:
            lines.append(f"Point estimates alone would say {verdict.bare}.")
    for line in lines:
        text.append(f"\n{line}", style="not bold")
    return text


def _standing(analysis: Analysis) -> "Text":
    """Say what became of the question, and on what standing."""
    from rich.text import Text

    said = [analysis.joint if analysis.registered or not analysis.verdicts else "", analysis.answer]
    able = contrast_detectable(analysis)
    if analysis.registered and able is not None:
        said.append(f"Detectable 8 times in 10 with the error seen here: {able.text} or more.")
    return Text("\n".join(filter(None, [*said, *analysis.remarks, *_registration(analysis)])))


def _registration(analysis: Analysis) -> Iterator[str]:
    name, lock = analysis.source.name, analysis.lock
    if analysis.registered and lock is not None:
        yield f"Registered: the runs follow the lock {lock.current.sha256[:12]} (check: lmexp plan verify {name})."
        for entry in analysis.amendments:
            yield f"The plan was amended when {entry.runs_existed} runs existed: {entry.reason}"
    elif lock is not None:
        yield f"Exploratory: the plan is locked, but these runs do not follow it ({analysis.accounting.settings})."
    else:
        yield f"Exploratory: the plan is not locked, so nothing is judged (lmexp plan lock {name})."


_EFFECTS = {"hedges_g": "Hedges' g", "cohens_d": "Cohen's d", "d_z": "d_z"}


class _Fitting:
    """A table that shows as many of its columns as the terminal has room for; the files hold the rest."""

    def __init__(self, analysis: Analysis):
        self.analysis = analysis

    def columns(self) -> list[list[str]]:
        """Return the columns, the most important first, each a heading (of one or two lines) and its cells."""
        raise NotImplementedError

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        """Lay the table out for a width."""
        from rich.markup import escape

        table, left = _table(), options.max_width
        kept: list[list[str]] = []
        for column in self.columns():
            width = max(len(line) for cell in column for line in cell.split("\n")) + 2
            if kept and width > left + 2:
                break
            kept.append(column)
            left -= width
        for place, (heading, *_) in enumerate(kept):
            table.add_column(escape(heading), justify="right" if place else "left", no_wrap=place > 0)
        for row in zip(*(cells[1:] for cells in kept), strict=True):
            table.add_row(*map(escape, row))
        yield table
        yield ""


class _Arms(_Fitting):
    """One row per arm: n, and the mean of every measure."""

    def columns(self) -> list[list[str]]:
        """Return the arms, then one column per measure, the primary one first."""
        analysis = self.analysis
        arms = list(analysis.plan.arms)
        counts = [f"{analysis.summaries[analysis.primary.name][arm].n:,}" for arm in arms]
        measures = [
            [f"{measure.label}\n{measure.unit}", *(self._mean(measure, arm) for arm in arms)]
            for measure in analysis.measures
        ]
        return [["Arm", *arms], ["n", *counts], *measures]

    def _mean(self, measure: Measure, arm: str) -> str:
        summary = self.analysis.summaries[measure.name][arm]
        if summary.mean is None:
            return "\N{EN DASH}"
        has_spread = measure.name == self.analysis.primary.name and summary.n > 1
        return measure.text(summary.mean) + (f" ± {measure.text(summary.std)}" if has_spread else "")


class _Gaps(_Fitting):
    """One row per arm but the control: its difference, the interval, and what that shows."""

    def columns(self) -> list[list[str]]:
        """Return the arms and their differences in the primary measure."""
        analysis, primary = self.analysis, self.analysis.primary
        found, tested = analysis.comparisons[primary.name], is_tested(analysis)
        shown = [each.difference.shown for each in found]
        against = "relative to" if primary.logarithmic else "minus"
        limits = [f"{primary.gap(e.low)} to {primary.gap(e.high)}" if e.has_interval else "undefined" for e in shown]
        kind = "Simultaneous interval" if found[0].difference.simultaneous else "Interval"
        columns = [
            ["Arm", *(each.arm for each in found)],
            [f"{against} {analysis.plan.control}\n{primary.gap_unit}", *(primary.gap(e.value) for e in shown)],
            [f"{kind}\n{analysis.confidence:.0%}", *limits],
        ]
        if tested:
            columns.append(["Adjusted\np", *(p_text(each.difference.p_adjusted) for each in found)])
            columns.append(["Shown", *(finding(analysis, each) for each in found)])
        effect = analysis.plan.analysis.effect_size
        columns.append([_EFFECTS[effect], *(number_text(getattr(each.effects, effect).value) for each in found)])
        return columns
