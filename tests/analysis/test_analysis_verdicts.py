"""Verdicts: the truth of each comparison at and beyond its bounds, the logic, and what every verdict needs."""

from dataclasses import replace

import numpy as np
import pytest
from analysis_rows import analysed, make_plan, make_runs, spoil, without

from lmexp.analysis.verdicts import (
    FAILS,
    FALSIFIED,
    HOLDS,
    INADMISSIBLE,
    INCONCLUSIVE,
    SUPPORTED,
    UNDECIDED,
    Verdict,
    bare_truth_of,
    combined,
    joint_reading,
    judge,
    truth_of,
)
from lmexp.criteria import Comparison, Term, parse
from lmexp.errors import UserError
from lmexp.plan import Analysis, Hypothesis, Metric
from lmexp.statistics.estimates import Estimate, undefined

A = Term("mean", ("a",), None)


def estimate(low, high, value=None):
    return Estimate((low + high) / 2 if value is None else value, low, high, 0.95, 3, 10, "t", None)


@pytest.mark.parametrize(
    ("operator", "low", "high", "truth"),
    [
        ("<", 0.1, 0.4, HOLDS),
        ("<", 0.6, 0.9, FAILS),
        ("<", 0.4, 0.6, UNDECIDED),
        ("<", 0.1, 0.5, UNDECIDED),  # touches the bound, which lies outside the region
        ("<", 0.5, 0.6, FAILS),
        ("<=", 0.1, 0.5, HOLDS),
        ("<=", 0.5, 0.6, UNDECIDED),
        (">", 0.6, 0.9, HOLDS),
        (">", 0.1, 0.4, FAILS),
        (">", 0.4, 0.6, UNDECIDED),
        (">", 0.5, 0.6, UNDECIDED),
        (">", 0.4, 0.5, FAILS),
        (">=", 0.5, 0.6, HOLDS),
        (">=", 0.4, 0.5, UNDECIDED),
        (">=", 0.1, 0.4, FAILS),
    ],
)
def test_a_comparison_is_read_from_the_whole_interval(operator, low, high, truth):
    assert truth_of(Comparison(A, operator, 0.5), estimate(low, high)) == truth


def test_an_interval_with_one_limit_decides_nothing():
    for half in (replace(estimate(0, 1), low=None), replace(estimate(0, 1), high=None)):
        assert truth_of(Comparison(A, "<", 5.0), half) == UNDECIDED


@pytest.mark.parametrize(
    ("operator", "value", "truth"),
    [
        ("<", 0.5, FAILS),
        ("<=", 0.5, HOLDS),
        (">", 0.5, FAILS),
        (">=", 0.5, HOLDS),
        ("<", 0.4, HOLDS),
        (">", 0.4, FAILS),
    ],
)
def test_the_bare_reading_looks_at_the_point(operator, value, truth):
    assert bare_truth_of(Comparison(A, operator, 0.5), estimate(-9, 9, value)) == truth


@pytest.mark.parametrize(
    ("first", "second", "both", "either"),
    [
        (HOLDS, HOLDS, HOLDS, HOLDS),
        (HOLDS, UNDECIDED, UNDECIDED, HOLDS),
        (HOLDS, FAILS, FAILS, HOLDS),
        (UNDECIDED, UNDECIDED, UNDECIDED, UNDECIDED),
        (UNDECIDED, FAILS, FAILS, UNDECIDED),
        (FAILS, FAILS, FAILS, FAILS),
    ],
)
def test_kleenes_tables(first, second, both, either):
    intervals = {HOLDS: estimate(1, 2), FAILS: estimate(-2, -1), UNDECIDED: estimate(-1, 1)}
    estimates = {A: intervals[first], Term("mean", ("b",), None): intervals[second]}
    for text, truth in (("mean(a) > 0 and mean(b) > 0", both), ("mean(a) > 0 or mean(b) > 0", either)):
        assert combined(parse(text), estimates, truth_of) == truth
        swapped = text.replace("(a)", "(x)").replace("(b)", "(a)").replace("(x)", "(b)")
        assert combined(parse(swapped), estimates, truth_of) == truth


def verdict_of(low, high, supported_if="mean(a) > 0.5", falsified_if="mean(a) < 0.2", breach=None, value=None):
    hypothesis = Hypothesis("H", "A claim", supported_if, falsified_if)
    return judge(hypothesis, lambda term: estimate(low, high, value), breach)


