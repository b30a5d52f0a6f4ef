"""The parts of the report: what each says, to whom it says it, and what it keeps to itself."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from analysis_rows import analysed, make_lock, make_plan, make_runs, make_steps, spoil
from report_plans import sweep_plan, sweep_rows, timing_plan, timing_rows
from scipy import stats

from lmexp.analysis import analyse, tables, write_report
from lmexp.analysis.findings import (
    contrast_detectable,
    detectables,
    effect_as_share,
    error_limits,
    finding,
    margin_of,
    margin_text,
    statements,
)
from lmexp.analysis.record import verdicts_record
from lmexp.analysis.sections import accounting, cards, exploratory, launches, power, registration, top
from lmexp.analysis.sections import sweep as sweep_section
from lmexp.analysis.verdicts import EXPLORATORY
from lmexp.plan import Analysis, Hypothesis, Metric
from lmexp.statistics.blocks import fit_blocks
from lmexp.statistics.power import blocked_dunnett, blocked_f

PLAN = make_plan()
RUNS = make_runs(PLAN)
NO_TESTS = Analysis(0.05, "none", "none", "hedges_g", "llama")


@pytest.fixture(scope="module")
def llama():
    return analysed(PLAN, RUNS)


@pytest.fixture(scope="module")
def unregistered():
    return analyse(PLAN, RUNS.assign(registered=False, lock_sha256=None))


@pytest.fixture(scope="module")
def timing():
    plan = timing_plan()
    runs, steps = timing_rows(plan, unsettled={("all-tiny", 1)})
    return analyse(plan, runs, make_lock(plan), steps)


@pytest.fixture(scope="module")
def sweep():
    plan = sweep_plan()
    return analyse(plan, sweep_rows(plan)[0], make_lock(plan))


def pages(folder, plan, runs, steps, lock=None, **more):
    """Return the text of a report, without its tags."""
    made = write_report(plan, runs, steps, folder, lock, **more)
    html = made.path.read_text("utf-8")
    return re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL), html, made


def shifted(arm, by, noise=0.008, **changes):
    """A plan of three arms in which one differs from the control by an exact mean difference."""
    plan = make_plan(
        arms={"baseline": (), arm: (), "rope": ()},
        hypotheses=(),
        analysis=Analysis(0.05, "blocked_anova", "dunnett_blocked", "hedges_g", None),
        **changes,
    )
    runs = make_runs(plan, noise=noise)
    own, control = ((runs["arm"] == name) for name in (arm, "baseline"))
    runs.loc[own, "val_bpb"] += by + runs.loc[control, "val_bpb"].mean() - runs.loc[own, "val_bpb"].mean()
    analysis = analysed(plan, runs)
    return analysis, next(c for c in analysis.comparisons["val_bpb"] if c.arm == arm)


class TestFindings:
    @pytest.mark.parametrize(
        ("by", "noise", "direction", "expected"),
        [
            (-0.1, 0.002, "lower", "better, by enough to matter"),
            (+0.1, 0.002, "lower", "worse, by enough to matter"),
            (+0.1, 0.002, "higher", "better, by enough to matter"),
            (-0.006, 0.0005, "lower", "better, by too little to matter"),
            (-0.0101, 0.0005, "lower", "better; whether enough to matter is open"),
            (0.0001, 0.0005, "lower", "practically equal"),
            (0.005, 0.02, "lower", "neither a difference nor equality shown"),
        ],
    )
    def test_a_difference_in_words(self, by, noise, direction, expected):
        metric = Metric("val_bpb", direction, "bits/byte", 0.01)
        assert finding(*shifted("gqa", by, noise, primary=metric)) == expected

    def test_without_a_smallest_effect_nothing_is_said_of_equality(self):
        metric = Metric("val_bpb", "lower", "bits/byte", None)
        assert finding(*shifted("gqa", 0.005, 0.02, primary=metric)) == "no difference shown"
        assert finding(*shifted("gqa", -0.1, 0.002, primary=metric)) == "better"
        assert margin_of(shifted("gqa", 0.0, primary=metric)[0]) is None

    def test_undefined_is_said_so(self):
        assert finding(*shifted("gqa", 0.0, seeds=(0,))) == "undefined"

    def test_the_margin_of_a_speed_is_a_fraction(self, timing, llama):
        assert margin_of(timing) == pytest.approx(np.log(1.05))
        assert margin_text(timing) == "\N{PLUS-MINUS SIGN}5%"
        assert margin_of(llama) == 0.01
        assert margin_text(llama) == "\N{PLUS-MINUS SIGN}0.0100 bits/byte"


class TestStatements:
    def test_every_arm_is_in_one_group(self, llama):
        said = statements(llama)
        assert "swiglu (better), rope (better) and llama (better)" in said[0]
        assert "held to an error rate of 0.05" in said[0]
        assert said[1].startswith("Neither a difference nor equality is shown for gqa and rmsnorm: that is a lack of")
        assert "0.0233 bits/byte would have been found 8 times in 10" in said[2]
        assert said[2].endswith(
            "For the smallest effect of interest, \N{PLUS-MINUS SIGN}0.0100 bits/byte, that is too coarse."
        )

    def test_a_fine_design_is_small_enough(self):
        analysis, _ = shifted("gqa", 0.0001, 0.0005)
        assert statements(analysis)[-1].endswith("that is small enough.")
        assert any(text.startswith("Shown to differ from baseline by less than") for text in statements(analysis))

    def test_what_is_not_registered_or_breached_concludes_nothing(self, unregistered):
        assert statements(unregistered) == []
        assert statements(analysed(PLAN, RUNS.head(17))) == []

    def test_an_amendment_after_data_is_a_warning(self):
        assert statements(analysed(PLAN, RUNS, ("why", 4)))[-1].startswith(
            "The plan was changed when runs could be seen"
        )
        assert len(statements(analysed(PLAN, RUNS, ("why", 0)))) == 3

    def test_a_plan_without_contrasts_speaks_of_its_omnibus_test(self):
        plan = timing_plan()
        runs, steps = timing_rows(plan)
        (said,) = statements(analyse(plan, runs, make_lock(plan), steps))
        assert "an interaction (a ratio of ratios) of \N{MULTIPLICATION SIGN}" in said


def test_a_launch_that_never_settles_leaves_nothing_to_say(timing):
    """Its speed is what decides, so the plan cannot be judged without it."""
    assert statements(timing) == []
    assert "1 of 18 cells" in timing.breach


class TestDetectable:
    def test_it_is_the_planned_effect_times_the_blocked_error(self, llama):
        blocks = RUNS.pivot(index="arm", columns="seed", values="val_bpb").to_numpy()
        error = np.sqrt(fit_blocks(blocks).error_variance)
        whole, contrasts = detectables(llama)
        assert whole.effect == pytest.approx(blocked_f(6, 3, 0.05).detectable().effect * error)
        assert contrasts.effect == pytest.approx(blocked_dunnett(6, 3, 0.05).detectable().effect * error)
        assert contrast_detectable(llama).text == f"{contrasts.effect:.4f} bits/byte"

    def test_other_measures_have_their_own_error(self, llama):
        speeds = np.log(RUNS.pivot(index="arm", columns="seed", values="tokens_per_second").to_numpy())
        error = np.sqrt(fit_blocks(speeds).error_variance)
        able = contrast_detectable(llama, "tokens_per_second")
        assert able.error == pytest.approx(error)
        assert able.text == f"\N{MULTIPLICATION SIGN}\N{THIN SPACE}{np.exp(able.effect):.3f}"

    def test_without_an_error_or_a_test_there_is_none(self):
        assert contrast_detectable(analysed(make_plan(seeds=(0,)), make_runs(make_plan(seeds=(0,))))) is None
        plan = make_plan(analysis=NO_TESTS)
        assert contrast_detectable(analysed(plan, RUNS)) is None
        assert power.power(analysed(plan, RUNS)) is None

    def test_as_a_share_of_the_whole_improvement(self, llama):
        able = contrast_detectable(llama)
        whole = RUNS.groupby("arm")["val_bpb"].mean()
        assert effect_as_share(llama, able) == f"{able.effect / (whole['baseline'] - whole['llama']):.2f}"

    def test_the_interval_of_the_error_is_chi_square(self):
        low, high = error_limits(2.0, 10, 0.95)
        assert low == pytest.approx(2 * np.sqrt(10 / stats.chi2.ppf(0.975, 10)))
        assert high == pytest.approx(2 * np.sqrt(10 / stats.chi2.ppf(0.025, 10)))

    def test_the_power_section_compares_with_what_matters(self, llama, timing):
        found = power.power(llama)
        assert [row["test"] for row in found["rows"]] == [
            "Blocked analysis of variance",
            "Dunnett on the blocked error",
        ]
        assert [row["sigmas"] for row in found["rows"]] == ["3.81", "3.20"]
        assert "an effect that matters may well have been missed" in found["sentences"][0]
        largest = 0.01 / 3.2
        assert f"an error of {largest:.4f} bits/byte or less" in found["sentences"][0]
        assert "10 degrees of freedom" in found["sentences"][1]
        fine = power.power(shifted("gqa", 0.0, 0.0005)[0])
        assert fine["sentences"][0].startswith("That is finer than the smallest effect of interest")
        assert re.search(r"was \d\.\d\d% \(95% interval", power.power(timing)["sentences"][1])

    def test_a_test_that_cannot_reach_its_level_says_so(self):
        plan = make_plan(analysis=Analysis(0.05, "none", "sign_flip_holm", "d_z", None), hypotheses=())
        (row,) = power.power(analysed(plan, RUNS))["rows"]
        assert row["can"].startswith("no")
        assert row["smallest_p"] == "1"
        assert row["effect"] == "not known"


class TestCards:
    def test_each_card_has_what_could_be_found_and_its_hashes(self, llama):
        found = cards.cards(llama)
        able = contrast_detectable(llama)
        for card in found["cards"]:
            assert card["detectable"].startswith(f"{able.text} or more (0.12 of the whole improvement)")
            assert card["plan"] == f"plan {PLAN.sha256[:12]}, lock {llama.lock.current.sha256[:12]}"
            assert card["reading"] is None
            assert card["reason"] == card["verdict"].reason

    def test_a_criterion_on_another_measure_names_it(self):
        hypothesis = Hypothesis(
            "H1", "Faster", *(f"ratio(gqa, baseline, metric=tokens_per_second) {o} 1" for o in "><")
        )
        (card,) = cards.cards(analysed(make_plan(hypotheses=(hypothesis,)), RUNS))["cards"]
        assert re.fullmatch(r"\N{MULTIPLICATION SIGN}.1\.0\d\d in speed or more", card["detectable"])

    def test_deviated_cards_show_the_reading_beside_it(self):
        found = cards.cards(analysed(PLAN, RUNS, ("the margin was too small", 7)))["cards"]
        assert {card["verdict"].verdict for card in found} == {"DEVIATED"}
        assert [card["reading"] for card in found] == ["FALSIFIED", "INCONCLUSIVE", "FALSIFIED", "FALSIFIED"]
        assert all("the margin was too small" in card["reason"] for card in found)

    def test_exploratory_cards_keep_estimates_and_read_nothing(self, unregistered):
        found = cards.cards(unregistered)
        for card in found["cards"]:
            assert card["verdict"].verdict == EXPLORATORY
            assert (card["reason"], card["reading"], card["verdict"].bare) == ("", None, None)
            assert card["strips"]
            assert "not registered" in card["plan"]
        assert found["intro"].startswith("No criterion is read")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of runs that follow no lock."""
    runs = RUNS.assign(registered=False, lock_sha256=None)
    return pages(tmp_path_factory.mktemp("page"), PLAN, runs, make_steps(runs, 12, 6))


