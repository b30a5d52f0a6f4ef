"""The report: one self-contained HTML file, the verdicts as JSON and the tables as CSV, all from one analysis.

The same plan, rows and log points give the same bytes: no dates of writing, no random ids, no network.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lmexp.analysis import figures
from lmexp.analysis.analyse import Analysis, analyse
from lmexp.analysis.cells import MISSING, OK
from lmexp.analysis.curves import Steps, read_curves
from lmexp.analysis.desk import AgainstControl
from lmexp.analysis.measures import Measure, measure_of, number_text, p_text
from lmexp.analysis.omnibus import p_is, sentence
from lmexp.analysis.pictures import ARM_COLOURS, Picture
from lmexp.analysis.strips import Scale, scale_of, verdict_strip, zero_strip
from lmexp.analysis.tables import (
    anova_table,
    arms_table,
    contrasts_table,
    interval_text,
    launched_table,
    terminal_tables,
)
from lmexp.analysis.verdicts import Reading, Verdict
from lmexp.criteria import Term
from lmexp.files import write_text
from lmexp.lock import Lock
from lmexp.plan import NO_TEST, Plan
from lmexp.results import STEP_SCHEMA, make_writable
from lmexp.statistics.estimates import Estimate

__all__ = ["Report", "render", "terminal_tables", "verdicts_record", "write_report"]

_GLYPHS = {"SUPPORTED": "✓", "FALSIFIED": "✕", "INCONCLUSIVE": "?", "INADMISSIBLE": "∅"}
_CELL_GLYPHS = {OK: "✓", MISSING: "·"}
_LABELS = {"mlx_version": "MLX", "blas": "BLAS", "git_commit": "Commit", "git_dirty": "Uncommitted changes"}


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
        plan: the plan.
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
        "arms.csv": arms_table(analysis).to_csv(index=False, lineterminator="\n"),
        "contrasts.csv": contrasts_table(analysis).to_csv(index=False, lineterminator="\n"),
        "anova.csv": anova_table(analysis).to_csv(index=False, lineterminator="\n"),
        "runs.csv": launched_table(analysis).to_csv(index=False, lineterminator="\n"),
    }
    for name, text in files.items():
        write_text(folder / name, text)
    html, verdicts, *tables = (folder / name for name in files)
    return Report(html, verdicts, tuple(tables), analysis)


def verdicts_record(analysis: Analysis) -> dict[str, Any]:
    """Return the verdicts as plain data for ``verdicts.json``; what is undefined is null."""
    accounting = analysis.accounting
    return {
        "plan": {"name": analysis.plan.name, "question": analysis.plan.question, "sha256": analysis.plan.sha256},
        "registered": analysis.registered,
        "joint_reading": analysis.joint,
        "answer": analysis.answer,
        "verdicts": [_verdict_record(verdict) for verdict in analysis.verdicts],
        "cells": {"planned": len(accounting.cells), **accounting.states},
        "runs": {
            "launched": accounting.n_launched,
            "used": accounting.n_used,
            "left_out": len(accounting.left_out),
        },
        "remarks": list(analysis.remarks),
    }


def _verdict_record(verdict: Verdict) -> dict[str, Any]:
    return {
        "id": verdict.hypothesis.id,
        "claim": verdict.hypothesis.claim,
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "bare_threshold_reading": verdict.bare,
        "supported_if": {"criterion": verdict.hypothesis.supported_if, "truth": verdict.support},
        "falsified_if": {"criterion": verdict.hypothesis.falsified_if, "truth": verdict.falsification},
        "estimates": [_estimate_record(term, estimate) for term, estimate in verdict.estimates.items()],
    }


def _estimate_record(term: Term, estimate: Estimate) -> dict[str, Any]:
    return {"term": str(term), **vars(estimate)}


def render(analysis: Analysis, steps: Steps, notes: Sequence[str] = ()) -> str:
    """Return the report as one HTML page. Arguments as in :func:`write_report`."""
    environment = Environment(
        loader=PackageLoader("lmexp.analysis"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["svg"] = Markup
    pictures, without_curves = _pictures(analysis, steps)
    scales = _scales(analysis.verdicts)
    cards = [_card(verdict, scales) for verdict in analysis.verdicts]
    contrasts = _contrast_rows(analysis)
    missing_curves = f"No loss curve for {', '.join(without_curves)}: no log points could be read."
    return environment.get_template("report.html.j2").render(
        analysis=analysis,
        plan=analysis.plan,
        notes=[*notes, *analysis.remarks, *([missing_curves] if without_curves else [])],
        facts=_facts(analysis),
        lede=_lede(analysis),
        cards=cards,
        columns=_columns(cards),
        arms=_arm_rows(analysis),
        measures=analysis.measures,
        contrasts=contrasts,
        has_intervals=any(row["has_interval"] for row in contrasts),
        has_effects=any(row["has_effects"] for row in contrasts),
        has_spread=any(summary.std is not None for summary in analysis.summaries[analysis.primary.name].values()),
        tested=analysis.plan.analysis.contrasts != NO_TEST,
        n_complete=_counted(len(analysis.complete), "complete seed"),
        n_rows=_counted(analysis.accounting.n_launched, "row"),
        secondary=_secondary_rows(analysis),
        uses_secondary=any(term.metric for verdict in analysis.verdicts for term in verdict.estimates),
        shares=_share_rows(analysis),
        anova=_anova_rows(analysis),
        omnibus=_omnibus_sentence(analysis),
        cells=_cell_rows(analysis),
        sums=_sums(analysis),
        environment=_environment_rows(analysis),
        commands=_commands(analysis),
        pictures=pictures,
        arm_colours=ARM_COLOURS,
        confidence=f"{analysis.confidence:.0%}",
        p_text=p_text,
    )


def _pictures(analysis: Analysis, steps: Steps) -> tuple[dict[str, Picture | None], list[str]]:
    """Return the figures by name, and the runs without a curve. Curves show the primary metric where it is logged."""
    metric = analysis.primary.name if analysis.primary.name in STEP_SCHEMA.names else "val_bpb"
    measure = measure_of(analysis.plan, metric)
    curves, without = read_curves(analysis.used, steps, metric)
    return {
        "estimation": figures.estimation_plot(analysis),
        "curves": figures.loss_curves(analysis, curves, f"{measure.label}, {measure.unit}"),
        "gaps": figures.gap_curves(analysis, curves, measure.unit),
        "drift": figures.drift_plot(analysis),
    }, without


def _lede(analysis: Analysis) -> str:
    """Answer the question, then say what became of the hypotheses; a breach of the protocol comes first."""
    sentences = [analysis.joint, analysis.answer] if analysis.breach else [analysis.answer, analysis.joint]
    return " ".join(filter(None, sentences))


def _facts(analysis: Analysis) -> list[tuple[str, str, str]]:
    """Return (label, value, full text) for the lines under the title."""
    plan, accounting = analysis.plan, analysis.accounting
    arms, seeds = len(plan.arms), len(plan.seeds)
    better = f"{plan.primary.direction} is better"
    facts = [
        (
            "Design",
            f"{arms} arm{'s' * (arms > 1)} x {seeds} seed{'s' * (seeds > 1)}".replace(
                " x ", " \N{MULTIPLICATION SIGN} "
            ),
            "",
        ),
        ("Runs that count", f"{accounting.n_used} of {len(accounting.cells)} planned", ""),
        ("Measure", f"{plan.primary.name}, {plan.primary.unit}, {better}", ""),
        ("Settings", accounting.settings, ""),
        ("Plan", plan.sha256[:12], plan.sha256),
    ]
    days = sorted(str(text)[:10] for text in analysis.used["started_at"].dropna())
    if days:
        facts.append(("Ran", days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}", ""))
    return facts


def _scales(verdicts: Sequence[Verdict]) -> dict[tuple[str, str | None], Scale]:
    """Return one scale for each kind of estimate over all cards: a bound stands at the same place wherever it is."""
    readings = [reading for verdict in verdicts for reading in verdict.supporting + verdict.falsifying]
    return {kind: _common_scale(readings, kind) for kind in {_kind(reading.comparison.term) for reading in readings}}


def _card(verdict: Verdict, scales: dict[tuple[str, str | None], Scale]) -> dict[str, Any]:
    return {
        "verdict": verdict,
        "glyph": _GLYPHS[verdict.verdict],
        "strips": [
            _strip(verdict, term, estimate, scales[_kind(term)]) for term, estimate in verdict.estimates.items()
        ],
    }


def _columns(cards: Sequence[dict[str, Any]]) -> int:
    """Return how many cards stand side by side, so that no row has a hole; cards with many strips stand alone."""
    narrow = sum(len(card["strips"]) <= 2 for card in cards)
    return 1 if narrow < 2 else 3 if narrow % 3 == 0 else 2


def _kind(term: Term) -> tuple[str, str | None]:
    return term.name, term.metric


def _common_scale(readings: Sequence[Reading], kind: tuple[str, str | None]) -> Scale:
    alike = [reading for reading in readings if _kind(reading.comparison.term) == kind]
    return scale_of([r.estimate for r in alike], [r.comparison.threshold for r in alike])


def _strip(verdict: Verdict, term: Term, estimate: Estimate, scale: Scale) -> dict[str, str]:
    supporting = [r.comparison for r in verdict.supporting if r.comparison.term == term]
    falsifying = [r.comparison for r in verdict.falsifying if r.comparison.term == term]
    text = interval_text(estimate, _places(term, estimate))
    regions = [f"supports if {c}" for c in supporting] + [f"falsifies if {c}" for c in falsifying]
    alt = f"{term}: {text}; {'; '.join(regions)}"
    return {"term": str(term), "text": text, "svg": verdict_strip(estimate, supporting, falsifying, scale, alt)}


def _places(term: Term, estimate: Estimate) -> int:
    """Return decimals that show about two figures of the interval's width."""
    if term.name in ("share", "ratio"):
        return 2
    width = abs((estimate.high or 0.0) - (estimate.low or 0.0)) or abs(estimate.value or 1.0)
    return 0 if width > 100 else 1 if width > 10 else 2 if width > 1 else 4


