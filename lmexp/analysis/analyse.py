"""From (plan, rows, lock) to everything that the report says: one pure function, :func:`analyse`."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lmexp.analysis.answer import answer, crossed_answer, winner_alone
from lmexp.analysis.cells import (
    AS_PLANNED,
    NOT_BELIEVED,
    REGISTERED,
    Accounting,
    account,
    by_population,
    reported_population,
    with_populations,
)
from lmexp.analysis.curves import Steps
from lmexp.analysis.desk import AgainstControl, Desk, Summary, Table
from lmexp.analysis.drift import Drift, drift_of
from lmexp.analysis.measures import Measure, measure_of
from lmexp.analysis.omnibus import Omnibus, omnibus
from lmexp.analysis.speeds import Speeds, steady_speeds
from lmexp.analysis.sweeps import Sweep, sweep_of
from lmexp.analysis.verdicts import Verdict, deviated, exploratory, joint_reading, judge
from lmexp.design import Reach, reaches
from lmexp.lock import Entry, Lock, moment
from lmexp.plan import NO_TEST, Plan
from lmexp.stages import Choice
from lmexp.statistics.blocks import contrast
from lmexp.statistics.contrasts import pairwise
from lmexp.statistics.equivalence import Equivalence, tost_contrast
from lmexp.statistics.estimates import TOO_FEW, Estimate

ENVIRONMENT = ("device", "chip", "blas", "mlx_version", "git_commit", "git_dirty")
_ALWAYS_SHOWN = ("n_params", "tokens_per_second", "steps")  # where any run measured them


@dataclass(frozen=True)
class Exploration:
    """Runs that no promise covers: estimates, with plain t intervals, and nothing that is tested or judged."""

    title: str
    accounting: Accounting
    measure: Measure
    summaries: dict[str, Summary]
    differences: dict[str, Estimate]  # from the control, on the scale of the analysis


@dataclass(frozen=True)
class Analysis:
    """All that the rows say about the plan. Every table, figure and sentence of the report is made from this."""

    plan: Plan  # what is judged: of a plan with a confirmation, the confirmation alone
    source: Plan  # the plan as it is written
    lock: Lock | None
    used: pd.DataFrame  # rows that count, indexed by (arm, seed)
    accounting: Accounting
    measures: tuple[Measure, ...]  # the primary first
    summaries: dict[str, dict[str, Summary]]  # measure -> arm
    complete: tuple[int, ...]  # seeds with the primary metric in every arm
    omnibus: Omnibus | None
    comparisons: dict[str, tuple[AgainstControl, ...]]  # measure -> every arm but the control
    equivalences: dict[str, Equivalence]  # arm -> its difference from the control against the smallest of interest
    shares: dict[str, Estimate]  # arm -> share of the full improvement
    non_additivity: Estimate | None
    reaches: tuple[Reach, ...]  # what the planned tests can find
    blocked_error: float | None  # standard deviation of what is left when arm and seed are taken out
    verdicts: tuple[Verdict, ...]
    joint: str
    answer: str  # the best arm against the control and the runner-up, in words
    breach: str | None  # why the protocol was not met, None when it was
    sweep: Sweep | None  # the first stage of a plan with a confirmation
    speeds: Speeds | None  # how launches settled, for a plan with a warm-up rule
    explorations: tuple[Exploration, ...]
    drift: Drift
    environment: dict[str, dict[str, int]]  # column -> value -> number of runs
    remarks: tuple[str, ...]
    amendments: tuple[Entry, ...]  # those that were made when runs of the plan existed, whatever they say themselves

    @property
    def primary(self) -> Measure:
        """The measure that decides."""
        return self.measures[0]

    @property
    def confidence(self) -> float:
        """The coverage of the intervals: 1 - alpha."""
        return 1 - self.plan.analysis.alpha

    @property
    def registered(self) -> bool:
        """Whether the runs that count follow the plan's lock."""
        return self.accounting.settings == REGISTERED


