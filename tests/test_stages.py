"""Laws of the choice between the two stages of a plan, and of the order in which its cells run."""

import copy
import itertools
import random

import pytest
import yaml

from lmexp.compose import value_of
from lmexp.plan import plan_of
from lmexp.results import SECONDS_PER_STEP_ALL_IN
from lmexp.stages import choose
from lmexp.sweep import expand

SESOI = 0.01
CONTENT = {
    "name": "rates",
    "question": "Which optimizer wins at its best rate?",
    "design": {
        "base": [],
        "factors": {
            "optimizer": {"adamw": [], "lion": ["optimizer=lion"]},
            "rate": {"low": ["optimizer.lr=1e-4"], "mid": ["optimizer.lr=1e-3"], "high": ["optimizer.lr=1e-2"]},
        },
        "arms": {"extra": ["optimizer=muon"]},
        "control": "adamw",
        "seeds": [0, 1],
        "confirmation": {"arms": {"adamw": ["adamw-*"], "lion": ["lion-*"]}, "seeds": [100, 101, 102]},
    },
    "metrics": {"primary": {"name": "val_bpb", "direction": "lower", "unit": "bits/byte", "sesoi": SESOI}},
    "analysis": {"alpha": 0.05, "omnibus": "none", "contrasts": "holm_blocked", "effect_size": "hedges_g"},
    "exploratory": ["extra"],
}
ADAMW = ("adamw-low", "adamw-mid", "adamw-high")
LION = ("lion-low", "lion-mid", "lion-high")


def make_plan(tmp_path, name="val_bpb", direction="lower", sesoi=SESOI):
    content = copy.deepcopy(CONTENT)
    content["metrics"]["primary"] |= {"name": name, "direction": direction, "sesoi": sesoi}
    return plan_of(content, tmp_path / "experiments" / "rates" / "plan.yaml")


@pytest.fixture
def plan(tmp_path):
    return make_plan(tmp_path)


def rows_of(means, spread=0.2, metric="val_bpb", **sizes):
    """Return an ok row per arm and seed: two seeds around the arm's mean, 100 parameters unless ``sizes`` says."""
    return [
        {
            "arm": arm,
            "seed": seed,
            "status": "ok",
            metric: mean + (seed - 0.5) * spread,
            "n_params": sizes.get(arm.replace("-", "_"), 100),
        }
        for arm, mean in means.items()
        for seed in (0, 1)
    ]


def clear(adamw=(2.3, 2.1, 2.5), lion=(2.0, 2.6, 2.4)):
    """Return means by arm: differences far above the sesoi unless told otherwise."""
    return dict(zip(ADAMW + LION, adamw + lion, strict=True))


def test_the_best_mean_of_each_competition_is_chosen_whatever_the_order_of_rows(plan):
    rows = rows_of(clear())
    for _ in range(5):
        random.shuffle(rows)
        choice = choose(plan, rows)
        assert dict(choice.chosen) == {"adamw": "adamw-mid", "lion": "lion-low"}
        assert not choice.gaps


def test_a_metric_that_is_better_when_higher_turns_the_choice_around(tmp_path):
    upward = make_plan(tmp_path, "tokens_per_second", "higher")
    chosen = choose(upward, rows_of(clear(), metric="tokens_per_second")).chosen
    assert dict(chosen) == {"adamw": "adamw-high", "lion": "lion-mid"}


def test_among_arms_within_the_sesoi_the_one_with_fewest_parameters_wins(plan):
    near = clear(adamw=(2.1 + 0.9 * SESOI, 2.1, 2.5))
    assert choose(plan, rows_of(near, adamw_low=50)).chosen["adamw"] == "adamw-low"
    assert choose(plan, rows_of(near, adamw_low=101)).chosen["adamw"] == "adamw-mid"
    assert choose(plan, rows_of(near, adamw_low=None)).chosen["adamw"] == "adamw-mid"  # of unknown size: no smaller
    beyond = clear(adamw=(2.1 + 1.1 * SESOI, 2.1, 2.5))
    assert choose(plan, rows_of(beyond, adamw_low=50)).chosen["adamw"] == "adamw-mid"


def test_the_sesoi_counts_from_the_best_and_not_from_one_arm_to_the_next(plan):
    steps = clear(adamw=(2.1, 2.1 + 0.8 * SESOI, 2.1 + 1.6 * SESOI))
    assert choose(plan, rows_of(steps, adamw_high=1, adamw_mid=2)).chosen["adamw"] == "adamw-mid"


