"""What a plan's tests can find: the published figures, and which tests cannot reach their own alpha."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "analysis"))

from analysis_rows import make_plan

from lmexp.design import reaches
from lmexp.plan import Analysis


def reach(omnibus="none", contrasts="none", n_arms=6, n_seeds=3, **changes):
    plan = make_plan(
        arms={f"arm{place}": () for place in range(n_arms)},
        seeds=tuple(range(n_seeds)),
        control="arm0",
        hypotheses=(),
        analysis=Analysis(0.05, omnibus, contrasts, "hedges_g", None),
        **changes,
    )
    return reaches(plan)


def test_a_plan_without_tests_has_nothing_to_reach():
    assert reach() == []


@pytest.mark.parametrize(("n_seeds", "mde"), [(3, 3.36), (5, 2.36), (10, 1.59)])
def test_holm_over_five_comparisons_reproduces_the_table(n_seeds, mde):
    (found,) = reach(contrasts="holm_blocked", n_seeds=n_seeds)
    assert found.detectable.effect == pytest.approx(mde, abs=0.005)  # the table has two decimals
    assert found.detectable.unit == "sigma_e"
    assert found.largest_error(0.01) == pytest.approx(0.01 / found.detectable.effect)


def test_dunnett_finds_smaller_effects_than_tukey_and_holm():
    effects = [
        reach(contrasts=name)[0].detectable.effect for name in ("dunnett_blocked", "holm_blocked", "tukey_blocked")
    ]
    assert effects == sorted(effects)


def test_more_comparisons_need_larger_effects():
    few, many = (reach(contrasts="dunnett_blocked", n_arms=k, n_seeds=6)[0].detectable.effect for k in (3, 9))
    assert few < many


@pytest.mark.parametrize(
    ("omnibus", "contrasts", "n_arms", "n_seeds", "smallest", "can"),
    [
        ("none", "sign_flip_holm", 2, 3, 0.25, False),
        ("none", "sign_flip_holm", 2, 6, 2 / 64, True),
        ("none", "sign_flip_holm", 4, 6, 6 / 64, False),  # Holm's first step: three comparisons
        ("permutation", "none", 2, 3, 0.25, False),
        ("permutation", "none", 3, 3, 1 / 36, True),
        ("blocked_anova", "none", 6, 3, 0.0, True),
        ("welch_anova", "none", 6, 3, 0.0, True),
    ],
)
def test_which_tests_can_reach_their_alpha(omnibus, contrasts, n_arms, n_seeds, smallest, can):
    (found,) = reach(omnibus, contrasts, n_arms, n_seeds)
    assert found.smallest_p == pytest.approx(smallest)
    assert found.can_reject is can


def test_one_seed_or_one_arm_can_reject_nothing():
    assert not reach("blocked_anova", "none", 6, 1)[0].can_reject
    assert not reach("blocked_anova", "none", 1, 5)[0].can_reject


def test_two_factors_answer_for_their_interaction():
    (found,) = reach("two_way_blocked", n_arms=6, factors={"a": ("x", "y"), "b": ("1", "2", "3")})
    assert found.detectable.effect > reach("blocked_anova")[0].detectable.effect


def test_the_omnibus_test_comes_first():
    assert [each.name for each in reach("blocked_anova", "dunnett_blocked")] == ["blocked_anova", "dunnett_blocked"]
