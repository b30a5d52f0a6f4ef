"""Which runs count: each rule, and that cells and runs always add up."""

import numpy as np
import pandas as pd
import pytest
from analysis_rows import LOCK_SHA256, make_lock, make_plan, make_runs, spoil, without
from hypothesis import given, settings
from hypothesis import strategies as st

from lmexp.analysis.cells import (
    AS_PLANNED,
    MISSING,
    OK,
    REGISTERED,
    REPEATED,
    account,
    reported_population,
    values,
    with_populations,
)

PLAN = make_plan()
NO_LOCK = "no lock"


def sort(plan, runs, lock=None, chosen=None):
    """Account for the runs of a locked plan (of one that is not locked: ``lock=NO_LOCK``)."""
    runs = with_populations(plan, runs, None if lock == NO_LOCK else lock or make_lock(plan))
    return account(plan, runs, reported_population(runs), chosen)


def again(runs, of_arm, of_seed, **changes):
    """One more row for a cell, started after all others."""
    row = runs[(runs["arm"] == of_arm) & (runs["seed"] == of_seed)].iloc[0]
    later = {"run_id": row["run_id"] + "-again", "started_at": "2026-11-09T00:00:00+00:00", **changes}
    return pd.concat([runs, pd.DataFrame([{**row, **later}])], ignore_index=True)


def test_a_complete_plan_uses_every_run_in_the_plans_order():
    runs = make_runs(PLAN)
    accounting, used = sort(PLAN, runs.sample(frac=1, random_state=1))
    assert accounting.states == {OK: 18, MISSING: 0}
    assert (accounting.n_launched, accounting.n_used, accounting.left_out) == (18, 18, ())
    assert accounting.settings == REGISTERED
    assert list(used.index) == [(arm, seed) for arm in PLAN.arms for seed in PLAN.seeds]


def test_values_are_arms_by_seeds_with_nan_for_gaps():
    runs = without(make_runs(PLAN), "swiglu", 1)
    table = values(PLAN, sort(PLAN, runs)[1], "val_bpb")
    assert table.shape == (6, 3)
    assert np.isnan(table).sum() == 1
    assert np.isnan(table[2, 1])
    expected = runs[(runs["arm"] == "rope") & (runs["seed"] == 2)]["val_bpb"].iloc[0]
    assert table[4, 2] == expected
    assert np.isnan(values(PLAN, sort(PLAN, runs)[1], "no_such_column")).all()


@pytest.mark.parametrize("status", ["diverged", "oom", "failed", "interrupted"])
def test_a_run_that_did_not_end_well_is_listed_and_never_counted(status):
    accounting, used = sort(PLAN, spoil(make_runs(PLAN), "rope", 1, status, "it went wrong"))
    assert accounting.states == {OK: 17, MISSING: 0, status: 1}
    assert ("rope", 1) not in used.index
    (left_out,) = accounting.left_out
    assert (left_out.arm, left_out.seed, left_out.rule, left_out.error) == ("rope", 1, status, "it went wrong")
    assert [str(gap) for gap in accounting.gaps] == [f"rope seed 1 ({status})"]


def test_a_failed_attempt_beside_a_good_one_is_listed_and_the_cell_is_ok():
    runs = again(make_runs(PLAN), "gqa", 0, status="failed", val_bpb=np.nan, started_at="2026-11-01T12:00:00+00:00")
    accounting, _ = sort(PLAN, runs)
    assert accounting.states == {OK: 18, MISSING: 0}
    assert [run.rule for run in accounting.left_out] == ["failed"]


class TestACellThatRanTwice:
    """Nobody can run a registered cell again until it pleases."""

    RUNS = again(make_runs(PLAN), "gqa", 0, val_bpb=9.9)

    def test_of_two_registered_runs_the_first_started_counts_whatever_its_name(self):
        runs = self.RUNS.assign(run_id=self.RUNS["run_id"].where(self.RUNS["val_bpb"] < 9, "a-name-that-sorts-first"))
        accounting, used = sort(PLAN, runs.sample(frac=1, random_state=3))
        assert used.loc[("gqa", 0), "val_bpb"] < 9
        assert "started first" in accounting.left_out[0].rule

    def test_even_when_it_was_set_aside_to_run_the_cell_again(self):
        runs = self.RUNS.assign(superseded=self.RUNS["val_bpb"] < 9)
        assert sort(PLAN, runs)[1].loc[("gqa", 0), "val_bpb"] < 9

    def test_a_plan_may_refuse_both(self):
        accounting, used = sort(make_plan(repeats="refuse"), self.RUNS)
        assert accounting.states == {OK: 17, MISSING: 0, REPEATED: 1}
        assert len(accounting.left_out) == 2
        assert ("gqa", 0) not in used.index

    def test_of_exploratory_runs_the_latest_counts(self):
        runs = self.RUNS.assign(registered=False, lock_sha256=None)
        accounting, used = sort(PLAN, runs)
        assert used.loc[("gqa", 0), "val_bpb"] == 9.9
        assert accounting.left_out[0].rule == "an earlier attempt of a cell that ran again"