class TestJudge:
    @pytest.mark.parametrize(
        ("low", "high", "verdict"),
        [
            (0.6, 0.9, SUPPORTED),
            (0.0, 0.1, FALSIFIED),
            (0.3, 0.4, INCONCLUSIVE),
            (0.4, 0.6, INCONCLUSIVE),
            (0.1, 0.3, INCONCLUSIVE),
            (0.1, 0.9, INCONCLUSIVE),
        ],
    )
    def test_each_side_of_each_region(self, low, high, verdict):
        assert verdict_of(low, high).verdict == verdict

    def test_reasons_name_estimate_interval_and_bound(self):
        assert verdict_of(0.62, 0.9).reason == "mean(a) is 0.76 (95% interval 0.62 to 0.90), all of it above 0.5."
        assert verdict_of(0.02, 0.1).reason == "mean(a) is 0.060 (95% interval 0.020 to 0.100), all of it below 0.2."
        assert verdict_of(0.12, 0.9).reason.endswith("on both sides of 0.2 and of 0.5.")
        assert verdict_of(0.3, 0.4).reason.startswith("The estimates lie between")

    def test_the_bare_reading_stands_beside(self):
        found = verdict_of(0.3, 0.9, value=0.6)
        assert (found.verdict, found.bare) == (INCONCLUSIVE, SUPPORTED)
        assert verdict_of(0.1, 0.9, value=0.1).bare == FALSIFIED
        assert verdict_of(0.1, 0.9, value=0.3).bare == INCONCLUSIVE

    def test_a_breach_of_protocol_overrules_any_interval(self):
        found = verdict_of(0.6, 0.9, breach="2 of 18 cells have no result.")
        assert (found.verdict, found.reason) == (INADMISSIBLE, "2 of 18 cells have no result.")
        assert found.support is found.falsification is found.bare is None  # surviving seeds say nothing

    def test_an_undefined_estimate_is_inadmissible_and_says_why(self):
        hypothesis = Hypothesis("H", "A claim", "mean(a) > 0", "mean(a) < 0")
        found = judge(hypothesis, lambda term: undefined("no variation between seeds", 0.95, 3, "t", 4.0), None)
        assert found.verdict == INADMISSIBLE
        assert found.reason == "mean(a) is undefined: no variation between seeds."
        assert (found.support, found.falsification, found.bare) == ("undefined", "undefined", SUPPORTED)

    def test_an_estimate_without_a_value_has_no_bare_reading(self):
        hypothesis = Hypothesis("H", "A claim", "mean(a) > 0", "mean(a) < 0")
        assert judge(hypothesis, lambda term: undefined("no value", 0.95, 0, "t"), None).bare == "UNDEFINED"

    def test_criteria_that_clash_are_inadmissible(self):
        found = verdict_of(0.6, 0.9, "mean(a) > 0.2", "mean(a) > 0.3")
        assert found.verdict == INADMISSIBLE
        assert "contradicts itself" in found.reason

    def test_only_the_decisive_comparisons_are_named(self):
        values = {"a": estimate(0.6, 0.9), "b": estimate(-0.4, -0.2), "c": estimate(-1, 1)}
        hypothesis = Hypothesis("H", "", "mean(b) > 0", "mean(c) > 0 or mean(a) > 0.5")
        found = judge(hypothesis, lambda term: values[term.arms[0]], None)
        assert found.verdict == FALSIFIED
        assert "mean(a)" in found.reason
        assert "mean(c)" not in found.reason