class TestUnregistered:
    """Estimates and intervals, and neither verdict nor test nor p anywhere; and how to change that."""

    def test_nothing_is_judged_or_tested(self, page):
        text, _, made = page
        for absent in (
            "SUPPORTED", "FALSIFIED", "INCONCLUSIVE", "Point estimates say", "Adjusted p", "omnibus test, over", "p <",
            "falsified.", "What the evidence allows", "enough to matter",
        ):  # fmt: skip
            assert absent not in text, absent
        assert text.count("EXPLORATORY") == 4
        table = pd.read_csv(made.path.with_name("contrasts.csv"))
        assert table[["t", "p", "p_adjusted", "equivalence", "p_equivalence"]].isna().all().all()
        assert table[["difference", "low_simultaneous"]].notna().any().all()
        assert pd.read_csv(made.path.with_name("anova.csv"))["p"].isna().all()

    def test_the_banner_says_how_to_lock(self, page):
        text = page[0]
        assert "Exploratory: nothing here is registered" in text
        assert "lmexp plan lock gpt_to_llama" in text
        assert "Nothing was promised before these runs, so no p value is given." in text

    def test_a_lock_that_the_runs_do_not_follow(self, tmp_path):
        runs = RUNS.assign(registered=False, lock_sha256=None, overrides="budget.seconds=10")
        text = pages(tmp_path, PLAN, runs, {}, make_lock(PLAN))[0]
        assert "these runs do not follow its lock (budget.seconds=10)" in text
        assert "lmexp plan lock" not in text
        assert "Registration" in text

    def test_the_answer_is_an_estimate(self, unregistered):
        (said,) = top.lede(unregistered)
        assert said == unregistered.answer
        assert top.lede(analysed(PLAN, RUNS.head(17)))[0].startswith("No hypothesis can be judged")


