"""An analysis as data frames, for files and notebooks. Null is undefined, or not promised: never 0."""

from typing import Any

import numpy as np
import pandas as pd

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.cells import MISSING, OK
from lmexp.analysis.desk import AgainstControl
from lmexp.analysis.findings import detectables, is_tested
from lmexp.analysis.measures import number_text
from lmexp.statistics.estimates import Estimate


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
    *("scale", "margin", "equivalence", "p_equivalence"),
]
_ANOVA_COLUMNS = [
    *("source", "sum_of_squares", "df", "mean_square", "f", "p"),
    *(name + end for name in ("eta2", "omega2") for end in ("", "_low", "_high")),
]
_RUN_COLUMNS = ["arm", "seed", "state", "run_id", "population", "left_out_because", "error"]


def contrasts_table(analysis: Analysis) -> pd.DataFrame:
    """Return one row per metric and arm: its difference from the control in every form; null is undefined.

    ``difference`` and its limits are in the metric's unit, or logarithms where ``scale`` says so. Tests of runs that
    are not registered are null too: nothing was promised that they could test.
    """
    rows = [_contrast_row(analysis, found) for several in analysis.comparisons.values() for found in several]
    return pd.DataFrame(rows, columns=_CONTRAST_COLUMNS)


def _contrast_row(analysis: Analysis, found: AgainstControl) -> dict[str, Any]:
    alone, together = found.difference.alone, found.difference.simultaneous
    low, high = (together.low, together.high) if together else (None, None)
    is_primary, tested = found.measure.name == analysis.primary.name, is_tested(analysis)
    share = analysis.shares.get(found.arm) if is_primary else None
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
        "t": found.difference.t if tested else None,
        "p": found.difference.p if tested else None,
        "p_adjusted": found.difference.p_adjusted if tested else None,
        "relative": found.relative,
        "scale": "logarithm" if found.measure.logarithmic else "metric",
        **_equivalence(analysis, found.arm if is_primary and tested else ""),
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


def _equivalence(analysis: Analysis, arm: str) -> dict[str, Any]:
    against = analysis.equivalences.get(arm)
    if against is None:
        return {"margin": None, "equivalence": None, "p_equivalence": None}
    return {"margin": against.margin, "equivalence": against.outcome, "p_equivalence": against.p}