@pytest.mark.parametrize("changes", [{"arm": "moe"}, {"seed": 7}])
def test_a_run_outside_the_plan_is_left_out(changes):
    accounting, used = sort(PLAN, again(make_runs(PLAN), "gqa", 0, **changes))
    assert [run.rule for run in accounting.left_out] == ["not a cell of the plan"]
    assert len(used) == 18


def test_an_ok_run_without_its_metric_is_not_ok():
    runs = make_runs(PLAN)
    runs.loc[(runs["arm"] == "gqa") & (runs["seed"] == 2), "val_bpb"] = np.nan
    accounting, _ = sort(PLAN, runs)
    assert accounting.states == {OK: 17, MISSING: 0, "unmeasured": 1}
    assert accounting.left_out[0].rule == "val_bpb was not measured"


class TestPopulations:
    """Registered runs are never mixed with others, nor runs of one way of running the plan with those of another."""

    def short(self, n):
        rows = make_runs(PLAN).head(n)
        return rows.assign(
            budget_seconds=10.0,
            overrides="budget.seconds=10",
            run_id=rows["run_id"] + "-short",
            val_bpb=5.0,
            registered=False,
            lock_sha256=None,
        )

    def test_registered_runs_win_even_when_they_are_fewer(self):
        accounting, used = sort(PLAN, pd.concat([self.short(18), make_runs(PLAN).head(5)]))
        assert accounting.settings == REGISTERED
        assert (used["budget_seconds"] == 300).all()
        assert accounting.states == {OK: 5, MISSING: 13}
        assert {run.rule for run in accounting.left_out} == {"exploratory: budget.seconds=10"}

    def test_then_the_plans_own_cells(self):
        own = make_runs(PLAN).head(5).assign(registered=False, lock_sha256=None, overrides=None)
        accounting, _ = sort(PLAN, pd.concat([self.short(18), own]))
        assert (accounting.settings, accounting.n_used) == (AS_PLANNED, 5)

    def test_then_the_most_complete(self):
        few = self.short(4).assign(overrides="budget.seconds=20")
        accounting, used = sort(PLAN, pd.concat([few, self.short(9)]))
        assert (len(used), accounting.settings) == (9, "budget.seconds=10")

    def test_without_a_lock_nothing_is_registered(self):
        accounting, _ = sort(PLAN, make_runs(PLAN), lock=NO_LOCK)
        assert accounting.settings == "says that it is registered, but the plan has no lock"

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"lock_sha256": "f" * 64}, "no entry of the lock has the hash that it names"),
            ({"lock_sha256": None}, "no entry of the lock has the hash that it names"),
            ({"started_at": "2026-10-31T23:59:59+00:00"}, "it started before that entry was written"),
            ({"file_fault": "run.parquet was edited after the run"}, "run.parquet was edited after the run"),
            ({"registered": False}, AS_PLANNED),
            ({"registered": None}, AS_PLANNED),
            ({"registered": False, "plan_sha256": "0" * 64}, "another version of the plan, not registered"),
        ],
    )
    def test_a_run_that_does_not_follow_the_lock_is_not_registered(self, changes, why):
        runs = make_runs(PLAN)
        ours = runs["arm"].eq("gqa") & runs["seed"].eq(0)
        for column, value in changes.items():
            before = runs[column] if column in runs else pd.Series(None, index=runs.index)
            runs[column] = before.astype(object).mask(ours, value)
        accounting, used = sort(PLAN, runs)
        assert ("gqa", 0) not in used.index
        assert [run.rule.endswith(why) for run in accounting.left_out] == [True]

    def test_a_run_with_another_config_than_the_lock_holds_is_not_registered(self):
        runs, lock = make_runs(PLAN), make_lock(PLAN)
        lock.entries[0].cells.update(
            {"gqa seed 0": "f" * 64, "gqa seed 1": runs.query("arm == 'gqa'")["config_sha256"].iloc[1]}
        )
        accounting, _ = sort(PLAN, runs, lock)
        assert [(run.arm, run.seed) for run in accounting.left_out] == [("gqa", 0)]
        assert "its config is not the one that the lock holds" in accounting.left_out[0].rule

    def test_a_run_of_a_cell_that_was_amended_since_is_believed_and_left_out(self):
        runs, lock = make_runs(PLAN), make_lock(PLAN, ("a better rate", 1))
        before = runs.query("arm == 'gqa' and seed == 0").assign(run_id="gqa-before", config_sha256="f" * 64)
        lock.entries[0].cells["gqa seed 0"] = "f" * 64
        lock.entries[1].cells["gqa seed 0"] = runs.loc[before.index[0], "config_sha256"]
        runs.loc[before.index, "lock_sha256"] = lock.entries[1].sha256
        runs.loc[before.index, "started_at"] = "2026-11-01T02:00:00+00:00"
        before = before.assign(started_at="2026-11-01T00:30:00+00:00")
        accounting, used = sort(PLAN, pd.concat([before, runs], ignore_index=True), lock)
        assert used.loc[("gqa", 0), "run_id"] != "gqa-before"
        assert not accounting.gaps
        [left] = accounting.left_out
        assert "follows an earlier entry of the lock, and its cell was amended since" in left.rule

    def test_an_edited_chain_registers_nothing(self):
        lock = make_lock(PLAN)
        broken = type(lock).__mro__[1](lock.entries, lock.path)  # a lock that checks its hashes: this one's is made up
        accounting, _ = sort(PLAN, make_runs(PLAN), broken)
        assert "was edited" in accounting.settings

    def test_arms_that_the_plan_calls_exploratory_enter_nothing(self):
        plan = make_plan(exploratory=("gqa",))
        judged = make_plan(exploratory=("gqa",), arms=dict.fromkeys(plan.judged_arms, ()))
        accounting, used = sort(judged, make_runs(plan))
        assert len(used) == 15
        assert {run.rule for run in accounting.left_out} == {"an arm that the plan calls exploratory"}

    def test_a_run_that_failed_before_its_budget_was_known_still_belongs_to_its_cell(self):
        runs = spoil(make_runs(PLAN), "rope", 1, "failed", "no compiler")
        runs.loc[runs["status"] == "failed", "budget_seconds"] = np.nan
        assert sort(PLAN, runs)[0].states == {OK: 17, MISSING: 0, "failed": 1}

    def test_the_same_hash_as_the_lock_is_what_counts(self):
        assert sort(PLAN, make_runs(PLAN).assign(lock_sha256=LOCK_SHA256))[0].settings == REGISTERED