@pytest.fixture(scope="module")
def mixed():
    """Registered runs, runs of ten seconds that are 0.3 worse, and some made before the lock."""
    short = make_runs(PLAN, seed=11).assign(registered=False, lock_sha256=None, overrides="budget.seconds=10")
    short = short.assign(run_id="short-" + short["run_id"], val_bpb=short["val_bpb"] + 0.3)
    early = make_runs(PLAN, seed=12).head(7).assign(registered=False, lock_sha256=None)
    runs = pd.concat([RUNS, short, early.assign(run_id="early-" + early["run_id"])], ignore_index=True)
    return runs, analyse(PLAN, runs, make_lock(PLAN))


class TestExploratory:
    def test_registered_runs_alone_are_judged(self, mixed, llama):
        assert mixed[1].summaries["val_bpb"]["rope"] == llama.summaries["val_bpb"]["rope"]

    def test_each_population_has_its_estimates_and_why(self, mixed):
        groups = {group["title"]: group for group in exploratory.exploratory(mixed[1])["groups"]}
        assert set(groups) == {"Budget.seconds=10", "As the plan says, not registered"}
        short, early = groups["Budget.seconds=10"], groups["As the plan says, not registered"]
        own = mixed[0][mixed[0]["overrides"] == "budget.seconds=10"].pivot(
            index="arm", columns="seed", values="val_bpb"
        )
        row = next(row for row in short["rows"] if row["arm"] == "rope")
        assert row["n"] == "3"
        assert float(row["mean"]) == pytest.approx(own.loc["rope"].mean(), abs=1e-4)
        assert float(row["std"]) == pytest.approx(own.loc["rope"].std(), abs=1e-4)
        gap = (own.loc["rope"] - own.loc["baseline"]).mean()
        assert float(row["difference"].replace("\N{MINUS SIGN}", "-")) == pytest.approx(gap, abs=1e-4)
        assert " to " in row["interval"]
        assert "overrides" in short["why"]
        assert "before its lock" in early["why"]
        assert (early["used"], early["launched"]) == (7, 7)

    def test_no_verdict_and_no_p_in_that_part(self, mixed, tmp_path):
        _, html, _ = pages(tmp_path, PLAN, mixed[0], {}, make_lock(PLAN))
        part = html[html.index('<section id="exploratory">') : html.index('<section id="again">')]
        words = re.sub(r"<[^>]+>", " ", part)
        assert "no p value and no verdict" in words
        for absent in ("SUPPORTED", "FALSIFIED", "Adjusted", "<th>p<", "p <", "p ="):
            assert absent not in words.replace("no p value", "")
        assert part.count("<table") == 2

    def test_populations_add_up_to_what_was_launched(self, mixed):
        found = accounting.populations(mixed[1])
        assert found == {"registered": 18, "budget.seconds=10": 18, "as the plan says, not registered": 7}
        assert sum(found.values()) == mixed[1].accounting.n_launched == 43
        account = accounting.accounting(mixed[1])
        assert account["sums"][1] == "43 runs launched = 18 used + 25 left out"
        assert account["left_out"] == []  # other populations have their own table; runs.csv lists each run

    def test_the_files_name_every_runs_population(self, mixed):
        table = tables.launched_table(mixed[1])
        assert table["population"].value_counts().to_dict() == accounting.populations(mixed[1])
        rows = tables.exploratory_table(mixed[1])
        assert len(rows) == 12
        assert rows[rows["arm"] == "baseline"]["difference"].isna().all()

    def test_arms_that_the_plan_calls_exploratory(self, sweep):
        (group,) = exploratory.exploratory(sweep)["groups"]
        assert group["why"].startswith("The plan itself says")
        assert [row["arm"] for row in group["rows"]] == ["muon-1e-3", "muon-3e-3"]
        assert group["control"] is None  # the judged arms are of another stage

    def test_many_groups_are_bounded(self):
        parts = [RUNS.head(2).assign(registered=False, overrides=f"budget.seconds={i}") for i in range(20)]
        runs = pd.concat([RUNS, *parts], ignore_index=True)
        found = exploratory.exploratory(analyse(PLAN, runs, make_lock(PLAN)))
        assert (len(found["groups"]), found["n_more"]) == (12, 8)

    def test_none_without_other_runs(self, llama):
        assert exploratory.exploratory(llama) is None


