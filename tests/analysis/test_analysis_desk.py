"""Estimates by name: which arm is taken from which, on which scale, by which method; and what a plan's stages make."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pingouin
import pytest
from analysis_rows import analysed, make_lock, make_plan, make_runs
from scipy import stats

from lmexp.analysis import analyse
from lmexp.analysis.comparisons import against_control, between
from lmexp.analysis.crossing import crossovers
from lmexp.analysis.curves import Curve, gaps_to
from lmexp.analysis.desk import Desk
from lmexp.analysis.sections.differences import differences as differences_section
from lmexp.analysis.tables import interval_text
from lmexp.analysis.verdicts import DEVIATED, EXPLORATORY, INADMISSIBLE, SUPPORTED
from lmexp.criteria import Term
from lmexp.plan import Analysis, Confirmation, Hypothesis, Metric
from lmexp.statistics.blocks import contrast, fit_blocks
from lmexp.statistics.contrasts import differences, pairwise, share

# 4 arms, 5 seeds: no two axes of equal size, and every arm apart from every other.
BLOCKS = np.array(
    [
        [3.0, 3.4, 2.9, 3.2, 3.6],
        [2.1, 2.6, 2.2, 2.0, 2.9],
        [5.2, 5.1, 5.6, 5.3, 5.9],
        [2.8, 3.5, 3.1, 3.0, 3.3],
    ]
)
ARMS = ("plain", "fast", "slow", "same")


def desk(metric="val_bpb", direction="lower", values=BLOCKS, contrasts="dunnett_blocked", **changes):
    plan = make_plan(
        arms=dict.fromkeys(ARMS, ()),
        control="plain",
        seeds=(0, 1, 2, 3, 4),
        primary=Metric(metric, direction, "unit", 0.5),
        secondary=("n_params", "tokens_per_second"),
        analysis=Analysis(0.05, "blocked_anova", contrasts, "hedges_g", "fast"),
        hypotheses=(),
        **changes,
    )
    cells = [(arm, seed) for arm in ARMS for seed in plan.seeds]
    used = pd.DataFrame({"arm": [a for a, _ in cells], "seed": [s for _, s in cells], metric: values.ravel()})
    used["n_params"] = used["arm"].map({"plain": 600.0, "fast": 200.0, "slow": 900.0, "same": 600.0})
    return Desk(plan, used.set_index(["arm", "seed"]))


def limits(estimate):
    return [estimate.value, estimate.low, estimate.high]


class TestDifferences:
    def test_the_first_arm_minus_the_second(self):
        for first, second in [("slow", "fast"), ("fast", "slow"), ("same", "slow")]:
            found = desk().estimate(Term("diff", (first, second), None))
            row, other = ARMS.index(first), ARMS.index(second)
            assert found.value == pytest.approx(BLOCKS[row].mean() - BLOCKS[other].mean())
            expected = contrast(fit_blocks(BLOCKS), pairwise(4, row, other), 0.95)
            assert limits(found) == pytest.approx(limits(expected))

    def test_against_the_control_it_has_dunnetts_interval_in_either_direction(self):
        expected = differences(fit_blocks(BLOCKS), 0, 0.05)[0].simultaneous
        assert limits(desk().estimate(Term("diff", ("fast", "plain"), None))) == pytest.approx(limits(expected))
        turned = desk().estimate(Term("diff", ("plain", "fast"), None))
        assert limits(turned) == pytest.approx([-expected.value, -expected.high, -expected.low])

    def test_a_plan_without_tests_gives_every_difference_its_own_interval(self):
        found = desk(contrasts="none").estimate(Term("diff", ("fast", "plain"), None))
        assert limits(found) == pytest.approx(limits(contrast(fit_blocks(BLOCKS), pairwise(4, 1, 0), 0.95)))

    def test_improvement_is_towards_what_is_better(self):
        better = BLOCKS[0].mean() - BLOCKS[1].mean()
        assert desk().estimate(Term("improvement", ("fast",), None)).value == pytest.approx(better)
        turned = desk(direction="higher").estimate(Term("improvement", ("fast",), None))
        assert turned.value == pytest.approx(-better)
        assert turned.low < turned.value < turned.high


class TestMethods:
    """Each method against an implementation of somebody else, on these blocks."""

    def test_tukey_over_all_pairs(self):
        residuals = BLOCKS - BLOCKS.mean(axis=0) - (BLOCKS.mean(axis=1) - BLOCKS.mean())[:, None]
        error = np.sqrt((residuals**2).sum() / 12 / 5)
        reach = stats.studentized_range.ppf(0.95, 4, 12) * error
        found = between("tukey_blocked", BLOCKS, 3, 1, 0, 0.05)
        gap = BLOCKS[3].mean() - BLOCKS[1].mean()
        # scipy integrates its range distribution numerically, to about six digits.
        assert limits(found) == pytest.approx([gap, gap - reach, gap + reach], rel=1e-5)
        (row,) = (each for each in against_control("tukey_blocked", BLOCKS, 2, 0.05) if each.arm == 1)
        assert row.simultaneous.value == pytest.approx(BLOCKS[1].mean() - BLOCKS[2].mean())
        assert row.t < 0
        assert row.p_adjusted == pytest.approx(
            stats.studentized_range.sf(abs(row.t) * 2**0.5, 4, 12), rel=1e-4, abs=1e-9
        )

    def test_games_and_howell(self):
        frame = pd.DataFrame({"value": BLOCKS.ravel(), "arm": np.repeat(ARMS, 5)})
        theirs = pingouin.pairwise_gameshowell(frame, dv="value", between="arm").set_index(["A", "B"])
        found = against_control("games_howell", BLOCKS, 0, 0.05)
        for each in found:
            pair = sorted(["plain", ARMS[each.arm]])
            assert each.p_adjusted == pytest.approx(theirs.loc[tuple(pair), "pval"], abs=1e-4)
        assert [each.alone.value < 0 for each in found] == [True, False, True]

    def test_holm_and_sign_flips(self):
        holm = against_control("holm_blocked", BLOCKS, 0, 0.05)
        assert [each.arm for each in holm] == [1, 2, 3]
        assert holm[2].p_adjusted == pytest.approx(holm[2].p)  # the largest p of a family is not raised
        assert holm[0].simultaneous.high - holm[0].simultaneous.low > holm[0].alone.high - holm[0].alone.low
        flips = against_control("sign_flip_holm", BLOCKS, 0, 0.05)
        # All five differences of the first two arms have one sign: 2 of 32 patterns are as far from zero.
        assert [each.p for each in flips[:2]] == [2 / 32, 2 / 32]
        assert flips[0].p_adjusted == pytest.approx(3 * 2 / 32)
        assert flips[2].p > 2 / 32

    def test_an_unpaired_pair_is_found_from_either_side(self):
        one, other = (between("games_howell", BLOCKS, *rows, 0, 0.05) for rows in ((1, 2), (2, 1)))
        assert limits(one) == pytest.approx([-other.value, -other.high, -other.low])


class TestSpeedsAndDurations:
    """What varies as it grows is compared by ratios, and no arm lends its spread to another."""

    def of(self, name, *arms):
        return desk("steps_per_second", "higher").estimate(Term(name, arms, None))

    def test_a_ratio_is_the_paired_t_of_logarithms(self):
        found = self.of("ratio", "slow", "fast")
        logs = np.log(BLOCKS[2]) - np.log(BLOCKS[1])
        assert found.value == pytest.approx(np.exp(logs.mean()))
        interval = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
        assert [found.low, found.high] == pytest.approx(np.exp([interval.low, interval.high]))
        assert found.df == 4

    def test_a_difference_uses_the_two_arms_alone(self):
        found = self.of("diff", "slow", "plain")
        theirs = stats.ttest_rel(BLOCKS[2], BLOCKS[0])
        assert limits(found) == pytest.approx([(BLOCKS[2] - BLOCKS[0]).mean(), *theirs.confidence_interval(0.95)])

    def test_improvement_of_a_speed(self):
        assert self.of("improvement", "slow").value == pytest.approx((BLOCKS[2] - BLOCKS[0]).mean())

    def test_a_slope_is_a_factor_from_arm_to_arm(self):
        found = self.of("slope", "fast", "plain", "slow")
        logs = np.log(BLOCKS[[1, 0, 2]]).mean(axis=1)
        assert np.log(found.value) == pytest.approx(np.polyfit([0, 1, 2], logs, 1)[0])
        assert found.low < found.value < found.high
        assert self.of("slope", "slow", "plain", "fast").value == pytest.approx(1 / found.value)

    def test_a_share_uses_its_three_arms_alone(self):
        found = self.of("share", "slow", "fast", "same")
        expected = share(fit_blocks(BLOCKS[[2, 1, 3]]), 0, 1, 2, -1, 0.95)
        assert limits(found) == pytest.approx(limits(expected))

    def test_the_omnibus_test_and_contrasts_are_on_logarithms(self):
        table = desk("steps_per_second", "higher").table("steps_per_second")
        assert table.scaled == pytest.approx(np.log(BLOCKS))
        found = desk("steps_per_second", "higher").comparisons("steps_per_second")[1]
        assert found.difference.alone.value == pytest.approx((np.log(BLOCKS[2]) - np.log(BLOCKS[0])).mean())
        assert found.relative == pytest.approx(np.exp(found.difference.alone.value) - 1)
        assert found.paired == pytest.approx(np.log(BLOCKS[2]) - np.log(BLOCKS[0]))

    def test_a_duration_of_zero_has_no_logarithm_and_is_missing(self):
        values = BLOCKS.copy()
        values[1, 3] = 0.0
        assert desk("steps_per_second", "higher", values).table("steps_per_second").complete.tolist() == [
            True, True, True, False, True,
        ]  # fmt: skip


class TestOtherMeasures:
    def test_means_ratios_and_slopes_of_a_loss(self):
        assert desk().estimate(Term("mean", ("slow",), None)).value == pytest.approx(BLOCKS[2].mean())
        ratio = desk().estimate(Term("ratio", ("slow", "fast"), None))
        assert ratio.value == pytest.approx(BLOCKS[2].mean() / BLOCKS[1].mean())
        slope = desk().estimate(Term("slope", ("fast", "plain", "slow"), None))
        assert slope.value == pytest.approx(np.polyfit([0, 1, 2], BLOCKS[[1, 0, 2]].mean(axis=1), 1)[0])

    def test_a_share_between_the_plans_own_ends_uses_all_arms(self):
        found = desk().estimate(Term("share", ("same",), None))
        assert limits(found) == pytest.approx(limits(share(fit_blocks(BLOCKS), 3, 0, 1, 1, 0.95)))

    def test_a_share_of_three_named_arms(self):
        found = desk().estimate(Term("share", ("same", "slow", "fast"), None))
        assert limits(found) == pytest.approx(limits(share(fit_blocks(BLOCKS[[3, 2, 1]]), 0, 1, 2, 1, 0.95)))

    def test_a_count_that_no_seed_changes_is_known_exactly(self):
        for name, arms, value in [
            ("diff", ("slow", "fast"), 700),
            ("ratio", ("plain", "fast"), 3),
            ("mean", ("fast",), 200),
        ]:
            found = desk().estimate(Term(name, arms, "n_params"))
            assert limits(found) == [value, value, value]
            assert found.method == "exact"

    def test_a_count_that_varies_is_estimated(self):
        busy = desk()
        busy.used.loc[("fast", 2), "n_params"] = 230.0
        assert busy.estimate(Term("mean", ("fast",), "n_params")).method == "t"

    def test_a_measure_without_all_its_cells_is_undefined_and_counts_its_gaps(self):
        found = desk().estimate(Term("mean", ("fast",), "tokens_per_second"))
        assert found.value is None
        assert found.undefined == "5 of 5 cells have no tokens_per_second"

    def test_a_gap_in_an_arm_that_a_ratio_does_not_look_at_does_not_matter(self):
        values = BLOCKS.copy()
        values[2, 4] = np.nan
        gappy = desk("steps_per_second", "higher", values)
        assert limits(gappy.estimate(Term("ratio", ("fast", "plain"), None))) == pytest.approx(
            limits(desk("steps_per_second", "higher").estimate(Term("ratio", ("fast", "plain"), None)))
        )

    def test_neither_direction_is_better(self):
        assert "neither direction" in desk().estimate(Term("improvement", ("fast",), "n_params")).undefined


class TestStanding:
    """What may be judged: registered runs; and what may not says so."""

    PLAN = make_plan(hypotheses=(Hypothesis("H1", "", "diff(rope, baseline) < 0", "diff(rope, baseline) > 0"),))

    def test_a_locked_plan_is_judged(self):
        (verdict,) = analysed(self.PLAN, make_runs(self.PLAN)).verdicts
        assert (verdict.verdict, verdict.reading) == (SUPPORTED, SUPPORTED)

    def test_runs_without_a_lock_have_estimates_and_no_verdict(self):
        analysis = analyse(self.PLAN, make_runs(self.PLAN).assign(registered=False))
        (verdict,) = analysis.verdicts
        assert verdict.verdict == EXPLORATORY
        assert (verdict.reading, verdict.bare, verdict.support, verdict.falsification) == (None,) * 4
        assert all(estimate.has_interval for estimate in verdict.estimates.values())
        assert not analysis.registered
        assert "exploratory" in analysis.joint

    def test_an_amendment_after_data_were_seen(self):
        analysis = analysed(self.PLAN, make_runs(self.PLAN), ("a typo", 0), ("a kinder threshold", 7))
        (verdict,) = analysis.verdicts
        assert (verdict.verdict, verdict.reading) == (DEVIATED, SUPPORTED)
        assert "7 of its runs existed (a kinder threshold)" in verdict.reason
        assert "would say SUPPORTED" in verdict.reason
        assert [entry.reason for entry in analysis.amendments] == ["a kinder threshold"]

    def test_an_amendment_before_any_run_changes_nothing(self):
        assert analysed(self.PLAN, make_runs(self.PLAN), ("a typo", 0)).verdicts[0].verdict == SUPPORTED

    def test_what_is_inadmissible_stays_so(self):
        runs = make_runs(self.PLAN).head(17)
        assert analysed(self.PLAN, runs, ("a kinder threshold", 7)).verdicts[0].verdict == INADMISSIBLE

    def test_runs_of_an_arm_with_different_budgets_are_not_mixed(self):
        runs = make_runs(self.PLAN)
        runs.loc[0, "budget_seconds"] = 10.0
        analysis = analysed(self.PLAN, runs)
        assert analysis.verdicts[0].verdict == INADMISSIBLE
        assert analysis.breach == "The runs of baseline had different budgets: 10 s, 300 s."

    def test_exploratory_runs_stand_beside_registered_ones(self):
        runs = make_runs(self.PLAN)
        short = runs.assign(
            registered=False, overrides="budget.seconds=10", run_id=runs["run_id"] + "-short", val_bpb=9.0
        )
        analysis = analysed(self.PLAN, pd.concat([short.head(4), runs, short.tail(3)]))
        assert analysis.summaries["val_bpb"]["rope"].mean < 9
        (beside,) = analysis.explorations
        assert (beside.title, beside.accounting.n_used) == ("budget.seconds=10", 7)
        assert beside.summaries["baseline"].mean == pytest.approx(9.0)
        assert analysis.accounting.n_launched == analysis.accounting.n_used + len(analysis.accounting.left_out) == 25

    def test_arms_that_the_plan_calls_exploratory_are_described_and_not_judged(self):
        plan = replace(self.PLAN, exploratory=("gqa",))
        analysis = analysed(plan, make_runs(plan))
        assert "gqa" not in analysis.plan.arms
        assert analysis.accounting.n_used == 15
        (beside,) = analysis.explorations
        assert set(beside.summaries) == {"baseline", "gqa"}
        gqa, baseline = (beside.summaries[arm].mean for arm in ("gqa", "baseline"))
        assert beside.differences["gqa"].value == pytest.approx(gqa - baseline)


LEVELS = {"x-1": 2.0, "x-2": 1.8, "x-3": 2.4, "y-1": 1.5, "y-2": 1.7, "y-3": 1.9}


class TestTwoStages:
    """A sweep chooses, and only fresh seeds are judged."""

    PLAN = make_plan(
        arms={f"{a}-{b}": (f"a={a}", f"b={b}") for a in ("x", "y") for b in ("1", "2", "3")},
        factors={"a": ("x", "y"), "b": ("1", "2", "3")},
        confirmation=Confirmation({"x": ("x-1", "x-2", "x-3"), "y": ("y-1", "y-2", "y-3")}, (10, 11, 12, 13)),
        control="x",
        hypotheses=(Hypothesis("H1", "", "diff(y, x) < 0", "diff(y, x) > 0"),),
        analysis=Analysis(0.05, "blocked_anova", "holm_blocked", "hedges_g", None),
        primary=Metric("val_bpb", "lower", "bits/byte", None),
    )

    def runs(self, fresh=("x-2", "y-1")):
        whole = make_runs(replace(self.PLAN, confirmation=None), noise=0.001)
        later = make_runs(
            replace(self.PLAN, arms=dict.fromkeys(fresh, ()), seeds=(10, 11, 12, 13), confirmation=None), noise=0.001
        )
        later["started_at"] = later["started_at"].str.replace("2026-11-02", "2026-11-03")
        runs = pd.concat([whole, later], ignore_index=True)
        runs["run_id"] = [f"run-{place}" for place in range(len(runs))]
        runs["val_bpb"] += runs["arm"].map(LEVELS)
        return runs

    def test_the_chosen_arms_are_judged_at_fresh_seeds_under_their_names(self):
        runs = self.runs()
        analysis = analysed(self.PLAN, runs)
        assert analysis.sweep.choice.chosen == {"x": "x-2", "y": "y-1"}
        assert analysis.plan.seeds == (10, 11, 12, 13)
        mean = runs[(runs["arm"] == "y-1") & (runs["seed"] >= 10)]["val_bpb"].mean()
        assert analysis.summaries["val_bpb"]["y"].mean == pytest.approx(mean)
        assert analysis.verdicts[0].verdict == SUPPORTED
        assert len(analysis.accounting.cells) == 18 + 8
        assert analysis.accounting.n_launched == analysis.accounting.n_used == 26

    def test_without_the_whole_sweep_nothing_is_chosen_or_judged(self):
        runs = self.runs()
        analysis = analysed(self.PLAN, runs[(runs["arm"] != "x-3") | (runs["seed"] != 1)])
        assert analysis.verdicts[0].verdict == INADMISSIBLE
        assert "x waits for 1 run of the sweep (x-3 seed 1)" in analysis.breach

    def test_a_run_at_a_fresh_seed_of_an_arm_that_was_not_chosen_is_left_out(self):
        analysis = analysed(self.PLAN, self.runs(fresh=("x-2", "y-1", "y-2")))
        assert {run.rule for run in analysis.accounting.left_out} == {"not chosen by the sweep"}
        assert len(analysis.accounting.left_out) == 4

    def test_a_confirmation_that_ran_before_its_sweep_had_ended_confirms_nothing(self):
        runs = self.runs()
        runs["started_at"] = runs["started_at"].str.replace("2026-11-03", "2026-11-01")
        analysis = analysed(self.PLAN, runs)
        assert analysis.verdicts[0].verdict == INADMISSIBLE
        assert "before the sweep" in analysis.breach

    def test_the_sweeps_own_runs_never_enter_the_verdict(self):
        runs = self.runs()
        tampered = runs.assign(val_bpb=runs["val_bpb"].where(runs["seed"] >= 10, runs["val_bpb"] - 0.3))
        one, other = (analysed(self.PLAN, each).verdicts[0].estimates for each in (runs, tampered))
        assert one == other

    def test_a_diverged_arm_is_never_chosen_and_its_grid_is_flagged(self):
        runs = self.runs(fresh=("x-1", "y-1"))
        lost = (runs["arm"] == "x-2") & (runs["seed"] == 0)
        runs["status"], runs["val_bpb"] = runs["status"].mask(lost, "diverged"), runs["val_bpb"].mask(lost)
        analysis = analysed(self.PLAN, runs)
        assert analysis.sweep.choice.chosen == {"x": "x-1", "y": "y-1"}
        x, y = analysis.sweep.competitions
        assert (x.factor, x.labels, x.at_edge, x.best.n_left_out) == ("b", ("1", "2", "3"), True, 1)
        assert (y.at_edge, y.chosen) == (True, "y-1")
        assert "x-1 and y-1 lie at the edge of what the sweep tried: better may lie outside." in analysis.remarks
        assert analysis.sweep.fixed is None  # the crossed design has a hole

    def test_exploratory_arms_of_the_sweep_are_described(self):
        plan = replace(self.PLAN, arms={**self.PLAN.arms, "z-1": ("a=z",)}, exploratory=("z-1",))
        extra = make_runs(make_plan(arms={"z-1": ()}))
        analysis = analysed(plan, pd.concat([self.runs(), extra.assign(run_id=extra["run_id"] + "-z")]))
        (beside,) = analysis.explorations
        assert (list(beside.summaries), beside.summaries["z-1"].n) == (["z-1"], 3)

    def test_the_crossed_design_is_tested_at_fixed_levels(self):
        fixed = analysed(self.PLAN, self.runs()).sweep.fixed
        assert [source.name for source in fixed.tested] == ["a", "b", "a \N{MULTIPLICATION SIGN} b"]


class TestOmnibusByName:
    @pytest.mark.parametrize("test", ["one_way_anova", "welch_anova", "permutation", "blocked_anova"])
    def test_every_test_that_a_plan_can_name_is_carried_out(self, test):
        plan = make_plan(analysis=Analysis(0.05, test, "none", "hedges_g", "llama"))
        found = analysed(plan, make_runs(plan)).omnibus
        values = np.array(
            [found_arm.values for found_arm in analysed(plan, make_runs(plan)).summaries["val_bpb"].values()]
        )
        if test == "one_way_anova":
            assert found.tested[0].p == pytest.approx(stats.f_oneway(*values).pvalue)
        if test == "permutation":
            assert found.tested[0].p == found.permutation.p
        if test == "welch_anova":
            assert found.tested[0].df_error < 12

    def test_two_factors_and_their_interaction(self):
        arms = {f"{a}-{b}": () for a in ("x", "y") for b in ("1", "2", "3")}
        plan = make_plan(
            arms=arms, factors={"a": ("x", "y"), "b": ("1", "2", "3")}, control="x-1", hypotheses=(),
            analysis=Analysis(0.05, "two_way_blocked", "none", "hedges_g", None),
        )  # fmt: skip
        runs = make_runs(plan)
        runs["val_bpb"] += runs["arm"].str.startswith("y") * 0.5
        found = {source.name: source for source in analysed(plan, runs).omnibus.tested}
        assert found["a"].p < 1e-6 < 0.01 < min(found["b"].p, found["a \N{MULTIPLICATION SIGN} b"].p)


def test_a_crossed_design_is_answered_level_by_level():
    arms = {f"{a}-{b}": () for a in ("none", "step") for b in ("small", "large")}
    plan = make_plan(
        arms=arms, factors={"compile": ("none", "step"), "size": ("small", "large")}, control="none-small",
        hypotheses=(), primary=Metric("seconds_per_step_with_evaluation", "lower", "s", None),
        secondary=(), analysis=Analysis(0.05, "two_way_blocked", "none", "hedges_g", None),
    )  # fmt: skip
    runs = make_runs(plan, noise=0.001)
    time = runs["arm"].map({"none-small": 0.4, "step-small": 0.2, "none-large": 3.0, "step-large": 2.4})
    said = analysed(plan, runs.assign(seconds_per_step_with_evaluation=time * runs["val_bpb"])).answer
    assert said.startswith("Time per step, evaluation included of step against none: ")
    assert re.findall(r"\N{MULTIPLICATION SIGN}\N{THIN SPACE}(0\.\d+) \(95% interval.*? at (\w+)", said) == [
        ("0.500", "small"), ("0.800", "large"),
    ]  # fmt: skip
    assert "s)" not in said  # a factor has no unit


def test_the_lock_decides_which_plan_is_judged():
    assert make_lock(make_plan()).current.plan_sha256 == make_plan().sha256


class TestCrossover:
    """After how many steps a costlier start has paid: extra seconds over seconds saved a step."""

    PLAN = make_plan(
        arms={f"{a}-{b}": () for a in ("none", "step") for b in ("small", "large")},
        factors={"compile": ("none", "step"), "size": ("small", "large")}, control="none-small", hypotheses=(),
        secondary=("compile_seconds", "steps_per_second"), analysis=Analysis(0.05, "none", "none", "d_z", None),
    )  # fmt: skip

    def found(self, **changes):
        plan = replace(self.PLAN, **changes)
        jitter = np.random.default_rng(5).normal(1, 0.01, 12)
        starts = {"none-small": 1.0, "step-small": 3.0, "none-large": 1.0, "step-large": 5.0}
        # A step takes 1/10 s, compiled 1/20: 0.05 s saved; at large compiling makes it slower.
        speeds = {"none-small": 10.0, "step-small": 20.0, "none-large": 2.0, "step-large": 1.5}
        runs = make_runs(plan)
        runs["compile_seconds"] = runs["arm"].map(starts) * jitter
        runs["steps_per_second"] = runs["arm"].map(speeds) * jitter[::-1]
        return crossovers(analysed(plan, runs)), runs.set_index(["arm", "seed"])

    def test_extra_seconds_over_seconds_saved(self):
        found, runs = self.found()
        extra = runs.loc["step-small", "compile_seconds"] - runs.loc["none-small", "compile_seconds"]
        saved = 1 / runs.loc["none-small", "steps_per_second"] - 1 / runs.loc["step-small", "steps_per_second"]
        assert found["step", "small"].value == pytest.approx(extra.mean() / saved.mean())
        assert found["step", "small"].low < 40 < found["step", "small"].high

    def test_what_never_saves_never_pays(self):
        found, _ = self.found()
        assert found["step", "large"].value is None
        assert "never pays" in found["step", "large"].undefined

    def test_only_plans_that_measure_both_have_one(self):
        assert self.found(secondary=("steps_per_second",))[0] == {}


def test_a_gap_keeps_the_last_evaluation_though_the_control_ended_a_step_earlier():
    base = Curve("a", 0, np.array([50.0, 99.5]), np.array([3.0, 2.0]))
    arm = Curve("b", 0, np.array([49.8, 99.9]), np.array([2.5, 1.0]))
    (gap,) = gaps_to([base, arm], "a")
    assert gap.values == pytest.approx([-0.5, -1.0])
    late = Curve("b", 0, np.array([49.8, 120.0]), np.array([2.5, 1.0]))
    assert len(gaps_to([base, late], "a")[0].values) == 1


@pytest.mark.parametrize("effect", ["hedges_g", "cohens_d", "d_z"])
def test_the_effect_size_that_the_plan_names_stands_first(effect):
    plan = make_plan(analysis=Analysis(0.05, "none", "none", effect, None), hypotheses=())
    analysis = analysed(plan, make_runs(plan))
    shown = differences_section(analysis)["rows"][0]["effects"][0]
    assert shown == interval_text(getattr(analysis.comparisons["val_bpb"][0].effects, effect))
