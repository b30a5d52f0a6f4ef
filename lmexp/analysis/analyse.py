"""From (plan, rows) to everything that the report says: one pure function, :func:`analyse`."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from lmexp.analysis.answer import answer, winner_alone
from lmexp.analysis.cells import Accounting, account, values
from lmexp.analysis.drift import Drift, drift_of
from lmexp.analysis.measures import Measure, measure_of
from lmexp.analysis.verdicts import Verdict, joint_reading, judge
from lmexp.criteria import Term
from lmexp.plan import NO_TEST, Plan
from lmexp.statistics.blocks import (
    BlockedAnova,
    Fit,
    blocked_anova,
    complete_seeds,
    contrast,
    fit_blocks,
    mean_estimate,
)
from lmexp.statistics.contrasts import (
    Difference,
    differences,
    interaction,
    pairwise,
    plain_differences,
    ratio_of_means,
    share,
)
from lmexp.statistics.effect_size import EffectSizes, effect_sizes
from lmexp.statistics.estimates import TOO_FEW, Estimate, undefined

ENVIRONMENT = ("device", "chip", "blas", "mlx_version", "git_commit", "git_dirty")
_ALWAYS_SHOWN = ("n_params", "tokens_per_second", "steps")


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
    """One arm against the control in one measure."""

    arm: str
    measure: Measure
    difference: Difference
    effects: EffectSizes
    paired: tuple[float, ...]  # arm - control, one per complete seed
    relative: float | None  # difference / control


@dataclass(frozen=True)
class Analysis:
    """All that the rows say about the plan. Every table, figure and sentence of the report is made from this."""

    plan: Plan
    used: pd.DataFrame  # rows that count, indexed by (arm, seed)
    accounting: Accounting
    measures: tuple[Measure, ...]  # the primary first
    summaries: dict[str, dict[str, Summary]]  # measure -> arm
    complete: tuple[int, ...]  # seeds with the primary metric in every arm
    anova: BlockedAnova | None
    comparisons: dict[str, tuple[AgainstControl, ...]]  # measure -> every arm but the control
    shares: dict[str, Estimate]  # arm -> share of the full improvement
    non_additivity: Estimate | None
    verdicts: tuple[Verdict, ...]
    joint: str
    answer: str  # the best arm against the control and the runner-up, in words
    breach: str | None  # why the protocol was not met, None when it was
    registered: bool
    drift: Drift
    environment: dict[str, dict[str, int]]  # column -> value -> number of runs
    remarks: tuple[str, ...]

    @property
    def primary(self) -> Measure:
        """The measure that decides."""
        return self.measures[0]

    @property
    def confidence(self) -> float:
        """The coverage of the intervals: 1 - alpha."""
        return 1 - self.plan.analysis.alpha


def analyse(plan: Plan, runs: pd.DataFrame) -> Analysis:
    """Judge a plan by its runs.

    Args:
        plan: the plan; its tests and criteria are the ones used, and nothing here can change them.
        runs: rows of ``run.parquet``, one per launched run, whatever its status.
    """
    accounting, used = account(plan, runs)
    desk = _Desk(plan, used)
    names = tuple(dict.fromkeys((*plan.metrics, *_ALWAYS_SHOWN)))
    primary = desk.table(plan.primary.name)
    breach = _breach(accounting, primary)
    verdicts = tuple(judge(hypothesis, desk.estimate, breach) for hypothesis in plan.hypotheses)
    drift = drift_of(used)
    environment = _environment(used)
    return Analysis(
        plan=plan,
        used=used,
        accounting=accounting,
        measures=tuple(measure_of(plan, name) for name in names),
        summaries={name: desk.summaries(name) for name in names},
        complete=tuple(np.array(plan.seeds)[primary.complete].tolist()),
        anova=_omnibus(plan, primary),
        comparisons={name: desk.comparisons(name) for name in plan.metrics},
        shares=desk.shares(),
        non_additivity=desk.non_additivity(),
        verdicts=verdicts,
        joint=joint_reading(verdicts),
        answer=desk.answer(),
        breach=breach,
        registered=bool(len(used)) and bool((used["registered"] == True).all()),  # noqa: E712  # null is not registered
        drift=drift,
        environment=environment,
        remarks=tuple(_remarks(plan, used, accounting, primary, environment, drift)),
    )


def _breach(accounting: Accounting, primary: "_Table") -> str | None:
    """Say why the protocol was not met, if it was not."""
    gaps = accounting.gaps
    if gaps:
        named = ", ".join(map(str, gaps[:4])) + (f" and {len(gaps) - 4} more" if len(gaps) > 4 else "")
        has = "has" if len(gaps) == 1 else "have"
        return f"{len(gaps)} of {len(accounting.cells)} cells {has} no result: {named}."
    return f"There are {TOO_FEW}." if primary.complete.sum() < 2 else None


def _omnibus(plan: Plan, primary: "_Table") -> BlockedAnova | None:
    wanted = plan.analysis.omnibus != NO_TEST and len(plan.arms) > 1 and primary.complete.any()
    return blocked_anova(primary.blocks) if wanted else None


class _Table:
    """One measure of the runs that count: (arms, seeds), and the blocked fit of its complete seeds."""

    def __init__(self, array: np.ndarray):
        self.array, self.complete = array, complete_seeds(array)
        self.blocks = array[:, self.complete]

    @cached_property
    def fit(self) -> Fit:
        return fit_blocks(self.blocks)


class _Desk:
    """Turns names of the plan into estimates; each measure is read and fitted once."""

    def __init__(self, plan: Plan, used: pd.DataFrame):
        self.plan, self.used, self.confidence = plan, used, 1 - plan.analysis.alpha
        self.row = {arm: row for row, arm in enumerate(plan.arms)}
        self._tables: dict[str, _Table] = {}

    def table(self, metric: str) -> _Table:
        if metric not in self._tables:
            self._tables[metric] = _Table(values(self.plan, self.used, metric))
        return self._tables[metric]

    def summaries(self, metric: str) -> dict[str, Summary]:
        return {arm: _summary(self.table(metric).array[row], self.confidence) for arm, row in self.row.items()}

    def comparisons(self, metric: str) -> tuple[AgainstControl, ...]:
        if self.plan.control is None or len(self.row) < 2:
            return ()
        table, control = self.table(metric), self.row[self.plan.control]
        compare = plain_differences if self.plan.analysis.contrasts == NO_TEST else differences
        found = compare(table.fit, control, self.plan.analysis.alpha)
        return tuple(self._comparison(metric, difference, control) for difference in found)

    def _comparison(self, metric: str, difference: Difference, control: int) -> AgainstControl:
        blocks = self.table(metric).blocks
        base = float(blocks[control].mean()) if blocks.size else 0.0
        value = difference.alone.value
        return AgainstControl(
            arm=list(self.row)[difference.arm],
            measure=measure_of(self.plan, metric),
            difference=difference,
            effects=effect_sizes(blocks[difference.arm], blocks[control], self.confidence),
            paired=tuple((blocks[difference.arm] - blocks[control]).tolist()),
            relative=value / base if value is not None and base else None,
        )

    def shares(self) -> dict[str, Estimate]:
        return {arm: self.estimate(Term("share", (arm,), None)) for arm in self._single_changes()}

    def non_additivity(self) -> Estimate | None:
        if len(self._single_changes()) < 2:
            return None
        return self.estimate(Term("interaction", (), None))

    def answer(self) -> str:
        """Return what the lede says: see :mod:`lmexp.analysis.answer`."""
        measure, control = measure_of(self.plan, self.plan.primary.name), self.plan.control
        means = {arm: s.mean for arm, s in self.summaries(measure.name).items() if s.mean is not None}
        others = [arm for arm in self.row if arm != control]
        if control is None or not others:
            return winner_alone(means, measure) if means else ""
        single = self._single_changes()
        full = self.plan.analysis.full if single else None
        said = answer(self.estimate, measure, control, single or others, full)
        complete = self.table(measure.name).complete
        return said if complete.all() or not said else f"Over {complete.sum()} of {len(complete)} seeds: {said}"

    def _single_changes(self) -> list[str]:
        control, full = self.plan.control, self.plan.analysis.full
        if control is None or full is None or control == full:
            return []
        return [arm for arm in self.row if arm not in (control, full)]

    def estimate(self, term: Term) -> Estimate:
        """Return the estimate that a criterion's term names, with its interval."""
        metric = term.metric or self.plan.primary.name
        table, rows = self.table(metric), [self.row[arm] for arm in term.arms]
        if metric != self.plan.primary.name and not table.complete.all():
            gaps = int(np.isnan(table.array).sum())
            reason = f"{gaps} of {table.array.size} cells have no {metric}"
            return undefined(reason, self.confidence, int(table.complete.sum()), term.name)
        if term.name == "mean":
            return mean_estimate(table.array[rows[0]], self.confidence)
        if term.name == "diff":
            return self._difference(table, rows[0], rows[1])
        if term.name == "ratio":
            return ratio_of_means(table.blocks[rows[0]], table.blocks[rows[1]], self.confidence)
        return self._directed(term, table, rows, measure_of(self.plan, metric))

    def _directed(self, term: Term, table: _Table, rows: list[int], measure: Measure) -> Estimate:
        """Return an estimate that needs to know which way is better: improvement, share, interaction."""
        control, full = self.row[str(self.plan.control)], self.row.get(str(self.plan.analysis.full), -1)
        if measure.sign is None:
            return undefined(f"neither direction of {measure.name} is better", self.confidence, 0, term.name)
        if term.name == "improvement":
            first, second = (control, rows[0]) if measure.sign > 0 else (rows[0], control)
            return self._difference(table, first, second)
        if term.name == "share":
            return share(table.fit, rows[0], control, full, measure.sign, self.confidence)
        parts = rows or [self.row[arm] for arm in self._single_changes()]
        return interaction(table.fit, parts, control, full, measure.sign, self.confidence)

    def _difference(self, table: _Table, first: int, second: int) -> Estimate:
        """Return first - second: with the plan's simultaneous interval when one of them is the control."""
        control = self.row.get(str(self.plan.control))
        if control not in (first, second) or self.plan.analysis.contrasts == NO_TEST:
            return contrast(table.fit, pairwise(len(self.row), first, second), self.confidence)
        other = second if first == control else first
        found = next(d for d in differences(table.fit, control, self.plan.analysis.alpha) if d.arm == other)
        return found.shown if second == control else _negated(found.shown)