class TestConfirmation:
    """Runs of the confirmation carry the names they are judged under; those of arms not chosen are left out."""

    def test_chosen_arms_are_renamed_and_others_left_out(self):
        plan = make_plan(arms={"first": (), "second": (), "third": ()}, control="first")
        runs = make_runs(PLAN)
        accounting, used = sort(plan, runs, make_lock(PLAN), {"first": "gqa", "second": "rope", "third": "rope"})
        assert used.loc[("second", 1), "val_bpb"] == used.loc[("third", 1), "val_bpb"]
        assert set(used.index.get_level_values("arm")) == {"first", "second", "third"}
        assert {run.rule for run in accounting.left_out} == {"not chosen by the sweep"}
        assert len(accounting.left_out) == 12


def test_a_failed_attempt_that_ran_again_decides_nothing():
    runs = again(make_runs(PLAN).assign(superseded=False), "gqa", 0, superseded=True, status="failed", val_bpb=np.nan)
    accounting, _ = sort(PLAN, runs)
    assert accounting.states == {OK: 18, MISSING: 0}
    assert [run.rule for run in accounting.left_out] == ["an earlier attempt of a cell that ran again"]


def test_no_runs_at_all():
    accounting, used = sort(PLAN, make_runs(PLAN).head(0))
    assert accounting.states == {OK: 0, MISSING: 18}
    assert len(used) == 0


_rows = st.lists(
    st.tuples(
        st.sampled_from([*PLAN.arms, "moe"]),
        st.sampled_from([0, 1, 2, 5]),
        st.sampled_from(["ok", "ok", "ok", "failed", "diverged", "interrupted"]),
        st.sampled_from([300.0, 10.0, np.nan]),
        st.sampled_from([2.2, 2.3, np.nan]),
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(_rows)
def test_cells_and_runs_always_add_up(rows):
    template = make_runs(PLAN).iloc[0].to_dict()
    names = ("arm", "seed", "status", "budget_seconds", "val_bpb")
    runs = pd.DataFrame(
        [{**template, **dict(zip(names, row, strict=True)), "run_id": f"run{i}"} for i, row in enumerate(rows)],
        columns=list(template),
    )
    accounting, used = sort(PLAN, runs)
    assert sum(accounting.states.values()) == len(accounting.cells) == 18
    assert accounting.n_used + len(accounting.left_out) == accounting.n_launched == len(rows)
    assert accounting.n_used == len(used) == accounting.states[OK]
    assert used.index.is_unique
    assert np.isfinite(used["val_bpb"].to_numpy(dtype=float)).all()
