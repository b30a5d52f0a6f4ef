"""The report: one self-contained HTML file, the verdicts as JSON and the tables as CSV, all from one analysis.

The same plan, lock, rows and log points give the same bytes: no dates of writing, no random ids, no network.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lmexp.analysis import figures, tables
from lmexp.analysis.analyse import Analysis, analyse
from lmexp.analysis.colours import ARM_COLOURS
from lmexp.analysis.curves import Steps, read_curves, sample_of
from lmexp.analysis.findings import statements
from lmexp.analysis.measures import measure_of
from lmexp.analysis.pictures import Picture, counted
from lmexp.analysis.record import verdicts_record
from lmexp.analysis.sections.accounting import accounting
from lmexp.analysis.sections.arms import arms, secondary
from lmexp.analysis.sections.cards import cards
from lmexp.analysis.sections.crossover import crossover
from lmexp.analysis.sections.differences import differences, omnibus_table, shares
from lmexp.analysis.sections.exploratory import exploratory
from lmexp.analysis.sections.launches import launches
from lmexp.analysis.sections.machine import commands, environment_rows
from lmexp.analysis.sections.power import power
from lmexp.analysis.sections.registration import registration
from lmexp.analysis.sections.sweep import sweep
from lmexp.analysis.sections.top import top
from lmexp.analysis.terminal import terminal_tables
from lmexp.files import write_text
from lmexp.lock import Lock
from lmexp.plan import Plan
from lmexp.results import STEP_SCHEMA, make_writable

__all__ = ["Report", "render", "terminal_tables", "verdicts_record", "write_report"]

_MOST_CURVES = 240  # runs whose log points are read for the figures, evenly spaced over the seeds; equally many per arm


@dataclass(frozen=True)
class Report:
    """The files that were written, and what they say."""

    path: Path  # report.html
    verdicts: Path
    tables: tuple[Path, ...]
    analysis: Analysis


def write_report(
    plan: Plan,
    runs: pd.DataFrame,
    steps: Steps,
    folder: Path,
    lock: Lock | None = None,
    settings: str | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Analyse a plan's runs and write ``report.html``, ``verdicts.json`` and the tables, each atomically.

    Args:
        plan: the plan, as its lock promises it when there is one.
        runs: rows of ``run.parquet``, one per launched run.
        steps: log points by ``run_id``, or a function that loads them and raises UserError when it cannot.
        folder: where to write; created when missing.
        lock: the plan's lock; without one nothing is judged.
        settings: which population of runs to report (:mod:`lmexp.analysis.cells`); None chooses.
        notes: sentences to show near the top, for instance about damaged files that were set aside.

    Raises:
        UserError: the folder cannot be written to.
    """
    analysis = analyse(plan, runs, lock, steps, settings)
    make_writable(folder)
    files = {
        "report.html": render(analysis, steps, notes),
        "verdicts.json": json.dumps(verdicts_record(analysis), indent=2, ensure_ascii=False) + "\n",
        **{f"{name}.csv": table.to_csv(index=False, lineterminator="\n") for name, table in _tables(analysis).items()},
    }
    for name, text in files.items():
        write_text(folder / name, text)
    html, verdicts, *written = (folder / name for name in files)
    return Report(html, verdicts, tuple(written), analysis)


def _tables(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """Return the tables by the name of their file; those of a stage or a rule only where the plan has it."""
    found = {
        "arms": tables.arms_table(analysis),
        "contrasts": tables.contrasts_table(analysis),
        "anova": tables.anova_table(analysis),
        "power": tables.power_table(analysis),
        "runs": tables.launched_table(analysis),
        "exploratory": tables.exploratory_table(analysis),
    }
    if analysis.sweep is not None:
        found["sweep"] = tables.sweep_table(analysis)
    if analysis.speeds is not None:
        found["launches"] = tables.launches_table(analysis)
    return found


def render(analysis: Analysis, steps: Steps, notes: Sequence[str] = ()) -> str:
    """Return the report as one HTML page. Arguments as in :func:`write_report`."""
    environment = Environment(
        loader=PackageLoader("lmexp.analysis"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["svg"] = Markup
    pictures, missing = _pictures(analysis, steps)
    page = environment.get_template("report.html.j2").render(
        analysis=analysis,
        plan=analysis.plan,
        source=analysis.source,
        measures=analysis.measures,
        pictures=pictures,
        arm_colours=ARM_COLOURS,
        confidence=f"{analysis.confidence:.0%}",
        n_complete=counted(len(analysis.complete), "complete seed"),
        n_rows=counted(analysis.accounting.n_launched, "row"),
        **_sections(analysis, [*notes, *missing]),
    )
    return "\n".join(line.rstrip() for line in page.splitlines() if line.strip()) + "\n"


def _sections(analysis: Analysis, notes: Sequence[str]) -> dict[str, Any]:
    """Return the parts of the page by name; None, or empty, for those that have nothing to say."""
    return {
        "top": top(analysis, notes),
        "verdicts": cards(analysis),
        "statements": statements(analysis),
        "arms": arms(analysis),
        "differences": differences(analysis),
        "shares": shares(analysis),
        "sweep": sweep(analysis),
        "crossover": crossover(analysis),
        "launches": launches(analysis),
        "omnibus": omnibus_table(analysis),
        "power": power(analysis),
        "secondary": secondary(analysis),
        "accounting": accounting(analysis),
        "registration": registration(analysis),
        "environment": environment_rows(analysis),
        "commands": commands(analysis),
        "exploratory": exploratory(analysis),
        "references": analysis.source.references,
    }


def _pictures(analysis: Analysis, steps: Steps) -> tuple[dict[str, Picture | None], list[str]]:
    """Return the figures by name, and a sentence about runs without a curve."""
    metric = analysis.primary.name if analysis.primary.name in STEP_SCHEMA.names else "val_bpb"
    measure = measure_of(analysis.plan, metric)
    trained = analysis.used[analysis.used["steps"].notna()]  # runs that train nothing have no curve to miss
    curves, without = read_curves(sample_of(trained, _MOST_CURVES), steps, metric)
    found = {
        "estimation": figures.estimation_plot(analysis),
        "forest": figures.forest_plot(analysis),
        "interaction": figures.interaction_plot(analysis),
        "others": figures.other_interactions_plot(analysis),
        "speedup": figures.speed_up_plot(analysis),
        "ratios": figures.ratios_plot(analysis),
        "sweep": figures.sweep_plot(analysis),
        "curves": figures.loss_curves(analysis, curves, f"{measure.label}, {measure.unit}"),
        "gaps": figures.gap_curves(analysis, curves, measure.unit),
        "traces": figures.traces_plot(analysis),
        "diagnostics": figures.diagnostics_plot(analysis),
        "drift": figures.drift_plot(analysis),
    }
    return found, _without_text(without)


def _without_text(without: Sequence[str]) -> list[str]:
    if not without:
        return []
    named = ", ".join(without[:8]) + (f" and {len(without) - 8:,} more" if len(without) > 8 else "")
    return [f"No loss curve for {named}: no log points could be read."]