def _arm_rows(analysis: Analysis) -> list[dict[str, Any]]:
    primary = analysis.primary
    return [
        {
            "arm": arm,
            "colour": _css_colour(analysis, arm),
            "is_control": arm == analysis.plan.control,
            "n": analysis.summaries[primary.name][arm].n,
            "mean": primary.text(analysis.summaries[primary.name][arm].mean),
            "std": primary.text(analysis.summaries[primary.name][arm].std),
            "others": [_mean_text(analysis, measure, arm) for measure in analysis.measures[1:]],
        }
        for arm in analysis.plan.arms
    ]


def _mean_text(analysis: Analysis, measure: Measure, arm: str) -> str:
    mean = analysis.summaries[measure.name][arm].mean
    return "\N{EN DASH}" if mean is None else measure.text(mean)


def _css_colour(analysis: Analysis, arm: str) -> str:
    others = [name for name in analysis.plan.arms if name != analysis.plan.control]
    return f"var(--arm-{others.index(arm) % len(ARM_COLOURS)})" if arm in others else "var(--control)"


def _contrast_rows(analysis: Analysis) -> list[dict[str, Any]]:
    found = analysis.comparisons[analysis.primary.name]
    scale = scale_of([c.difference.shown for c in found], [0.0])
    return [_contrast_row(analysis, comparison, scale) for comparison in found]