def analyse(
    plan: Plan, runs: pd.DataFrame, lock: Lock | None = None, steps: Steps | None = None, settings: str | None = None
) -> Analysis:
    """Judge a plan by its runs.

    Args:
        plan: the plan, as its lock promises it when there is one; its tests and criteria are the ones used, and nothing
            here can change them.
        runs: rows of ``run.parquet``, one per launched run, whatever its status.
        lock: the plan's lock. Without one, or for runs that do not follow it, there are estimates and no verdicts.
        steps: log points by ``run_id``, or a function that loads them; needed by a plan with a warm-up rule.
        settings: which population to report (see :mod:`lmexp.analysis.cells`); None chooses.
    """
    runs = with_populations(plan, runs, lock)
    settings = settings or reported_population(runs)
    stage = _stage(plan, runs, settings)
    used, speeds = _with_steady_speeds(stage.plan, stage.used, steps)
    desk = Desk(stage.plan, used)
    primary = desk.table(stage.plan.primary.name)
    breach = _disbelieved(runs, settings) or _breach(stage, primary)
    amendments = _amended_after_data(lock, runs) if lock and settings == REGISTERED else ()
    verdicts = _verdicts(desk, breach, amendments, settings)
    told = [name for name in _ALWAYS_SHOWN if used.empty or used[name].notna().any()]
    names = tuple(dict.fromkeys((*plan.metrics, *told)))
    drift, environment = drift_of(used), _environment(used)
    return Analysis(
        plan=stage.plan,
        source=plan,
        lock=lock,
        used=used,
        accounting=stage.accounting,
        measures=tuple(measure_of(stage.plan, name) for name in names),
        summaries={name: desk.summaries(name) for name in names},
        complete=tuple(np.array(stage.plan.seeds)[primary.complete].tolist()),
        omnibus=omnibus(stage.plan, primary.scaled) if primary.complete.any() else None,
        comparisons={name: desk.comparisons(name) for name in plan.metrics},
        equivalences=_equivalences(desk, primary),
        shares=desk.shares(),
        non_additivity=desk.non_additivity(),
        reaches=tuple(reaches(plan)),
        blocked_error=primary.fit.error_variance and float(np.sqrt(primary.fit.error_variance)),
        verdicts=verdicts,
        joint=joint_reading(verdicts),
        answer=_answer(desk, primary),
        breach=breach,
        sweep=stage.sweep,
        speeds=speeds,
        explorations=_explorations(plan, runs, settings),
        drift=drift,
        environment=environment,
        remarks=tuple(_remarks(stage, used, primary, environment, drift, speeds)),
        amendments=amendments,
    )


@dataclass(frozen=True)
class _Stage:
    """What is judged: the plan itself, or its confirmation with the arms that the sweep chose."""

    plan: Plan
    used: pd.DataFrame
    accounting: Accounting
    judged: Accounting  # of the runs that are judged: those of the confirmation alone
    sweep: Sweep | None
    choice: Choice | None
    is_early: bool = False  # a run of the confirmation started before the last of the sweep did


def _stage(plan: Plan, runs: pd.DataFrame, settings: str) -> _Stage:
    if plan.confirmation is None:
        judged = replace(plan, arms={arm: plan.arms[arm] for arm in plan.judged_arms})
        accounting, used = account(judged, runs, settings)
        return _Stage(judged, used, accounting, accounting, None, None)
    fresh = runs["seed"].isin(plan.confirmation.seeds)
    whole = replace(plan, confirmation=None, exploratory=(), control=None, hypotheses=())
    swept, sweep_rows = account(whole, runs[~fresh], settings)
    sweep = sweep_of(plan, sweep_rows, runs[~fresh & (runs["population"] == settings)])
    chosen = dict(sweep.choice.chosen)
    arms = {name: plan.arms[chosen[name]] if name in chosen else () for name in plan.confirmation.competitions}
    judged = replace(plan, arms=arms, seeds=plan.confirmation.seeds, confirmation=None, exploratory=(), factors={})
    confirmed, used = account(judged, runs[fresh], settings, chosen)
    both = Accounting(
        swept.cells + confirmed.cells,
        swept.left_out + confirmed.left_out,
        swept.n_launched + confirmed.n_launched,
        settings,
    )
    is_early = len(used) > 0 and len(sweep_rows) > 0 and used["started_at"].min() < sweep_rows["started_at"].max()
    return _Stage(judged, used, both, confirmed, sweep, sweep.choice, bool(is_early))


def _with_steady_speeds(plan: Plan, used: pd.DataFrame, steps: Steps | None) -> tuple[pd.DataFrame, Speeds | None]:
    """Replace the speeds of the rows by those of the settled part of each launch, where the plan has a rule for it."""
    if plan.analysis.warm_up == NO_TEST or steps is None:
        return used, None
    speeds = steady_speeds(used, steps, plan.analysis.warm_up, 1 - plan.analysis.alpha)
    return speeds.applied(used), speeds


