"""Crossed designs: one factor's levels compared with the control's, at every level of the other factor.

In such a design an arm's difference from the one control mixes both factors; what people ask is what one factor does at
each level of the other. That is estimated here, with plain intervals: the plan's tests are elsewhere.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.measures import Measure, measure_of
from lmexp.criteria import comparisons, parse
from lmexp.statistics.blocks import mean_estimate
from lmexp.statistics.contrasts import ratio_of_means
from lmexp.statistics.estimates import Estimate, undefined
from lmexp.statistics.timing import ratio_of_launches


@dataclass(frozen=True)
class Crossing:
    """Two crossed factors: the one whose levels are compared, and the one at whose levels this is done.

    ``values`` is (levels, places, seeds) of one measure, NaN where there is none. ``base`` is the compared level of the
    plan's control, None without one.
    """

    measure: Measure
    compared: str
    over: str
    levels: tuple[str, ...]
    places: tuple[str, ...]
    values: np.ndarray
    base: str | None


def crossing_of(analysis: Analysis, metric: str | None = None) -> Crossing | None:
    """Return the crossed factors of a plan that has two of them, for one of its metrics; None for all other plans.

    What is compared is the factor that the plan's criteria compare: the one in which the arms of their differences,
    ratios and shares differ. Where they do not say, it is the first one. None stands for the primary metric.
    """
    plan, grid, metric = analysis.plan, analysis.plan.grid(), metric or analysis.primary.name
    if len(plan.factors) != 2 or any(arm not in plan.arms for arm in grid.values()):
        return None
    levels_of = {arm: levels for levels, arm in grid.items()}
    first = _compared(analysis, levels_of)
    compared, over = list(plan.factors)[first], list(plan.factors)[1 - first]
    summaries = analysis.summaries[metric]
    values = np.array(
        [
            [summaries[grid[(a, b) if first == 0 else (b, a)]].values for b in plan.factors[over]]
            for a in plan.factors[compared]
        ],
        dtype=float,
    )
    base = levels_of[plan.control][first] if plan.control in levels_of else None
    levels, places = tuple(plan.factors[compared]), tuple(plan.factors[over])
    return Crossing(measure_of(plan, metric), compared, over, levels, places, values, base)


def _compared(analysis: Analysis, levels_of: Mapping[str, tuple[str, ...]]) -> int:
    """Return the place of the factor in which the arms of the plan's criteria differ."""
    votes: Counter[int] = Counter()
    for verdict in analysis.verdicts:
        for term in verdict.estimates:
            arms = [levels_of[arm] for arm in term.arms if arm in levels_of]
            for one, other in pairwise(arms):
                differ = [place for place in (0, 1) if one[place] != other[place]]
                votes.update(differ if len(differ) == 1 else [])
    return votes.most_common(1)[0][0] if votes else 0


def effects(analysis: Analysis, metric: str | None = None) -> dict[tuple[str, str], Estimate]:
    """Return what each compared level does against the control's, by (level, place of the other factor).

    Of speeds and durations: how many times better, from the ratios of paired launches, with t intervals of their
    logarithms; above 1 is better (of durations the control's is divided by the other, of speeds the other by the
    control's). Of other measures: the level minus the control's, with the paired t interval. Each interval holds for
    itself. Empty without two crossed factors or without a control.
    """
    found = crossing_of(analysis, metric)
    if found is None or found.base is None:
        return {}
    base = found.values[found.levels.index(found.base)]
    return {
        (level, place): _effect(found.measure, found.values[row, column], base[column], analysis.confidence)
        for row, level in enumerate(found.levels)
        for column, place in enumerate(found.places)
        if level != found.base
    }


def _effect(measure: Measure, values: np.ndarray, base: np.ndarray, confidence: float) -> Estimate:
    both = np.isfinite(values) & np.isfinite(base)
    if not measure.logarithmic:
        return mean_estimate((values - base)[both], confidence)
    both &= (np.nan_to_num(values) > 0) & (np.nan_to_num(base) > 0)
    top, bottom = (base, values) if measure.direction == "lower" else (values, base)
    return ratio_of_launches(top[both], bottom[both], confidence)