def _contrast_row(analysis: Analysis, found: AgainstControl, scale: Scale) -> dict[str, Any]:
    shown, measure, effects = found.difference.shown, found.measure, found.effects
    interval = f"{measure.gap(shown.low)} to {measure.gap(shown.high)}" if shown.has_interval else "undefined"
    colour = _css_colour(analysis, found.arm)
    alt = f"{found.arm}: difference {measure.gap(shown.value)}, interval {interval}"
    return {
        "arm": found.arm,
        "colour": colour,
        "n": shown.n_seeds,
        "has_interval": shown.has_interval,
        "has_effects": any(e.value is not None for e in (effects.hedges_g, effects.cohens_d, effects.d_z)),
        "difference": measure.gap(shown.value),
        "relative": "" if found.relative is None else f"{found.relative:+.1%}".replace("-", "\N{MINUS SIGN}"),
        "interval": interval,
        "why": shown.undefined or "",
        "p": p_text(found.difference.p_adjusted),
        "svg": zero_strip(shown, scale, colour, alt),
        "g": interval_text(effects.hedges_g),
        "d": interval_text(effects.cohens_d),
        "d_z": interval_text(effects.d_z),
    }


def _secondary_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """Return the other measures' differences, one group per measure."""
    return [
        _secondary(measure, [_contrast_row(analysis, c, scale_of([], [0.0, 1.0])) for c in found])
        for measure in analysis.measures[1:]
        if (found := analysis.comparisons.get(measure.name, ()))
    ]


def _secondary(measure: Measure, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"measure": measure, "rows": rows, "has_intervals": any(row["has_interval"] for row in rows)}


def _share_rows(analysis: Analysis) -> list[dict[str, str]]:
    scale = scale_of(list(analysis.shares.values()), [0.0, 1.0])
    has_intervals = any(estimate.has_interval for estimate in analysis.shares.values())
    return [
        {
            "arm": arm,
            "colour": _css_colour(analysis, arm),
            "text": interval_text(estimate) if has_intervals else number_text(estimate.value),
            "why": estimate.undefined or "",
            "svg": zero_strip(
                estimate, scale, _css_colour(analysis, arm), f"share of {arm}: {interval_text(estimate)}"
            ),
        }
        for arm, estimate in analysis.shares.items()
    ]