def _negated(estimate: Estimate) -> Estimate:
    turned = estimate.mapped(lambda value: -value)
    low, high = turned.high, turned.low
    return Estimate(
        turned.value, low, high, estimate.confidence, estimate.n_seeds, estimate.df, estimate.method, estimate.undefined
    )


def _summary(row: np.ndarray, confidence: float) -> Summary:
    present = row[np.isfinite(row)]
    return Summary(
        values=tuple(float(value) if np.isfinite(value) else None for value in row),
        n=len(present),
        mean=float(present.mean()) if len(present) else None,
        std=float(present.std(ddof=1)) if len(present) > 1 else None,
        interval=mean_estimate(row, confidence),
    )


def _environment(used: pd.DataFrame) -> dict[str, dict[str, int]]:
    known = {column: used[column].dropna().astype(str) for column in ENVIRONMENT if column in used}
    return {
        column: {str(k): int(v) for k, v in sorted(texts.value_counts().items())} for column, texts in known.items()
    }


def _remarks(
    plan: Plan,
    used: pd.DataFrame,
    accounting: Accounting,
    primary: _Table,
    environment: dict[str, dict[str, int]],
    drift: Drift,
) -> list[str]:
    """Return what a careful reader should know before believing the numbers."""
    remarks = []
    if accounting.n_used and not accounting.as_planned:
        remarks.append(f"These runs changed the plan's settings: {accounting.settings}.")
    others = int((used["plan_sha256"].dropna() != plan.sha256).sum()) if "plan_sha256" in used else 0
    if others:
        remarks.append(f"{others} of {len(used)} runs were made under another version of this plan.")
    if (~primary.complete).any() and accounting.n_used:
        seeds = ", ".join(str(seed) for seed, whole in zip(plan.seeds, primary.complete, strict=True) if not whole)
        remarks.append(f"Seeds without a result in every arm are left out of every comparison: {seeds}.")
    slow = [drift.sentence] if drift.slow else []
    return [*remarks, *_budgets(used), *slow, *_warnings(used), *_differing(environment, len(used))]