class TestJointReading:
    def of(self, *named: tuple[str, str]) -> str:
        return joint_reading(
            tuple(
                Verdict(Hypothesis(i, "", "", ""), v, v, f"Reason of {i}.", v, HOLDS, HOLDS, (), ()) for i, v in named
            )
        )

    def test_who_survives(self):
        text = self.of(("H1", FALSIFIED), ("H2", SUPPORTED), ("H3", FALSIFIED), ("H4", INCONCLUSIVE))
        assert text == "H2 is supported; H1 and H3 are falsified; H4 stays undecided. H2 and H4 survive."

    def test_nothing_can_be_judged(self):
        assert self.of(("H1", INADMISSIBLE)) == "No hypothesis can be judged: reason of H1."
        assert self.of(("H1", INADMISSIBLE), ("H2", INADMISSIBLE)) == "No hypothesis can be judged."
        assert "H2 cannot be judged" in self.of(("H1", SUPPORTED), ("H2", INADMISSIBLE))

    def test_a_hypothesis_without_a_rival_does_not_survive_anything(self):
        assert self.of(("H1", SUPPORTED)) == "H1 is supported."
        assert self.of(("H1", FALSIFIED), ("H2", FALSIFIED)) == "H1 and H2 are falsified. None survives."
        assert self.of(("H1", INCONCLUSIVE), ("H2", INCONCLUSIVE)) == "H1 and H2 stay undecided. Both survive."
        assert self.of(*((name, INCONCLUSIVE) for name in ("H1", "H2", "H3"))).endswith(" All of them survive.")
        assert "survive" not in self.of(("H1", SUPPORTED), ("H2", INADMISSIBLE))

    def test_a_cause_keeps_its_capitals_unless_it_starts_with_a_word(self):
        def said(reason):
            only = Verdict(Hypothesis("H1", "", "", ""), INADMISSIBLE, None, reason, None, None, None, (), ())
            return joint_reading((only,))

        assert said("GQA has no result.").endswith(": GQA has no result.")
        assert said("Nothing is there.").endswith(": nothing is there.")

    def test_no_hypotheses(self):
        assert "no hypothesis" in joint_reading(())


def hypothesis(supported_if, falsified_if="mean(baseline) < 0"):
    return (Hypothesis("H", "", supported_if, falsified_if),)


def judged(supported_if, runs=None, **changes):
    plan = make_plan(hypotheses=hypothesis(supported_if), **changes)
    return analysed(plan, make_runs(plan) if runs is None else runs).verdicts[0]


