"""Which runs count: each rule, and that cells and runs always add up."""

import numpy as np
import pandas as pd
import pytest
from analysis_rows import make_plan, make_runs, spoil, without
from hypothesis import given, settings
from hypothesis import strategies as st

from lmexp.analysis.cells import MISSING, OK, account, values

PLAN = make_plan()


def again(runs, of_arm, of_seed, **changes):
    """One more row for a cell, started after all others."""
    row = runs[(runs["arm"] == of_arm) & (runs["seed"] == of_seed)].iloc[0]
    later = {"run_id": row["run_id"] + "-again", "started_at": "2026-11-09T00:00:00+00:00", **changes}
    return pd.concat([runs, pd.DataFrame([{**row, **later}])], ignore_index=True)


def test_a_complete_plan_uses_every_run_in_the_plans_order():
    runs = make_runs(PLAN)
    accounting, used = account(PLAN, runs.sample(frac=1, random_state=1))
    assert accounting.states == {OK: 18, MISSING: 0}
    assert (accounting.n_launched, accounting.n_used, accounting.left_out) == (18, 18, ())
    assert accounting.as_planned
    assert list(used.index) == [(arm, seed) for arm in PLAN.arms for seed in PLAN.seeds]


def test_values_are_arms_by_seeds_with_nan_for_gaps():
    runs = without(make_runs(PLAN), "swiglu", 1)
    table = values(PLAN, account(PLAN, runs)[1], "val_bpb")
    assert table.shape == (6, 3)
    assert np.isnan(table).sum() == 1
    assert np.isnan(table[2, 1])
    expected = runs[(runs["arm"] == "rope") & (runs["seed"] == 2)]["val_bpb"].iloc[0]
    assert table[4, 2] == expected
    assert np.isnan(values(PLAN, account(PLAN, runs)[1], "no_such_column")).all()


@pytest.mark.parametrize("status", ["diverged", "oom", "failed", "interrupted"])
def test_a_run_that_did_not_end_well_is_listed_and_never_counted(status):
    accounting, used = account(PLAN, spoil(make_runs(PLAN), "rope", 1, status, "it went wrong"))
    assert accounting.states == {OK: 17, MISSING: 0, status: 1}
    assert ("rope", 1) not in used.index
    (left_out,) = accounting.left_out
    assert (left_out.arm, left_out.seed, left_out.rule, left_out.error) == ("rope", 1, status, "it went wrong")
    assert [str(gap) for gap in accounting.gaps] == [f"rope seed 1 ({status})"]


def test_a_failed_attempt_beside_a_good_one_is_listed_and_the_cell_is_ok():
    runs = again(make_runs(PLAN), "gqa", 0, status="failed", val_bpb=np.nan, started_at="2026-01-01T00:00:00+00:00")
    accounting, _ = account(PLAN, runs)
    assert accounting.states == {OK: 18, MISSING: 0}
    assert [run.rule for run in accounting.left_out] == ["failed"]


def test_of_two_good_runs_of_a_cell_the_first_started_counts():
    runs = again(make_runs(PLAN), "gqa", 0, val_bpb=9.9)
    runs["run_id"] = runs["run_id"].where(runs["val_bpb"] < 9, "a-name-that-sorts-first")
    accounting, used = account(PLAN, runs)
    assert used.loc[("gqa", 0), "val_bpb"] < 9
    assert accounting.left_out[0].rule.endswith("counts for this cell")


@pytest.mark.parametrize("changes", [{"arm": "moe"}, {"seed": 7}])
def test_a_run_outside_the_plan_is_left_out(changes):
    accounting, used = account(PLAN, again(make_runs(PLAN), "gqa", 0, **changes))
    assert [run.rule for run in accounting.left_out] == ["not a cell of the plan"]
    assert len(used) == 18


def test_an_ok_run_without_its_metric_is_not_ok():
    runs = make_runs(PLAN)
    runs.loc[(runs["arm"] == "gqa") & (runs["seed"] == 2), "val_bpb"] = np.nan
    accounting, _ = account(PLAN, runs)
    assert accounting.states == {OK: 17, MISSING: 0, "unmeasured": 1}
    assert accounting.left_out[0].rule == "val_bpb was not measured"