class TestSweep:
    def test_the_choice_and_what_it_is_worth(self, sweep):
        rows = {row["name"]: row for row in sweep_section.sweep(sweep)["rows"]}
        assert [row["chosen"] for row in rows.values()] == ["1e-3", "3e-3", "3e-4"]
        for name, row in rows.items():
            found = next(each for each in sweep.sweep.competitions if each.name == name)
            assert row["naive"] == f"{found.best.naive:.4f}"
            assert row["held_out"] == f"{found.best.held_out:.4f} [{found.best.low:.4f}, {found.best.high:.4f}]"
            assert row["corrected"] == f"{found.best.corrected:.4f}"
            assert row["fresh"] == f"{sweep.summaries['val_bpb'][name].mean:.4f}"
            assert row["n_fresh"] == "n = 5"
        assert rows["lion"]["swept"] == "undefined"  # a level diverged: the mean over the others is another grid's

    def test_what_weakens_a_choice_is_said(self, sweep):
        rows = {row["name"]: row["notes"] for row in sweep_section.sweep(sweep)["rows"]}
        assert rows["adamw"] == ""
        assert "at the edge of the grid" in rows["sgd"]
        assert "1 level left out" in rows["lion"]

    def test_the_page_calls_it_exploring_and_labels_the_corrections(self, sweep, tmp_path):
        plan = sweep_plan()
        runs, steps = sweep_rows(plan)
        text, _, made = pages(tmp_path, plan, runs, steps, make_lock(plan))
        for expected in (
            "Everything in this part explores.", "biased: too good", "leave one seed out", "bootstrap, sensitivity",
            "The sweep", "The confirmation, at fresh seeds", "A paper with figures of its own.",
            "14 arms \N{MULTIPLICATION SIGN} 3 seeds, then 3 arms \N{MULTIPLICATION SIGN} 5 fresh seeds",
        ):  # fmt: skip
            assert expected in text, expected
        table = pd.read_csv(made.path.with_name("sweep.csv"))
        assert len(table) == 12
        assert list(table[table["chosen"]]["arm"]) == ["adamw-1e-3", "sgd-3e-3", "lion-3e-4"]
        assert table["mean"].isna().sum() == 1
        assert "launches.csv" not in {path.name for path in made.tables}

    def test_before_its_runs_nothing_is_chosen(self):
        plan = sweep_plan()
        runs, _ = sweep_rows(plan)
        found = sweep_section.sweep(analyse(plan, runs.head(9), make_lock(plan)))
        assert {row["chosen"] for row in found["rows"]} == {"\N{EN DASH}"}
        assert len(found["gaps"]) == 3

    def test_where_nothing_competes_nothing_is_too_good(self):
        alone = replace(
            sweep_plan().confirmation, competitions={"adamw": ("adamw-1e-3",), "sgd": ("sgd-1e-3", "sgd-3e-3")}
        )
        plan = sweep_plan(confirmation=alone)
        runs, _ = sweep_rows(plan)
        one, two = sweep_section.sweep(analyse(plan, runs, make_lock(plan)))["rows"]
        dash = "\N{EN DASH}"
        assert (one["naive"], one["held_out"], one["corrected"], one["folds"]) == (dash, dash, dash, "nothing competed")
        assert one["fresh"] != dash
        assert two["naive"] != dash

    def test_a_tie_goes_to_the_smaller_model_and_says_so(self):
        plan = sweep_plan(primary=Metric("val_bpb", "lower", "bits/byte", 0.5))
        runs, _ = sweep_rows(plan)
        runs["n_params"] = np.where(runs["arm"] == "adamw-1e-4", 10, 1000)
        rows = sweep_section.sweep(analyse(plan, runs, make_lock(plan)))["rows"]
        assert rows[0]["chosen"] == "1e-4"
        assert "fewer parameters win" in rows[0]["notes"]