def _spread(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def anova_table(analysis: Analysis) -> pd.DataFrame:
    """Return the omnibus test, one row per source; empty when the plan asks for none. Only registered runs have a p."""
    rows = [
        {
            "source": source.name,
            "sum_of_squares": source.ss,
            "df": source.df,
            "mean_square": source.mean_square,
            "f": source.f,
            "p": source.p if analysis.registered else None,
            **_spread("eta2", source.eta2),
            **_spread("omega2", source.omega2),
        }
        for source in (analysis.omnibus.sources if analysis.omnibus else ())
    ]
    return pd.DataFrame(rows, columns=_ANOVA_COLUMNS)


def launched_table(analysis: Analysis) -> pd.DataFrame:
    """Return every launched run and every missing cell, with its state and the rule that left it out, if one did."""
    settings = analysis.accounting.settings
    cells = [
        (cell.arm, cell.seed, cell.state, cell.run_id, settings if cell.state == OK else None, None, None)
        for cell in analysis.accounting.cells
        if cell.state in (OK, MISSING)
    ]
    left_out = [
        (run.arm, run.seed, run.status, run.run_id, _population(run.rule, settings), run.rule, run.error)
        for run in analysis.accounting.left_out
    ]
    return pd.DataFrame([*cells, *left_out], columns=_RUN_COLUMNS)


def _population(rule: str, settings: str) -> str:
    """Return the population of a run that was left out, which its rule names where it is another than the reported."""
    start, found, rest = rule.partition(": ")
    return rest if found and start in ("exploratory", "other settings") else settings


_POWER_COLUMNS = [
    *("test", "n_arms", "n_seeds", "power", "effect_in_sigma_e", "cohens_f", "error", "effect", "scale", "alpha"),
    *("smallest_p", "can_reject"),
]


def power_table(analysis: Analysis) -> pd.DataFrame:
    """Return what each planned test could find: the effect found 8 times in 10, and the smallest p it can reach."""
    rows = []
    for able in detectables(analysis):
        known = able.reach.detectable
        rows.append(
            {
                "test": able.reach.name,
                "n_arms": len(analysis.plan.arms),
                "n_seeds": len(analysis.plan.seeds),
                "power": known.power if known else None,
                "effect_in_sigma_e": known.effect if known else None,
                "cohens_f": known.cohens_f if known else None,
                "error": able.error,
                "effect": able.effect,
                "scale": "logarithm" if able.measure.logarithmic else "metric",
                "alpha": able.reach.alpha,
                "smallest_p": able.reach.smallest_p if able.reach.smallest_p <= 1 else None,
                "can_reject": able.reach.can_reject,
            }
        )
    return pd.DataFrame(rows, columns=_POWER_COLUMNS)


_EXPLORATORY_COLUMNS = [
    *("population", "metric", "arm", "n", "mean", "std", "difference", "low", "high", "confidence", "scale"),
]


def exploratory_table(analysis: Analysis) -> pd.DataFrame:
    """Return one row per group of runs that no promise covers and per arm: estimates, and no test."""
    rows = []
    for each in analysis.explorations:
        for arm, summary in each.summaries.items():
            gap = each.differences.get(arm)
            row = {
                "population": each.title,
                "metric": each.measure.name,
                "arm": arm,
                "n": summary.n,
                "mean": summary.mean,
                "std": summary.std,
                "scale": "logarithm" if each.measure.logarithmic else "metric",
            }
            if gap is not None:
                row |= {"difference": gap.value, "low": gap.low, "high": gap.high, "confidence": gap.confidence}
            rows.append(row)
    return pd.DataFrame(rows, columns=_EXPLORATORY_COLUMNS)


_SWEEP_COLUMNS = [
    *("competition", "arm", "level", "chosen", "n", "mean", "at_edge", "naive", "held_out", "held_out_low"),
    *("held_out_high", "confidence", "optimism", "corrected", "mean_across_levels"),
]


def sweep_table(analysis: Analysis) -> pd.DataFrame:
    """Return one row per arm of the sweep: its mean, whether it was chosen, what its competition's best is worth."""
    rows = [
        {
            "competition": found.name,
            "arm": arm,
            "level": label,
            "chosen": arm == found.chosen,
            "n": int(np.isfinite(values).sum()),
            "mean": float(values.mean()) if np.isfinite(values).all() else None,
            "at_edge": found.at_edge,
            "naive": found.best.naive,
            "held_out": found.best.held_out,
            "held_out_low": found.best.low,
            "held_out_high": found.best.high,
            "confidence": found.best.confidence,
            "optimism": found.best.optimism,
            "corrected": found.best.corrected,
            "mean_across_levels": found.best.swept,
        }
        for found in (analysis.sweep.competitions if analysis.sweep else ())
        for arm, label, values in zip(found.arms, found.labels, found.values, strict=True)
    ]
    return pd.DataFrame(rows, columns=_SWEEP_COLUMNS)


_LAUNCH_COLUMNS = [
    *("arm", "seed", "run_id", "rule", "n_windows", "n_cut", "median_seconds_per_step", "low", "high", "confidence"),
    *("n_effective", "undefined"),
]


def launches_table(analysis: Analysis) -> pd.DataFrame:
    """Return one row per launch: where its warm-up ended, and its median seconds per step after that."""
    rows = [
        {
            "arm": each.arm,
            "seed": each.seed,
            "run_id": each.run_id,
            "rule": each.launch.rule,
            "n_windows": each.launch.n_windows,
            "n_cut": each.launch.n_cut,
            "median_seconds_per_step": each.launch.median,
            "low": each.launch.low,
            "high": each.launch.high,
            "confidence": each.launch.confidence,
            "n_effective": each.launch.n_effective,
            "undefined": each.launch.undefined,
        }
        for each in (analysis.speeds.launches if analysis.speeds else ())
    ]
    return pd.DataFrame(rows, columns=_LAUNCH_COLUMNS)


def verdicts_table(analysis: Analysis) -> pd.DataFrame:
    """Return one row per hypothesis: the claim, the verdict, why, and the reading of the bare point estimates."""
    rows = [(v.hypothesis.id, v.hypothesis.claim, v.verdict, v.reason, v.bare) for v in analysis.verdicts]
    return pd.DataFrame(rows, columns=["hypothesis", "claim", "verdict", "reason", "without_intervals"])


def interval_text(estimate: Estimate, places: int = 2) -> str:
    """Return ``value [low, high]`` for a unit-free estimate, with what is undefined named so."""
    value, low, high = (number_text(limit, places) for limit in (estimate.value, estimate.low, estimate.high))
    if estimate.value is None:
        return value
    return f"{value} [{low}, {high}]" if estimate.has_interval else f"{value} [undefined]"