def _disbelieved(runs: pd.DataFrame, settings: str) -> str | None:
    """Say that runs claim to be registered and cannot be believed: one of them may be what a cell's first run was."""
    found = runs[runs["population"].str.startswith(NOT_BELIEVED)] if settings == REGISTERED else runs[:0]
    if found.empty:
        return None
    why = found["population"].iloc[0].removeprefix(NOT_BELIEVED)
    named = f"{found['run_id'].iloc[0]}: {why}"
    return f"{len(found)} of the runs that say they are registered cannot be believed ({named})."


def _breach(stage: _Stage, primary: Table) -> str | None:
    """Say why the protocol was not met, if it was not."""
    if stage.choice is not None and stage.choice.gaps:
        return f"The confirmation has no arms to compare yet: {'; '.join(stage.choice.gaps)}."
    if stage.is_early:
        return "Runs of the confirmation started before the sweep that chooses them had ended."
    gaps, cells = stage.judged.gaps, stage.judged.cells
    if gaps:
        named = ", ".join(map(str, gaps[:4])) + (f" and {len(gaps) - 4} more" if len(gaps) > 4 else "")
        return f"{len(gaps)} of {len(cells)} cells {'has' if len(gaps) == 1 else 'have'} no result: {named}."
    if mixed := _mixed_budgets(stage.plan, stage.used):
        return mixed
    if lost := int((~np.isfinite(primary.scaled_or_missing)).sum()):
        # A cell can have ended well and still have no value: no steady state, or a speed of zero without a logarithm.
        return f"{lost} of {primary.array.size} cells have no {primary.measure.name} that can be compared."
    return f"There are {TOO_FEW}." if primary.complete.sum() < 2 else None


def _mixed_budgets(plan: Plan, used: pd.DataFrame) -> str | None:
    """Name an arm whose runs had different budgets: a plan may leave that key free, but a mean must not mix them."""
    known = used["budget_seconds"].dropna() if "budget_seconds" in used else pd.Series(dtype=float)
    if any(key.partition(".")[0] == "budget" for key in plan.free) and known.nunique() > 1:
        different = ", ".join(f"{value:g} s" for value in sorted(set(known)))
        return f"The plan leaves the budget free, and the runs that count had different ones: {different}."
    for arm, seconds in known.groupby(level=0, sort=False) if len(known) else ():
        if seconds.nunique() > 1:
            different = ", ".join(f"{value:g} s" for value in sorted(set(seconds)))
            return f"The runs of {arm} had different budgets: {different}."
    return None


def _amended_after_data(lock: Lock, runs: pd.DataFrame) -> tuple[Entry, ...]:
    """Return the amendments that runs had begun before, by what each entry says or by the runs themselves.

    An entry counts the runs of one results folder when it is written; runs may lie in another, or come back later.
    """
    found = []
    for place, entry in enumerate(lock.entries[1:], start=1):
        older, made = {each.sha256 for each in lock.entries[:place]}, moment(entry.at)
        following = runs[runs["lock_sha256"].isin(older)]["started_at"]
        began = [started for text in following if (started := moment(text)) and made and started < made]
        if existed := max(entry.runs_existed, len(began)):
            found.append(replace(entry, runs_existed=existed))
    return tuple(found)


def _verdicts(desk: Desk, breach: str | None, amended: tuple[Entry, ...], settings: str) -> tuple[Verdict, ...]:
    found = tuple(judge(hypothesis, desk.estimate, breach) for hypothesis in desk.plan.hypotheses)
    if settings != REGISTERED:
        why = f"No verdict: these runs are exploratory ({settings}). Only runs that follow a locked plan are judged."
        return tuple(exploratory(verdict, why) for verdict in found)
    if not amended:
        return found
    why = f"The plan was amended when {amended[0].runs_existed} of its runs existed ({amended[0].reason})."
    return tuple(deviated(verdict, why) for verdict in found)


def _equivalences(desk: Desk, primary: Table) -> dict[str, Equivalence]:
    """Compare every difference from the control with the smallest effect of interest (two one-sided tests)."""
    plan = desk.plan
    if plan.control is None or primary.measure.logarithmic or not primary.complete.any():
        return {}
    if not (0 < (plan.primary.sesoi or 0.0) < np.inf and plan.analysis.alpha < 0.5):
        return {}  # no plan that says this can be locked, but its exploratory runs are reported
    control = desk.row[plan.control]
    others = [arm for arm in desk.row if arm != plan.control]
    return {
        arm: tost_contrast(
            primary.fit, pairwise(len(desk.row), desk.row[arm], control), plan.primary.sesoi or 0.0, plan.analysis.alpha
        )
        for arm in others
    }