class TestOnRows:
    """The generated rows: rope is better than baseline by about 0.12 bits/byte, llama by about 0.2."""

    @pytest.mark.parametrize(
        ("criterion", "truth"),
        [
            ("diff(rope, baseline) < 0", HOLDS),
            ("diff(baseline, rope) < 0", FAILS),
            ("diff(rope, llama) > 0", HOLDS),
            ("diff(llama, rope) > 0", FAILS),
            ("ratio(rope, baseline) < 1", HOLDS),
            ("ratio(baseline, rope) < 1", FAILS),
            ("improvement(rope) > 0.05", HOLDS),
            ("improvement(rope) > 0.2", FAILS),
            ("share(rope) > 0.4", HOLDS),
            ("share(gqa) > 0.4", FAILS),
            ("mean(llama) < 2.2", HOLDS),
            ("mean(baseline) < 2.2", FAILS),
            ("interaction() > 0", UNDECIDED),
            ("interaction(gqa) > 0.1", HOLDS),  # llama without gqa's part: far more than one part
            ("diff(rope, baseline, metric=tokens_per_second) < 0", HOLDS),
            ("improvement(rope, metric=tokens_per_second) < 0", HOLDS),  # higher is better: slower is no improvement
            ("improvement(gqa, metric=tokens_per_second) > 0", HOLDS),
        ],
    )
    def test_terms_mean_what_they_say(self, criterion, truth):
        assert judged(criterion).support == truth

    def test_improvement_turns_with_the_metrics_direction(self):
        higher = {"primary": Metric("val_bpb", "higher", "bits/byte", None)}
        assert judged("improvement(rope) < 0", **higher).support == HOLDS
        found = judged("share(gqa) < 0.2", **higher)
        assert found.verdict == INADMISSIBLE
        assert "the full arm is clearly worse than the control" in found.reason

    def test_a_difference_from_the_control_has_the_plans_simultaneous_interval(self):
        plan = make_plan(hypotheses=hypothesis("diff(rope, baseline) < 0", "diff(rope, swiglu) > 0"))
        analysis = analysed(plan, make_runs(plan))
        rope = next(c for c in analysis.comparisons["val_bpb"] if c.arm == "rope")
        first, second = analysis.verdicts[0].estimates.values()
        assert first == rope.difference.simultaneous
        assert second.method == "blocked t"
        turned = analysed(make_plan(hypotheses=hypothesis("diff(baseline, rope) > 0")), make_runs(plan))
        mirrored = next(iter(turned.verdicts[0].estimates.values()))
        assert (mirrored.low, mirrored.high) == (-first.high, -first.low)

    @pytest.mark.parametrize("spoiled", ["missing", "diverged"])
    def test_a_missing_cell_makes_every_verdict_inadmissible(self, spoiled):
        runs = make_runs(make_plan())
        runs = without(runs, "gqa", 2) if spoiled == "missing" else spoil(runs, "gqa", 2, "diverged", "NaN")
        found = judged("diff(rope, baseline) < 0", runs)
        assert found.verdict == INADMISSIBLE
        assert found.reason == f"1 of 18 cells has no result: gqa seed 2 ({spoiled})."
        assert found.support is found.falsification is found.bare is None

    def test_one_seed_is_too_few(self):
        plan = make_plan(seeds=(0,), hypotheses=hypothesis("diff(rope, baseline) < 0"))
        found = analysed(plan, make_runs(plan)).verdicts[0]
        assert (found.verdict, found.bare) == (INADMISSIBLE, None)
        assert found.reason == "There are fewer than 2 complete seeds."

    def test_alpha_reaches_every_interval(self):
        plan = make_plan(analysis=Analysis(0.10, "blocked_anova", "dunnett_blocked", "hedges_g", "llama"))
        terms = "mean(rope) < 9 and diff(rope, gqa) < 9 and ratio(rope, gqa) < 9 and improvement(rope) < 9"
        plan = replace(plan, hypotheses=hypothesis(f"{terms} and share(rope) < 9 and interaction() < 9"))
        analysis = analysed(plan, make_runs(plan))
        found = analysis.comparisons["val_bpb"][0]
        shown = [found.difference.alone, found.difference.simultaneous, found.effects.cohens_d, found.effects.d_z]
        estimates = [*analysis.verdicts[0].estimates.values(), *shown, *analysis.shares.values()]
        assert {estimate.confidence for estimate in estimates} == {0.9} == {analysis.confidence}
        wider = analysed(make_plan(), make_runs(plan)).comparisons["val_bpb"][0].difference.simultaneous
        assert wider.low < found.difference.simultaneous.low

    def test_two_seeds_are_enough_to_judge(self):
        plan = make_plan(seeds=(0, 1), hypotheses=hypothesis("diff(llama, baseline) < 0"))
        assert analysed(plan, make_runs(plan)).verdicts[0].verdict == SUPPORTED

    def test_noise_makes_the_full_improvement_unclear(self):
        plan = make_plan()
        verdicts = analysed(plan, make_runs(plan, noise=0.12)).verdicts
        assert {verdict.verdict for verdict in verdicts} == {INADMISSIBLE}
        assert "the full improvement is not clearly above zero" in verdicts[0].reason

    def test_a_metric_with_gaps_is_undefined_not_computed_on_the_rest(self):
        runs = make_runs(make_plan())
        runs.loc[runs["arm"].eq("rope") & runs["seed"].eq(1), "tokens_per_second"] = float("nan")
        found = judged("diff(rope, baseline, metric=tokens_per_second) < 0", runs)
        assert found.verdict == INADMISSIBLE
        assert "1 of 6 cells have no tokens_per_second" in found.reason

    def test_a_metric_without_a_better_direction_cannot_improve(self):
        found = judged("improvement(rope, metric=steps) > 0", secondary=("steps",))
        assert "neither direction of steps is better" in found.reason

    def test_the_worked_example(self):
        plan = make_plan()
        analysis = analysed(plan, make_runs(plan))
        assert [verdict.verdict for verdict in analysis.verdicts] == [FALSIFIED, INCONCLUSIVE, FALSIFIED, FALSIFIED]
        assert analysis.joint == "H1, H3 and H4 are falsified; H2 stays undecided. H2 survives."

    def test_criteria_are_parsed_before_anything_is_computed(self):
        with pytest.raises(UserError, match="expected a number"):
            judged("share(rope) >")