class TestLaunches:
    def test_settled_launches_and_their_medians(self, timing):
        found = launches.launches(timing)
        rows = {row["arm"]: row for row in found["rows"]}
        assert rows["all-tiny"]["n"] == "2 of 3"
        assert rows["none-small"]["n"] == "3 of 3"
        medians = [e.launch.median for e in timing.speeds.launches if e.arm == "none-small"]
        assert float(rows["none-small"]["median"]) == pytest.approx(1000 * np.exp(np.mean(np.log(medians))), rel=1e-3)
        assert found["rule"] == "change_point"
        assert "all-tiny-seed1" in found["unsettled"]

    def test_the_page_and_the_file(self, tmp_path):
        plan = timing_plan()
        runs, steps = timing_rows(plan, unsettled={("all-tiny", 1)})
        text, _, made = pages(tmp_path, plan, runs, steps, make_lock(plan))
        for expected in (
            "How fast, once settled",
            "No steady state, and so no speed: all-tiny-seed1",
            "Coverage and size",
        ):
            assert expected in text
        table = pd.read_csv(made.path.with_name("launches.csv"))
        assert len(table) == 18
        unsettled = table[table["median_seconds_per_step"].isna()]
        assert list(unsettled["arm"]) == ["all-tiny"]
        assert unsettled["n_cut"].isna().all()  # undefined, not 0
        assert "Loss" not in text  # no evaluation, no curve

    def test_other_plans_have_none(self, llama):
        assert launches.launches(llama) is None