def _budgets(used: pd.DataFrame) -> list[str]:
    """Name arms whose runs had different budgets: the plan leaves that key free, and the means then mix them."""
    known = used["budget_seconds"].dropna() if "budget_seconds" in used else pd.Series(dtype=float)
    by_arm = {arm: sorted(set(seconds)) for arm, seconds in known.groupby(level=0, sort=False)} if len(known) else {}
    return [
        f"The runs of {arm!s} had different budgets: {', '.join(f'{value:g} s' for value in values)}."
        for arm, values in by_arm.items()
        if len(values) > 1
    ]


def _warnings(used: pd.DataFrame) -> list[str]:
    """Say how many runs were warned of what."""
    said = used["warnings"].dropna().astype(str) if "warnings" in used else pd.Series(dtype=str)
    counts = Counter(said[said != ""])
    return [f"{n} of {len(used)} runs {_was(n)} warned: {text}" for text, n in sorted(counts.items())]


def _was(n: int) -> str:
    return "was" if n == 1 else "were"


def _differing(environment: dict[str, dict[str, int]], n_runs: int) -> list[str]:
    """Name what the runs did not share."""
    remarks = []
    for column, counts in environment.items():
        if column == "git_dirty" and "True" in counts:
            remarks.append(f"{counts['True']} of {n_runs} runs had uncommitted changes in the code.")
        elif len(counts) > 1:
            remarks.append(f"The runs differ in {column.replace('_', ' ')}: {', '.join(counts)}.")
    return remarks