def _anova_rows(analysis: Analysis) -> list[dict[str, str]]:
    dash = "\N{EN DASH}"
    return [
        {
            "source": source.name,
            "ss": dash if source.ss is None else f"{source.ss:.4g}",
            "df": f"{source.df:g}",
            "ms": dash if source.mean_square is None else f"{source.mean_square:.4g}",
            "f": "" if source.f is None else f"{source.f:,.2f}",
            "p": "" if source.f is None else p_text(source.p),
            "eta2": "" if source.eta2 is None else interval_text(source.eta2, 3),
            "omega2": "" if source.omega2 is None else interval_text(source.omega2, 3),
        }
        for source in (analysis.omnibus.sources if analysis.omnibus else ())
    ]


def _omnibus_sentence(analysis: Analysis) -> str:
    """Say in plain words what the omnibus test finds, and which arms differ from the control by the contrasts."""
    found, contrasts = analysis.omnibus, _contrasts_sentence(analysis)
    if found is None:
        return contrasts
    return f"{sentence(found, analysis.plan.analysis.alpha, len(analysis.complete))} {contrasts}".rstrip()


def _contrasts_sentence(analysis: Analysis) -> str:
    """Name the arms that the plan's test tells from the control, in the primary measure."""
    alpha = analysis.plan.analysis.alpha
    found = [c for c in analysis.comparisons[analysis.primary.name] if c.difference.p_adjusted is not None]
    if not found:
        return ""
    below = [f"{c.arm} ({p_is(c.difference.p_adjusted)})" for c in found if (c.difference.p_adjusted or 0.0) < alpha]
    named = ", ".join(below) if below else "no arm"
    return f"Against {analysis.plan.control}, the adjusted p is below {alpha:g} for {named}."


def _cell_rows(analysis: Analysis) -> list[dict[str, Any]]:
    cells = {(cell.arm, cell.seed): cell for cell in analysis.accounting.cells}  # a confirmation's stand last
    return [
        {
            "arm": arm,
            "colour": _css_colour(analysis, arm),
            "cells": [
                {"state": cell.state, "glyph": _CELL_GLYPHS.get(cell.state, "✕"), "title": str(cell)}
                for cell in (cells[arm, seed] for seed in analysis.plan.seeds)
            ],
        }
        for arm in analysis.plan.arms
    ]


def _sums(analysis: Analysis) -> tuple[str, str]:
    """Return the two sums that have to come out: over planned cells, and over launched runs."""
    accounting, states = analysis.accounting, analysis.accounting.states
    parts = [f"{count} {state}" for state, count in states.items()]
    left_out = len(accounting.left_out)
    return (
        f"{_counted(len(accounting.cells), 'cell')} planned = {' + '.join(parts)}",
        f"{_counted(accounting.n_launched, 'run')} launched = {accounting.n_used} used + {left_out} left out",
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _environment_rows(analysis: Analysis) -> list[tuple[str, str]]:
    n = analysis.accounting.n_used
    rows = []
    for column, counts in analysis.environment.items():
        values = [value if count == n else f"{value} ({count} of {n} runs)" for value, count in counts.items()]
        label = _LABELS.get(column, column.replace("_", " ").capitalize())
        rows.append((label, ", ".join({"True": "yes", "False": "no"}.get(v, v) for v in values) or "not recorded"))
    return rows


def _commands(analysis: Analysis) -> list[str]:
    """Return the commands that make these runs and this report again."""
    if not len(analysis.used):
        return []
    extra = sorted({str(text) for text in analysis.used.get("overrides", pd.Series(dtype=str)).dropna() if text})
    name = analysis.plan.name
    verbs = (f"lmexp run -m experiment={name}", f"lmexp report {name}")
    return [_code_line(analysis), *(" ".join([verb, *extra]) for verb in verbs)]


def _code_line(analysis: Analysis) -> str:
    """Return the command that restores the code; a comment that says why none does, where none does."""
    commits, dirty = (list(analysis.environment.get(column, {})) for column in ("git_commit", "git_dirty"))
    if len(commits) != 1:
        return f"# The code: {'several commits' if commits else 'commit not recorded'}."
    if dirty == ["False"]:
        return f"git checkout {commits[0]}"
    changed = "had uncommitted changes" if "True" in dirty else "may have had uncommitted changes"
    return f"# The code {changed}: commit {commits[0]} alone does not restore it."