class TestRegistration:
    def test_the_chain_with_times_hashes_commits_and_reasons(self):
        lock = make_lock(PLAN, ("the margin was too small", 7))
        first = replace(lock.entries[0], git_commit="abcdef0123456789")
        lock = type(lock)((first, lock.entries[1]), lock.path)
        found = registration.registration(analyse(PLAN, RUNS, lock))
        one, two = found["entries"]
        assert (one["name"], one["commit"], one["runs"]) == ("0: lock", "abcdef012345", "none")
        assert (two["name"], two["commit"], two["runs"]) == ("1: amendment", "not recorded", "7 runs")
        assert two["reason"] == "the margin was too small"
        assert one["at"] == "2026-11-01 00:00:00 UTC"
        assert [one["sha256"], two["sha256"]] == [entry.sha256 for entry in lock.entries]
        assert found["command"] == "lmexp plan verify gpt_to_llama"

    def test_the_page_says_what_local_clocks_cannot_prove(self, tmp_path):
        text = pages(tmp_path, PLAN, RUNS, {}, make_lock(PLAN))[0]
        assert "the times above come from the clock of the machine that wrote them" in text
        assert "They show that the chain is in order, not when it was made." in text

    def test_none_without_a_lock(self, unregistered):
        assert registration.registration(unregistered) is None


class TestAccounting:
    def test_large_plans_have_counts_in_place_of_cells(self):
        plan = make_plan(seeds=tuple(range(40)), hypotheses=())
        runs = spoil(make_runs(plan), "rope", 3, "diverged", "x")
        (grid,) = accounting.accounting(analysed(plan, runs))["grids"]
        assert grid["seeds"] == []
        assert grid["states"] == ["ok", "missing", "diverged"]
        assert next(row["counts"] for row in grid["rows"] if row["arm"] == "rope") == ["39", "0", "1"]

    def test_small_plans_show_every_cell(self):
        (grid,) = accounting.accounting(analysed(PLAN, spoil(RUNS, "rope", 1, "oom", "x")))["grids"]
        row = next(row for row in grid["rows"] if row["arm"] == "rope")
        assert [cell["state"] for cell in row["cells"]] == ["ok", "oom", "ok"]

    def test_what_was_left_out_is_listed_up_to_a_bound(self):
        earlier = pd.concat(
            [RUNS.assign(status="failed", superseded=True, run_id=f"{i}-" + RUNS["run_id"]) for i in range(4)]
        )
        found = accounting.accounting(analysed(PLAN, pd.concat([RUNS, earlier], ignore_index=True)))
        assert (len(found["left_out"]), found["n_more"]) == (40, 32)
        assert found["rules"] == [("an earlier attempt of a cell that ran again", 72)]


