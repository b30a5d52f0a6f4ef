"""An analysis as tables: data frames for files, and renderables for the terminal."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.cells import MISSING, OK
from lmexp.analysis.desk import AgainstControl
from lmexp.analysis.measures import number_text, p_text
from lmexp.plan import NO_TEST
from lmexp.statistics.estimates import Estimate

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {
    "SUPPORTED": "bold green",
    "FALSIFIED": "bold red",
    "INCONCLUSIVE": "yellow",
    "INADMISSIBLE": "dim",
    "DEVIATED": "magenta",
    "EXPLORATORY": "dim",
}


def arms_table(analysis: Analysis) -> pd.DataFrame:
    """Return one row per measure and arm: n, mean, standard deviation, interval of the mean; null is undefined."""
    rows = [
        {
            "arm": arm,
            "metric": measure.name,
            "n": summary.n,
            "mean": summary.mean,
            "std": summary.std,
            "low": summary.interval.low,
            "high": summary.interval.high,
            "confidence": summary.interval.confidence,
        }
        for measure in analysis.measures
        for arm, summary in analysis.summaries[measure.name].items()
    ]
    return pd.DataFrame(rows)


_CONTRAST_COLUMNS = [
    *("metric", "arm", "control", "n", "difference", "low", "high", "low_simultaneous", "high_simultaneous"),
    *("confidence", "df", "t", "p", "p_adjusted", "relative"),
    *(name + end for name in ("cohens_d", "hedges_g", "d_z", "share") for end in ("", "_low", "_high")),
]
_ANOVA_COLUMNS = [
    *("source", "sum_of_squares", "df", "mean_square", "f", "p"),
    *(name + end for name in ("eta2", "omega2") for end in ("", "_low", "_high")),
]
_RUN_COLUMNS = ["arm", "seed", "state", "run_id", "left_out_because", "error"]


def contrasts_table(analysis: Analysis) -> pd.DataFrame:
    """Return one row per metric and arm: its difference from the control in every form; null is undefined."""
    rows = [_contrast_row(analysis, found) for several in analysis.comparisons.values() for found in several]
    return pd.DataFrame(rows, columns=_CONTRAST_COLUMNS)


def _contrast_row(analysis: Analysis, found: AgainstControl) -> dict[str, Any]:
    alone, together = found.difference.alone, found.difference.simultaneous
    low, high = (together.low, together.high) if together else (None, None)
    share = analysis.shares.get(found.arm) if found.measure.name == analysis.primary.name else None
    row = {
        "metric": found.measure.name,
        "arm": found.arm,
        "control": analysis.plan.control,
        "n": alone.n_seeds,
        "difference": alone.value,
        "low": alone.low,
        "high": alone.high,
        "low_simultaneous": low,
        "high_simultaneous": high,
        "confidence": alone.confidence,
        "df": alone.df,
        "t": found.difference.t,
        "p": found.difference.p,
        "p_adjusted": found.difference.p_adjusted,
        "relative": found.relative,
    }
    effects = found.effects
    for name, estimate in (
        ("cohens_d", effects.cohens_d),
        ("hedges_g", effects.hedges_g),
        ("d_z", effects.d_z),
        ("share", share),
    ):
        row |= _spread(name, estimate)
    return row


def _spread(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def anova_table(analysis: Analysis) -> pd.DataFrame:
    """Return the omnibus test, one row per source; empty when the plan asks for none."""
    rows = [
        {
            "source": source.name,
            "sum_of_squares": source.ss,
            "df": source.df,
            "mean_square": source.mean_square,
            "f": source.f,
            "p": source.p,
            **_spread("eta2", source.eta2),
            **_spread("omega2", source.omega2),
        }
        for source in (analysis.omnibus.sources if analysis.omnibus else ())
    ]
    return pd.DataFrame(rows, columns=_ANOVA_COLUMNS)


def launched_table(analysis: Analysis) -> pd.DataFrame:
    """Return every launched run and every missing cell, with its state and the rule that left it out, if one did."""
    cells = [
        (cell.arm, cell.seed, cell.state, cell.run_id, None, None)
        for cell in analysis.accounting.cells
        if cell.state in (OK, MISSING)
    ]
    left_out = [
        (run.arm, run.seed, run.status, run.run_id, run.rule, run.error) for run in analysis.accounting.left_out
    ]
    return pd.DataFrame([*cells, *left_out], columns=_RUN_COLUMNS)


def verdicts_table(analysis: Analysis) -> pd.DataFrame:
    """Return one row per hypothesis: the claim, the verdict, why, and the reading of the bare point estimates."""
    rows = [(v.hypothesis.id, v.hypothesis.claim, v.verdict, v.reason, v.bare) for v in analysis.verdicts]
    return pd.DataFrame(rows, columns=["hypothesis", "claim", "verdict", "reason", "without_intervals"])


def terminal_tables(analysis: Analysis) -> "list[Table]":
    """Return tables for the terminal: verdicts, arms, differences from the control; those that the plan allows."""
    verdicts = [_verdict_table(analysis)] if analysis.verdicts else []
    gaps = [_gap_table(analysis)] if analysis.comparisons[analysis.primary.name] else []
    return [*verdicts, _arm_table(analysis), *gaps]


def _verdict_table(analysis: Analysis) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=None,
        caption=f"{analysis.joint}\n{analysis.answer}".rstrip(),
        caption_justify="left",
        box=None,
        pad_edge=False,
    )
    for column in ("", "Claim", "Verdict", "Why", "Without intervals"):
        table.add_column(column, overflow="fold")
    for verdict in analysis.verdicts:
        name = f"[{_STYLES[verdict.verdict]}]{verdict.verdict}[/]"
        texts = (verdict.hypothesis.id, verdict.hypothesis.claim, verdict.reason, verdict.bare or "\N{EN DASH}")
        key, claim, *others = map(escape, texts)
        table.add_row(key, claim, name, *others)
    return table


def _arm_table(analysis: Analysis) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("Arm")
    table.add_column("n", justify="right")
    for measure in analysis.measures:
        table.add_column(escape(f"{measure.label}\n{measure.unit}"), justify="right")
    for arm in analysis.plan.arms:
        cells = [_mean_and_spread(analysis, measure.name, arm) for measure in analysis.measures]
        table.add_row(escape(arm), str(analysis.summaries[analysis.primary.name][arm].n), *cells)
    return table


def _mean_and_spread(analysis: Analysis, metric: str, arm: str) -> str:
    measure = next(m for m in analysis.measures if m.name == metric)
    summary = analysis.summaries[metric][arm]
    if summary.mean is None:
        return "\N{EN DASH}"
    has_spread = metric == analysis.primary.name and summary.n > 1
    return measure.text(summary.mean) + (f" ± {measure.text(summary.std)}" if has_spread else "")


def _gap_table(analysis: Analysis) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    primary, table = analysis.primary, Table(box=None, pad_edge=False)
    tested = analysis.plan.analysis.contrasts != NO_TEST
    against = "relative to" if primary.logarithmic else "minus"
    gap = f"{primary.label} {against} {analysis.plan.control}\n{primary.gap_unit}"
    interval = ["Simultaneous interval", "Adjusted p"] if tested else ["Interval"]
    for heading in ("Arm", gap, *interval, "Hedges' g"):
        table.add_column(escape(heading), justify="left" if heading == "Arm" else "right")
    for found in analysis.comparisons[primary.name]:
        shown = found.difference.shown
        limits = f"{primary.gap(shown.low)} to {primary.gap(shown.high)}" if shown.has_interval else "undefined"
        p = [p_text(found.difference.p_adjusted)] if tested else []
        effect = number_text(found.effects.hedges_g.value)
        table.add_row(escape(found.arm), primary.gap(shown.value), limits, *p, effect)
    return table


def interval_text(estimate: Estimate, places: int = 2) -> str:
    """Return ``value [low, high]`` for a unit-free estimate, with what is undefined named so."""
    value, low, high = (number_text(limit, places) for limit in (estimate.value, estimate.low, estimate.high))
    if estimate.value is None:
        return value
    return f"{value} [{low}, {high}]" if estimate.has_interval else f"{value} [undefined]"