class TestSettings:
    """Runs under different settings are never mixed: the plan's own win, whatever their number."""

    def short(self, n):
        rows = make_runs(PLAN).head(n)
        return rows.assign(
            budget_seconds=10.0, overrides="budget.seconds=10", run_id=rows["run_id"] + "-short", val_bpb=5.0
        )

    def test_the_plans_own_settings_win_even_with_fewer_runs(self):
        runs = pd.concat([self.short(18), make_runs(PLAN).head(5)])
        accounting, used = account(PLAN, runs)
        assert accounting.as_planned
        assert (used["budget_seconds"] == 300).all()
        assert accounting.states == {OK: 5, MISSING: 13}
        assert {run.rule for run in accounting.left_out} == {"other settings: budget.seconds=10"}

    def test_other_settings_alone_are_reported_and_named(self):
        accounting, used = account(PLAN, self.short(18))
        assert not accounting.as_planned
        assert accounting.settings == "budget.seconds=10"
        assert len(used) == 18

    def test_an_arm_with_a_budget_of_its_own_is_the_plans_own(self):
        plan = make_plan(arms={**PLAN.arms, "gqa": ("model.n_kv_heads=2", "budget.seconds=60")})
        runs = make_runs(plan)
        runs["budget_seconds"] = runs["budget_seconds"].mask(runs["arm"] == "gqa", 60.0)
        accounting, _ = account(plan, runs)
        assert accounting.states == {OK: 18, MISSING: 0}
        assert accounting.as_planned

    def test_null_overrides_are_the_plans_own(self):
        runs = pd.concat([self.short(18), make_runs(PLAN).head(5).assign(overrides=None)])
        assert account(PLAN, runs)[0].states == {OK: 5, MISSING: 13}

    def test_without_own_runs_the_settings_with_most_results_win(self):
        few = make_runs(PLAN).head(4).assign(overrides="budget.seconds=20")
        accounting, used = account(PLAN, pd.concat([few, self.short(9)]))
        assert (len(used), accounting.settings) == (9, "budget.seconds=10")

    def test_a_run_of_this_version_of_the_plan_counts_before_an_earlier_one_of_another(self):
        old = make_runs(PLAN).assign(plan_sha256="0" * 64, val_bpb=9.0, started_at="2026-01-01T00:00:00+00:00")
        old["run_id"] += "-old"
        accounting, used = account(PLAN, pd.concat([old, make_runs(PLAN).head(7)]))
        assert (used["val_bpb"] < 9).sum() == 7
        assert (accounting.n_used, len(accounting.left_out)) == (18, 7)

    def test_a_run_that_failed_before_its_budget_was_known_still_belongs_to_its_cell(self):
        runs = spoil(make_runs(PLAN), "rope", 1, "failed", "no compiler")
        runs.loc[runs["status"] == "failed", "budget_seconds"] = np.nan
        assert account(PLAN, runs)[0].states == {OK: 17, MISSING: 0, "failed": 1}


class TestSuperseded:
    """Earlier attempts are listed, and decide nothing."""

    def attempts(self, **changes):
        runs = make_runs(PLAN).assign(superseded=False)
        return again(runs, "gqa", 0, superseded=True, started_at="2026-01-01T00:00:00+00:00", **changes)

    @pytest.mark.parametrize("status", ["ok", "failed"])
    def test_they_are_left_out_by_their_own_rule(self, status):
        accounting, used = account(PLAN, self.attempts(status=status, val_bpb=9.9))
        (left_out,) = accounting.left_out
        assert (left_out.rule, left_out.superseded) == ("an earlier attempt of a cell that ran again", True)
        assert (accounting.n_launched, accounting.n_used) == (19, 18)
        assert used["val_bpb"].max() < 9

    def test_a_cell_with_only_an_earlier_attempt_is_missing(self):
        runs = self.attempts(status="failed")
        runs = runs[runs["superseded"] | (runs["arm"] != "gqa") | (runs["seed"] != 0)]
        assert account(PLAN, runs)[0].states == {OK: 17, MISSING: 1}

    def test_their_overrides_choose_no_settings(self):
        runs = make_runs(PLAN).assign(overrides="budget.seconds=10", superseded=False)
        accounting, _ = account(PLAN, again(runs, "gqa", 0, superseded=True, overrides=""))
        assert (accounting.settings, accounting.n_used) == ("budget.seconds=10", 18)

    def test_null_is_not_superseded(self):
        assert account(PLAN, make_runs(PLAN).assign(superseded=None))[0].left_out == ()


def test_no_runs_at_all():
    accounting, used = account(PLAN, make_runs(PLAN).head(0))
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
    accounting, used = account(PLAN, runs)
    assert sum(accounting.states.values()) == len(accounting.cells) == 18
    assert accounting.n_used + len(accounting.left_out) == accounting.n_launched == len(rows)
    assert accounting.n_used == len(used) == accounting.states[OK]
    assert used.index.is_unique
    assert np.isfinite(used["val_bpb"].to_numpy(dtype=float)).all()