class TestRecord:
    def test_everything_a_program_may_ask(self, llama):
        record = json.loads(json.dumps(verdicts_record(llama)), parse_constant=pytest.fail)
        assert record["lock"]["sha256"] == llama.lock.current.sha256
        assert record["lock"]["locked"]["at"] == "2026-11-01T00:00:00+00:00"
        assert record["runs"]["populations"] == {"registered": 18}
        rope = next(found for found in record["differences"] if found["arm"] == "rope")
        comparison = next(c for c in llama.comparisons["val_bpb"] if c.arm == "rope")
        assert rope["estimate"]["low"] == comparison.difference.simultaneous.low
        assert rope["p_adjusted"] == comparison.difference.p_adjusted
        assert rope["equivalence"]["outcome"] == "different"
        assert rope["finding"] == "better, by enough to matter"
        assert record["verdicts"][0]["reading"] == "FALSIFIED"
        assert record["verdicts"][0]["detectable"][0]["effect"] == contrast_detectable(llama).effect
        assert record["detectable"][0]["smallest_p"] == 0.0
        assert record["statements"] == statements(llama)

    def test_amendments(self):
        record = verdicts_record(analysed(PLAN, RUNS, ("why", 7)))
        assert [(e["reason"], e["runs_existed"]) for e in record["lock"]["amendments"]] == [("why", 7)]
        assert {verdict["verdict"] for verdict in record["verdicts"]} == {"DEVIATED"}
        assert record["verdicts"][0]["reading"] == "FALSIFIED"

    def test_what_is_not_promised_is_null(self, unregistered):
        record = verdicts_record(unregistered)
        assert record["registered"] is False
        assert record["lock"] is None
        assert {d["p_adjusted"] for d in record["differences"]} == {None}
        assert {d["finding"] for d in record["differences"]} == {None}
        assert {d["equivalence"] for d in record["differences"]} == {None}
        assert record["verdicts"][0]["supported_if"]["truth"] is None
        assert record["verdicts"][0]["estimates"][0]["value"] is not None

    def test_undefined_is_null_and_never_zero(self):
        plan = make_plan(seeds=(0,))
        record = json.loads(json.dumps(verdicts_record(analysed(plan, make_runs(plan)))), parse_constant=pytest.fail)
        assert record["blocked_error"] is None
        assert {d["estimate"]["low"] for d in record["differences"]} == {None}
        assert {able["effect"] for able in record["detectable"]} == {None}
        assert {able["smallest_p"] for able in record["detectable"]} == {None}

    def test_the_sweep(self, sweep):
        found = verdicts_record(sweep)["sweep"]
        assert found["chosen"]["sgd"] == "sgd-3e-3"
        assert [each["at_edge"] for each in found["competitions"]] == [False, True, False]


class TestPowerTable:
    def test_one_row_per_planned_test(self, llama):
        table = tables.power_table(llama)
        assert list(table["test"]) == ["blocked_anova", "dunnett_blocked"]
        assert table["effect"].to_numpy() == pytest.approx([able.effect for able in detectables(llama)])
        assert list(table["n_seeds"]) == [3, 3]


class TestContrastsTable:
    def test_equivalence_and_scale(self, llama):
        table = tables.contrasts_table(llama).set_index(["metric", "arm"])
        assert table.loc[("val_bpb", "rope"), "equivalence"] == "different"
        assert table.loc[("val_bpb", "rope"), "margin"] == 0.01
        assert table.loc[("val_bpb", "gqa"), "equivalence"] == "undecided"
        assert table.loc[("val_bpb", "rope"), "p_equivalence"] == llama.equivalences["rope"].p
        assert table.loc[("tokens_per_second", "rope"), "scale"] == "logarithm"
        assert table.loc["tokens_per_second"]["equivalence"].isna().all()
