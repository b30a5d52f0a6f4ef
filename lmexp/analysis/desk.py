"""From names in a plan to estimates with intervals: what a criterion's term, a table or a sentence asks for."""

from dataclasses import dataclass
from functools import cached_property
from math import exp

import numpy as np
import pandas as pd

from lmexp.analysis.cells import values
from lmexp.analysis.comparisons import against_control, between
from lmexp.analysis.measures import Measure, measure_of
from lmexp.criteria import Term
from lmexp.plan import Plan
from lmexp.statistics.blocks import Fit, complete_seeds, contrast, fit_blocks, mean_estimate
from lmexp.statistics.contrasts import Difference, interaction, pairwise, ratio_of_means, share
from lmexp.statistics.effect_size import EffectSizes, effect_sizes
from lmexp.statistics.estimates import Estimate, undefined


@dataclass(frozen=True)
class Summary:
    """One arm's values of one measure: their number, mean and standard deviation (n - 1), None where undefined."""

    values: tuple[float | None, ...]  # one per seed of the plan
    n: int
    mean: float | None
    std: float | None
    interval: Estimate


@dataclass(frozen=True)
class AgainstControl:
    """One arm against the control in one measure, on the scale of the analysis: logarithms for speeds and durations."""

    arm: str
    measure: Measure
    difference: Difference
    effects: EffectSizes
    paired: tuple[float, ...]  # arm - control, one per complete seed
    relative: float | None  # difference / control


class Table:
    """One measure of the runs that count.

    ``array`` is (arms, seeds) with NaN where missing, ``blocks`` its complete seeds, and ``scaled`` these on the scale
    of the analysis.
    """

    def __init__(self, array: np.ndarray, measure: Measure):
        self.array, self.measure = array, measure
        self.complete = complete_seeds(np.where(array > 0, array, np.nan) if measure.logarithmic else array)
        self.blocks = array[:, self.complete]
        self.scaled = np.log(self.blocks) if measure.logarithmic else self.blocks

    @cached_property
    def fit(self) -> Fit:
        """The blocked fit of all arms on the scale of the analysis."""
        return fit_blocks(self.scaled)

    @property
    def scaled_or_missing(self) -> np.ndarray:
        """Every cell on the scale of the analysis, NaN where it has no value there: (arms, seeds)."""
        if not self.measure.logarithmic:
            return self.array
        return np.log(np.where(self.array > 0, self.array, np.nan))

    def is_known_exactly(self, rows: list[int]) -> bool:
        """Whether these arms' values are counts that no seed changes."""
        part = self.blocks[rows]
        return self.measure.exact and part.size > 0 and bool((part == part[:, :1]).all())