def _answer(desk: Desk, primary: Table) -> str:
    """Return what the lede says: see :mod:`lmexp.analysis.answer`."""
    measure, control = primary.measure, desk.plan.control
    means = {arm: s.mean for arm, s in desk.summaries(measure.name).items() if s.mean is not None}
    others = [arm for arm in desk.row if arm != control]
    if control is None or not others:
        return winner_alone(means, measure) if means else ""
    grid = desk.plan.grid()
    whole = set(grid.values()) <= set(desk.row)  # arms of the grid may be exploratory
    if len(desk.plan.factors) > 1 and control in grid.values() and whole and primary.complete.any():
        return crossed_answer(desk.estimate, measure, control, grid)
    single = desk.single_changes()
    said = answer(desk.estimate, measure, control, single or others, desk.plan.analysis.full if single else None)
    complete = primary.complete
    return said if complete.all() or not said else f"Over {complete.sum()} of {len(complete)} seeds: {said}"


def _explorations(plan: Plan, runs: pd.DataFrame, settings: str) -> tuple[Exploration, ...]:
    """Describe every other population of runs, and the arms that the plan itself calls exploratory."""
    found = []
    swept = replace(
        plan, confirmation=None, exploratory=(), control=plan.control if plan.control in plan.arms else None
    )
    for title, rows in by_population(runs).items():
        if title != settings:
            found.append(_exploration(swept, title, rows, title))
    if plan.exploratory:
        ends = () if swept.control is None else (swept.control,)
        part = replace(swept, arms={arm: plan.arms[arm] for arm in (*ends, *plan.exploratory)})
        rows = runs[runs["arm"].isin(part.arms)]
        found.append(_exploration(part, "Arms that the plan calls exploratory", rows, settings))
    return tuple(found)


def _exploration(plan: Plan, title: str, rows: pd.DataFrame, settings: str) -> Exploration:
    accounting, used = account(plan, rows, settings)
    plan = replace(plan, arms={arm: plan.arms[arm] for arm in plan.arms if arm in used.index.get_level_values("arm")})
    plan = replace(plan, control=plan.control if plan.control in plan.arms else None)
    desk, metric = Desk(plan, used), plan.primary.name
    differences = {}
    if plan.control is not None:
        table = desk.table(metric)
        weights = {arm: pairwise(len(desk.row), desk.row[arm], desk.row[plan.control]) for arm in desk.row}
        differences = {
            arm: contrast(table.fit, each, desk.confidence) for arm, each in weights.items() if arm != plan.control
        }
    return Exploration(title, accounting, measure_of(plan, metric), desk.summaries(metric), differences)


def _environment(used: pd.DataFrame) -> dict[str, dict[str, int]]:
    known = {column: used[column].dropna().astype(str) for column in ENVIRONMENT if column in used}
    return {
        column: {str(k): int(v) for k, v in sorted(texts.value_counts().items())} for column, texts in known.items()
    }


def _remarks(
    stage: _Stage,
    used: pd.DataFrame,
    primary: Table,
    environment: dict[str, dict[str, int]],
    drift: Drift,
    speeds: Speeds | None,
) -> list[str]:
    """Return what a careful reader should know before believing the numbers."""
    accounting, remarks = stage.accounting, []
    if accounting.n_used and accounting.settings not in (AS_PLANNED, REGISTERED):
        remarks.append(f"These runs were not made as the plan says: {accounting.settings}.")
    if (~primary.complete).any() and accounting.n_used:
        seeds = ", ".join(
            str(seed) for seed, whole in zip(stage.plan.seeds, primary.complete, strict=True) if not whole
        )
        remarks.append(f"Seeds without a result in every arm are left out of every comparison: {seeds}.")
    slow = [drift.sentence] if drift.slow else []
    edges = [stage.sweep.edges] if stage.sweep is not None and stage.sweep.edges else []
    unsettled = [speeds.remark] if speeds is not None and speeds.remark else []
    return [*remarks, *edges, *slow, *unsettled, *_warnings(used), *_differing(environment, len(used))]


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