def ratios(analysis: Analysis, metric: str) -> dict[tuple[str, str], Estimate]:
    """Return each compared level's value over the control's, by (level, place of the other factor).

    Speeds and durations by paired logarithms, other measures by the ratio of their means (Fieller); counts that are the
    same at every seed are known exactly. Each interval holds for itself. Empty as :func:`effects` is.
    """
    found = crossing_of(analysis, metric)
    if found is None or found.base is None:
        return {}
    base = found.values[found.levels.index(found.base)]
    return {
        (level, place): _ratio(found.measure, found.values[row, column], base[column], analysis.confidence)
        for row, level in enumerate(found.levels)
        for column, place in enumerate(found.places)
        if level != found.base
    }


def _ratio(measure: Measure, top: np.ndarray, bottom: np.ndarray, confidence: float) -> Estimate:
    both = (np.nan_to_num(top) > 0) & (np.nan_to_num(bottom) > 0)
    top, bottom = top[both], bottom[both]
    if measure.logarithmic:
        return ratio_of_launches(top, bottom, confidence)
    if measure.exact and len(top) and np.ptp(top) == np.ptp(bottom) == 0:
        value = float(top[0] / bottom[0])
        return Estimate(value, value, value, confidence, len(top), None, "exact", None)
    return ratio_of_means(top, bottom, confidence)


def thresholds(analysis: Analysis, metric: str) -> list[float]:
    """Return what the plan's criteria hold ratios of a metric against, 1 apart, in order of size."""
    plan = analysis.plan
    texts = [text for each in plan.hypotheses for text in (each.supported_if, each.falsified_if)]
    held = [comparison for text in texts for comparison in comparisons(parse(text))]
    ours = [each for each in held if each.term.name == "ratio" and (each.term.metric or plan.primary.name) == metric]
    return sorted({each.threshold for each in ours} - {1.0})


def parting(found: Mapping[tuple[str, str], Estimate], level: str, threshold: float) -> str | None:
    """Return the place from which on a level's ratios lie beyond a threshold, seen from 1, with their whole intervals.

    None where the last place's does not.
    """
    first = None
    for (each, place), estimate in found.items():
        if each == level:
            limit = estimate.high if threshold < 1 else estimate.low
            is_beyond = limit is not None and (limit < threshold) == (threshold < 1) and limit != threshold
            first = (first or place) if is_beyond else None
    return first


def means(values: np.ndarray, is_log: bool) -> np.ndarray:
    """Return means over seeds: (..., seeds) -> (...), geometric for speeds and durations; NaN where a seed has none."""
    whole = np.isfinite(values).all(axis=-1) & ((np.nan_to_num(values) > 0).all(axis=-1) | (not is_log))
    safe = np.where(whole[..., None], values, 1.0)
    return np.where(whole, np.exp(np.log(safe).mean(axis=-1)) if is_log else safe.mean(axis=-1), np.nan)


def crossovers(analysis: Analysis) -> dict[tuple[str, str], Estimate]:
    """Return after how many steps a level that costs more at the start has paid for itself, by (level, place).

    That is the extra time to compile over the time saved at each step (the run's training time over its steps), both
    against the control's level at the same seed, with Fieller's interval. Where nothing is saved it never pays, and
    the crossover is undefined. Empty unless the plan names ``compile_seconds`` and ``steps_per_second``.
    """
    if not {"compile_seconds", "steps_per_second"} <= set(analysis.source.metrics):
        return {}
    start, steps = crossing_of(analysis, "compile_seconds"), crossing_of(analysis, "steps_per_second")
    if start is None or steps is None or start.base is None:
        return {}
    row = start.levels.index(start.base)
    return {
        (level, place): _crossover(
            start.values[at, column] - start.values[row, column],
            1 / steps.values[row, column] - 1 / steps.values[at, column],
            analysis.confidence,
        )
        for at, level in enumerate(start.levels)
        for column, place in enumerate(start.places)
        if level != start.base
    }


def _crossover(extra: np.ndarray, saved: np.ndarray, confidence: float) -> Estimate:
    """Return extra seconds at the start over seconds saved a step. extra, saved: (seeds,), NaN where not measured."""
    both = np.isfinite(extra) & np.isfinite(saved)
    extra, saved = extra[both], saved[both]
    if len(saved) and saved.mean() <= 0:
        return undefined("nothing is saved at a step, so it never pays", confidence, len(saved), "Fieller")
    return ratio_of_means(extra, saved, confidence)