class Desk:
    """Answers for one plan and the runs that count. Each measure is read and fitted once."""

    def __init__(self, plan: Plan, used: pd.DataFrame):
        self.plan, self.used, self.alpha = plan, used, plan.analysis.alpha
        self.confidence = 1 - self.alpha
        self.row = {arm: row for row, arm in enumerate(plan.arms)}
        self._tables: dict[str, Table] = {}

    def table(self, metric: str) -> Table:
        """Return the table of a measure."""
        if metric not in self._tables:
            self._tables[metric] = Table(values(self.plan, self.used, metric), measure_of(self.plan, metric))
        return self._tables[metric]

    def summaries(self, metric: str) -> dict[str, Summary]:
        """Return every arm's summary of a measure."""
        return {arm: _summary(self.table(metric).array[row], self.confidence) for arm, row in self.row.items()}

    def comparisons(self, metric: str) -> tuple[AgainstControl, ...]:
        """Return every arm but the control against the control, in one measure; nothing without a control."""
        if self.plan.control is None or len(self.row) < 2:
            return ()
        table, control = self.table(metric), self.row[self.plan.control]
        found = against_control(self.plan.analysis.contrasts, table.scaled, control, self.alpha)
        return tuple(self._comparison(table, difference, control) for difference in found)

    def _comparison(self, table: Table, difference: Difference, control: int) -> AgainstControl:
        scaled, value = table.scaled, difference.alone.value
        return AgainstControl(
            arm=list(self.row)[difference.arm],
            measure=table.measure,
            difference=difference,
            effects=effect_sizes(scaled[difference.arm], scaled[control], self.confidence),
            paired=tuple((scaled[difference.arm] - scaled[control]).tolist()),
            relative=None if value is None else _relative(table, value, control),
        )

    def shares(self) -> dict[str, Estimate]:
        """Return each single change's share of the full improvement."""
        return {arm: self.estimate(Term("share", (arm,), None)) for arm in self.single_changes()}

    def non_additivity(self) -> Estimate | None:
        """Return the full improvement minus the sum of the single ones; None with fewer than two single changes."""
        return self.estimate(Term("interaction", (), None)) if len(self.single_changes()) > 1 else None

    def single_changes(self) -> list[str]:
        """Return the arms between the control and the full arm; none unless the plan names both."""
        control, full = self.plan.control, self.plan.analysis.full
        if control is None or full is None or control == full:
            return []
        return [arm for arm in self.row if arm not in (control, full)]

    def estimate(self, term: Term) -> Estimate:
        """Return the estimate that a criterion's term names, with its interval."""
        metric = term.metric or self.plan.primary.name
        table, rows = self.table(metric), [self.row[arm] for arm in term.arms]
        if metric != self.plan.primary.name and (reason := self._gaps(table, rows)):
            return undefined(reason, self.confidence, int(table.complete.sum()), term.name)
        if rows and table.is_known_exactly(rows) and term.name in ("mean", "diff", "ratio"):
            return self._exact(term.name, [float(table.blocks[row, 0]) for row in rows], table)
        if term.name == "mean":
            return mean_estimate(table.array[rows[0]], self.confidence)
        if term.name == "diff":
            return self._difference(table, rows[0], rows[1])
        if term.name == "ratio":
            return self._ratio(table, rows[0], rows[1])
        return self._slope(table, rows) if term.name == "slope" else self._directed(term, table, rows)

    def _gaps(self, table: Table, rows: list[int]) -> str | None:
        """Say what is missing for an estimate; arms that it does not look at may have gaps."""
        needed = table.array[rows] if rows and table.measure.logarithmic else table.array
        missing = int(np.isnan(needed).sum())
        return f"{missing} of {needed.size} cells have no {table.measure.name}" if missing else None

    def _exact(self, name: str, found: list[float], table: Table) -> Estimate:
        value = found[0] if name == "mean" else found[0] - found[1] if name == "diff" else found[0] / found[1]
        n_seeds = table.blocks.shape[1]
        return Estimate(value, value, value, self.confidence, n_seeds, None, "exact", None)

    def _difference(self, table: Table, first: int, second: int) -> Estimate:
        """Return first - second with the interval of the plan's method.

        Speeds and durations of arms differ in spread as in size: there only the two arms' own error is used.
        """
        if table.measure.logarithmic:
            return contrast(_own_fit(table.array[[first, second]]), pairwise(2, 0, 1), self.confidence, "paired t")
        control = self.row.get(str(self.plan.control))
        return between(self.plan.analysis.contrasts, table.blocks, first, second, control, self.alpha)

    def _ratio(self, table: Table, top: int, bottom: int) -> Estimate:
        """Return top / bottom: by paired logarithms for speeds and durations, else of the means (Fieller)."""
        if not table.measure.logarithmic:
            return ratio_of_means(table.blocks[top], table.blocks[bottom], self.confidence)
        with np.errstate(divide="ignore"):  # a speed of zero has no logarithm, which makes the plan inadmissible
            fit = _own_fit(np.log(table.array[[top, bottom]]))
        return contrast(fit, pairwise(2, 0, 1), self.confidence, "paired log t").mapped(exp)

    def _slope(self, table: Table, rows: list[int]) -> Estimate:
        """Return the least-squares change from one arm to the next; a factor for speeds and durations."""
        places = np.arange(len(rows)) - (len(rows) - 1) / 2
        own = np.log(table.array[rows]) if table.measure.logarithmic else table.array[rows]
        found = contrast(_own_fit(own), places / (places @ places), self.confidence, "blocked t")
        return found.mapped(exp) if table.measure.logarithmic else found

    def _directed(self, term: Term, table: Table, rows: list[int]) -> Estimate:
        """Return an estimate that needs to know which way is better: improvement, share, interaction."""
        sign = table.measure.sign
        if sign is None:
            return undefined(f"neither direction of {table.measure.name} is better", self.confidence, 0, term.name)
        if term.name == "share":
            return self._share(table, rows, sign)
        control = self.row[str(self.plan.control)]
        if term.name == "improvement":
            return self._difference(table, *((control, rows[0]) if sign > 0 else (rows[0], control)))
        parts = rows or [self.row[arm] for arm in self.single_changes()]
        fit = _own_fit(table.array) if table.measure.logarithmic else table.fit
        return interaction(fit, parts, *self._ends(), sign, self.confidence)

    def _share(self, table: Table, rows: list[int], sign: int) -> Estimate:
        """Return a share; on the error of its three arms alone where they are named or where spreads differ."""
        if len(rows) == 3 or table.measure.logarithmic:
            three = rows if len(rows) == 3 else [rows[0], *self._ends()]
            return share(_own_fit(table.array[three]), 0, 1, 2, sign, self.confidence)
        return share(table.fit, rows[0], *self._ends(), sign, self.confidence)

    def _ends(self) -> tuple[int, int]:
        """Return the rows of the control and of the full arm."""
        return self.row[str(self.plan.control)], self.row[str(self.plan.analysis.full)]


def _own_fit(values: np.ndarray) -> Fit:
    """Fit the blocked design of some arms alone, at the seeds that all of them have."""
    return fit_blocks(values[:, complete_seeds(values)])


def _relative(table: Table, value: float, control: int) -> float | None:
    if table.measure.logarithmic:
        return exp(value) - 1
    base = float(table.blocks[control].mean()) if table.blocks.size else 0.0
    return value / base if base else None


def _summary(row: np.ndarray, confidence: float) -> Summary:
    present = row[np.isfinite(row)]
    return Summary(
        values=tuple(float(value) if np.isfinite(value) else None for value in row),
        n=len(present),
        mean=float(present.mean()) if len(present) else None,
        std=float(present.std(ddof=1)) if len(present) > 1 else None,
        interval=mean_estimate(row, confidence),
    )