def test_of_equal_sizes_within_the_sesoi_the_better_mean_wins_and_of_equal_means_the_first_in_the_plan(plan):
    near = clear(adamw=(2.1 + 0.5 * SESOI, 2.5, 2.1))
    assert choose(plan, rows_of(near)).chosen["adamw"] == "adamw-high"
    for order in itertools.permutations(rows_of(clear(adamw=(2.1, 2.1, 2.1)), spread=0.0)[:6]):
        assert choose(plan, [*order, *rows_of(clear())[6:]]).chosen["adamw"] == "adamw-low"


def test_without_a_sesoi_only_the_mean_decides(tmp_path):
    near = clear(adamw=(2.1 + 1e-9, 2.1, 2.5))
    assert choose(make_plan(tmp_path, sesoi=None), rows_of(near, adamw_low=1)).chosen["adamw"] == "adamw-mid"


def test_an_arm_that_diverged_at_any_seed_is_never_chosen(plan):
    rows = rows_of(clear())
    best = next(row for row in rows if (row["arm"], row["seed"]) == ("adamw-mid", 1))
    best |= {"status": "diverged", "val_bpb": None}
    choice = choose(plan, rows)
    assert dict(choice.chosen) == {"adamw": "adamw-low", "lion": "lion-low"}
    assert not choice.gaps  # a diverged run is a result, not a gap


def test_a_score_beside_a_diverged_status_counts_for_nothing(plan):
    rows = rows_of(clear())
    for row in rows:
        if row["arm"] == "adamw-mid":
            row["status"] = "diverged"  # its val_bpb would be the best
    assert choose(plan, rows).chosen["adamw"] == "adamw-low"


def test_when_every_arm_diverged_nothing_is_chosen_and_the_gap_says_so(plan):
    rows = [row | {"status": "diverged"} if row["arm"] in LION else row for row in rows_of(clear())]
    choice = choose(plan, rows)
    assert set(choice.chosen) == {"adamw"}
    assert choice.gaps == ("every arm that competes for lion diverged",)


@pytest.mark.parametrize("status", ["failed", "oom", "interrupted", None])
def test_a_competition_waits_for_every_run_of_its_own_and_of_no_other(plan, status):
    rows = rows_of(clear())
    late = next(row for row in rows if (row["arm"], row["seed"]) == ("lion-high", 1))  # not even the best
    rows = [row for row in rows if row is not late] + ([late | {"status": status}] if status else [])
    choice = choose(plan, rows)
    assert dict(choice.chosen) == {"adamw": "adamw-mid"}
    assert choice.gaps == ("lion waits for 1 run of the sweep (lion-high seed 1)",)


def test_runs_of_other_arms_and_seeds_choose_nothing(plan):
    others = [row | {"seed": 100, "val_bpb": 0.1} for row in rows_of({"adamw-high": 0.1})]
    extra = rows_of({"extra": 0.1})
    assert choose(plan, rows_of(clear()) + others + extra).chosen["adamw"] == "adamw-mid"


def test_a_measure_that_is_made_from_others_can_choose(tmp_path):
    timed = make_plan(tmp_path, SECONDS_PER_STEP_ALL_IN)
    rows = [
        row | {"train_seconds": 10.0 * place, "eval_seconds": 1.0, "steps": 7}
        for place, row in enumerate(reversed(rows_of(clear())), start=1)
    ]
    assert dict(choose(timed, rows).chosen) == {"adamw": "adamw-high", "lion": "lion-high"}


def test_the_sweep_comes_first_then_what_the_confirmation_may_need(tmp_path, monkeypatch):
    path = tmp_path / "experiments" / "rates" / "plan.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    runs = [(value_of("arm", run), int(value_of("seed", run))) for run in expand(["experiment=rates"])]
    sweep, fresh = runs[:14], runs[14:]
    assert set(sweep) == {(arm, seed) for arm in (*ADAMW, *LION, "extra") for seed in (0, 1)}
    assert set(fresh) == {(arm, seed) for arm in (*ADAMW, *LION) for seed in (100, 101, 102)}  # extra never competes
    assert len(runs) == len(set(runs))
    assert [seed for _, seed in runs] == sorted(seed for _, seed in runs)  # blocks of one seed
    only = [(value_of("arm", run), value_of("seed", run)) for run in expand(["experiment=rates", "seed=101"])]
    assert set(only) == {(arm, "101") for arm in (*ADAMW, *LION)}