class TestAnswer:
    """The lede: the best arm, its difference and interval, and the runner-up."""

    def of(self, effects=None, **changes):
        plan = make_plan(**changes)
        runs = make_runs(plan)
        for arm, shift in (effects or {}).items():
            runs["val_bpb"] += np.where(runs["arm"] == arm, shift, 0.0)
        return analysed(plan, runs)

    def test_it_names_the_best_single_change_its_difference_and_the_runner_up(self):
        analysis = self.of()
        rope = next(c for c in analysis.comparisons["val_bpb"] if c.arm == "rope").difference.simultaneous
        signed = analysis.primary.signed
        best = (
            f"Of the single changes, rope improves validation loss most over baseline: {signed(rope.value)} bits/byte"
        )
        assert analysis.answer.startswith(f"{best} (95% interval {signed(rope.low)} to {signed(rope.high)}).")
        assert "It is clearly apart from the runner-up, swiglu (" in analysis.answer
        assert "All changes together (llama): \N{MINUS SIGN}0.1987 bits" in analysis.answer

    def test_a_close_runner_up_is_said_to_be_close(self):
        assert "It cannot be told from the runner-up, swiglu" in self.of({"swiglu": -0.068}).answer

    def test_without_a_full_arm_all_arms_compete(self):
        analysis = self.of(hypotheses=(), analysis=Analysis(0.05, "none", "none", "d_z", None))
        assert analysis.answer.startswith("llama improves validation loss most")

    def test_no_arm_improves(self):
        analysis = self.of(
            {"b": 0.3, "c": 0.5},
            arms={"a": (), "b": (), "c": ()},
            control="a",
            hypotheses=(),
            analysis=Analysis(0.05, "none", "none", "d_z", None),
        )
        assert analysis.answer.startswith("No arm improves validation loss over a; b comes nearest: +0.29")

    def test_an_unclear_improvement_is_said_to_be_unclear(self):
        answer = self.of({"rope": 0.118, "swiglu": 0.05}).answer
        assert "which cannot be told from no improvement" in answer

    def test_higher_is_better_turns_the_order(self):
        plan = make_plan(primary=Metric("val_bpb", "higher", "points", None))
        assert analysed(plan, make_runs(plan)).answer.startswith("Of the single changes, none improves")

    def test_one_seed_has_differences_and_no_intervals(self):
        answer = self.of(seeds=(0,)).answer
        assert "rope improves validation loss most" in answer
        assert "interval" not in answer
        assert "cannot be told: fewer than 2 complete seeds." in answer

    def test_missing_seeds_are_said(self):
        plan = make_plan()
        assert analysed(plan, without(make_runs(plan), "gqa", 2)).answer.startswith("Over 2 of 3 seeds: Of the single")
        assert analysed(plan, make_runs(plan).head(0)).answer == ""

    def test_without_a_control_the_best_or_only_arm_is_named(self):
        plain = {"control": None, "hypotheses": (), "analysis": Analysis(0.05, "none", "none", "d_z", None)}
        assert self.of(**plain).answer.startswith("llama has the best validation loss: 2.1")
        assert self.of(arms={"only": ()}, **plain).answer.startswith("Validation loss: only 2.")


def test_a_cell_without_a_value_to_compare_makes_the_plan_inadmissible():
    """A speed of zero has no logarithm: its seed must not vanish while the verdict is read from the others."""
    from analysis_rows import analysed, make_plan, make_runs

    from lmexp.plan import Hypothesis, Metric

    plan = make_plan(
        primary=Metric("tokens_per_second", "higher", "tokens/s", None),
        secondary=(),
        hypotheses=(Hypothesis("H1", "c", "ratio(gqa, baseline) > 1", "ratio(gqa, baseline) < 1"),),
    )
    runs = make_runs(plan)
    assert analysed(plan, runs).verdicts[0].verdict == "SUPPORTED"
    runs.loc[0, "tokens_per_second"] = 0.0
    found = analysed(plan, runs)
    assert found.verdicts[0].verdict == "INADMISSIBLE"
    assert "1 of 18 cells" in found.verdicts[0].reason


def test_arms_at_different_budgets_are_inadmissible_where_the_plan_leaves_the_budget_free():
    """Only the command line can have set them apart; where an arm sets its own budget the plan says so."""
    from analysis_rows import analysed, make_plan, make_runs

    for free, breached in (((), False), (("budget.seconds",), True)):
        plan = make_plan(free=free)
        runs = make_runs(plan)
        runs.loc[runs["arm"] == "llama", "budget_seconds"] = 3000.0
        assert ("budget" in (analysed(plan, runs).breach or "")) is breached


def test_weird_plans_and_rows_still_give_a_report():
    from dataclasses import replace

    from analysis_rows import analysed, make_plan, make_runs

    from lmexp.plan import Metric

    plan = make_plan()
    runs = make_runs(plan)
    for sesoi in (-1.0, float("nan"), float("inf")):
        assert not analysed(replace(plan, primary=Metric("val_bpb", "lower", "b", sesoi)), runs).equivalences
    assert not analysed(replace(plan, analysis=replace(plan.analysis, alpha=0.6)), runs).equivalences
    for column in ("arm", "started_at"):
        broken = runs.assign(**{column: [None, *runs[column][1:]]})
        assert analysed(plan, broken).breach
