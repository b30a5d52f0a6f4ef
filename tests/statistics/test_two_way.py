"""The blocked two-way analysis against statsmodels and its own special cases, and where nothing is defined."""

from itertools import product

import numpy as np
import pytest

from lmexp.statistics.blocks import blocked_anova
from lmexp.statistics.distributions import noncentral_f_limits, t_quantile
from lmexp.statistics.two_way import difference_of_differences, two_way_blocked


@pytest.fixture
def values():
    """(4 levels of A, 3 of B, 5 seeds): sizes that differ, all sources at work."""
    generator = np.random.default_rng(6)
    a, b = np.array([0, 0.3, -0.2, 0.5])[:, None, None], np.array([0.4, 0, -0.9])[:, None]
    return a + b + a * b + generator.normal(0, 2, 5) + generator.normal(0, 0.4, (4, 3, 5))


def least_squares(values):
    import pandas as pd
    import statsmodels.formula.api as formula

    rows = [(*cell, values[cell]) for cell in product(*map(range, values.shape))]
    frame = pd.DataFrame(rows, columns=["a", "b", "seed", "value"])
    return formula.ols("value ~ C(a) * C(b) + C(seed)", frame).fit()


class TestTwoWay:
    def test_agrees_with_statsmodels(self, values):
        from statsmodels.stats.anova import anova_lm

        oracle, found = anova_lm(least_squares(values)), two_way_blocked(values)
        for effect, source in zip(found.effects, ("C(a)", "C(b)", "C(a):C(b)"), strict=True):
            # Least squares with dummies against means: another route, nine digits or more.
            assert effect.f == pytest.approx(oracle.loc[source, "F"], rel=1e-9)
            assert effect.p == pytest.approx(oracle.loc[source, "PR(>F)"], rel=1e-9)
            assert effect.ss == pytest.approx(oracle.loc[source, "sum_sq"], rel=1e-9)
            assert effect.df == oracle.loc[source, "df"]
            assert effect.df_error == oracle.loc["Residual", "df"] == 44
        assert found.ss_seeds == pytest.approx(oracle.loc["C(seed)", "sum_sq"], rel=1e-9)
        assert found.ss_error == pytest.approx(oracle.loc["Residual", "sum_sq"], rel=1e-9)
        assert found.error_variance == pytest.approx(oracle.loc["Residual", "mean_sq"], rel=1e-9)
        assert (found.n_a, found.n_b, found.n_seeds, found.df_seeds, found.df_error) == (4, 3, 5, 4, 44)

    def test_sums_of_squares_add_up(self, values):
        found = two_way_blocked(values)
        parts = sum(effect.ss for effect in found.effects) + found.ss_seeds + found.ss_error
        assert parts == pytest.approx(((values - values.mean()) ** 2).sum(), rel=1e-12)

    def test_effect_sizes_are_partial(self, values):
        for effect in two_way_blocked(values).effects:
            low, high = noncentral_f_limits(effect.f, effect.df, 44, 0.90)
            excess = effect.df * (effect.f - 1)
            assert effect.eta2.value == pytest.approx(effect.df * effect.f / (effect.df * effect.f + 44), rel=1e-12)
            assert effect.omega2.value == pytest.approx(excess / (excess + 60), rel=1e-12)  # all 60 values
            assert (effect.eta2.low, effect.eta2.high) == pytest.approx((low / (low + 44), high / (high + 44)))
            assert (effect.omega2.low, effect.omega2.high) == pytest.approx((low / (low + 60), high / (high + 60)))
            assert effect.eta2.method == "partial eta2, noncentral F"

    def test_swapping_the_factors_swaps_their_effects(self, values):
        found, swapped = two_way_blocked(values), two_way_blocked(values.transpose(1, 0, 2))
        assert swapped.a.f == pytest.approx(found.b.f, rel=1e-12)
        assert swapped.b.f == pytest.approx(found.a.f, rel=1e-12)
        assert swapped.interaction.f == pytest.approx(found.interaction.f, rel=1e-12)

    def test_a_seed_that_shifts_every_cell_changes_no_effect(self, values):
        shifted = two_way_blocked(values + np.array([0.0, 5.0, -3.0, 2.0, 9.0]))
        for effect, same in zip(shifted.effects, two_way_blocked(values).effects, strict=True):
            assert effect.f == pytest.approx(same.f, rel=1e-9)  # rounding of the larger numbers

    def test_one_level_of_b_is_the_blocked_one_way_analysis(self, values):
        found, oracle = two_way_blocked(values[:, :1]), blocked_anova(values[:, 0])
        assert found.a.f == pytest.approx(oracle.f, rel=1e-12)
        assert found.a.p == pytest.approx(oracle.p, rel=1e-12)
        for effect in (found.b, found.interaction):
            assert effect.f is effect.p is effect.eta2.value is None
            assert effect.why == effect.eta2.undefined == "the factor has one level"

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (lambda values: values[:, :, :1], "fewer than 2 complete seeds"),
            (lambda values: values[:, :, :0], "fewer than 2 complete seeds"),
            (lambda values: np.full((4, 3, 5), 0.3), "no variation between seeds"),
            (lambda values: values[:, :, :1] + np.arange(5.0), "the same amount at every seed"),
        ],
    )
    def test_what_is_undefined_is_none_and_says_why(self, values, change, why):
        found = two_way_blocked(change(values))
        assert found.error_variance is None
        assert why in found.why
        for effect in found.effects:
            assert effect.f is effect.p is effect.eta2.value is effect.omega2.low is None
            assert why in effect.why
            assert why in str(effect)

    def test_gaps_and_wrong_shapes_are_refused(self, values):
        with pytest.raises(ValueError, match="every cell"):
            two_way_blocked(np.where(values == values[1, 2, 3], np.nan, values))
        with pytest.raises(ValueError, match=r"\(4, 5\) must be \(n_a, n_b, seeds\)"):
            two_way_blocked(values[:, 0])

    def test_prints_and_turns_into_a_row(self, values):
        found = two_way_blocked(values)
        assert str(found).startswith(f"A F(3, 44) = {found.a.f:.4g}, p = {found.a.p:.3g}; B F(2, 44) = ")
        effect = found.interaction
        assert str(effect) == f"AB: F(6, 44) = {effect.f:.4g}, p = {effect.p:.3g}; {effect.eta2}"
        assert str(two_way_blocked(values[:, :1]).b) == "B: F undefined: the factor has one level"
        assert found.row()["interaction_eta2_high"] == found.interaction.eta2.high
        assert found.a.row()["df"] == 3


class TestDifferenceOfDifferences:
    def test_is_the_contrast_of_four_means(self, values):
        found, means = difference_of_differences(values, (3, 1), (0, 2), 0.90), values.mean(axis=2)
        expected = (means[1, 2] - means[3, 2]) - (means[1, 0] - means[3, 0])
        assert found.value == pytest.approx(expected, rel=1e-12)
        reach = t_quantile(0.95, 44) * np.sqrt(4 * two_way_blocked(values).error_variance / 5)
        assert (found.low, found.high) == pytest.approx((expected - reach, expected + reach), rel=1e-12)
        assert found.df == 44
        assert found.method == "blocked t, difference of differences"

    def test_agrees_with_least_squares(self, values):
        oracle = least_squares(values).t_test("C(a)[T.2]:C(b)[T.1] = 0")
        found = difference_of_differences(values, (0, 2), (0, 1), 0.95)
        assert found.value == pytest.approx(oracle.effect.item(), rel=1e-9)
        assert [found.low, found.high] == pytest.approx(oracle.conf_int(0.05).ravel(), rel=1e-9)

    def test_turning_a_step_round_turns_the_sign(self, values):
        found = difference_of_differences(values, (0, 2), (0, 1), 0.95)
        for a, b, sign in [((2, 0), (0, 1), -1), ((0, 2), (1, 0), -1), ((2, 0), (1, 0), 1)]:
            assert difference_of_differences(values, a, b, 0.95).value == pytest.approx(sign * found.value, rel=1e-12)

    def test_its_square_is_the_interaction_of_two_by_two(self, values):
        small = values[:2, 1:]
        estimate = difference_of_differences(small, (0, 1), (0, 1), 0.95)
        t = estimate.value / ((estimate.high - estimate.low) / 2) * t_quantile(0.975, 12)
        assert t**2 == pytest.approx(two_way_blocked(small).interaction.f, rel=1e-9)

    def test_zero_where_the_effects_add_up(self, values):
        additive = np.add.outer(np.arange(4.0), np.arange(3.0))[:, :, None] + values[0, 0]
        assert difference_of_differences(additive, (1, 3), (2, 0), 0.95).value == pytest.approx(0, abs=1e-12)

    def test_one_seed_has_a_value_and_no_interval(self, values):
        found = difference_of_differences(values[:, :, :1], (0, 1), (0, 1), 0.95)
        assert found.value is not None
        assert found.low is None
        assert "fewer than 2" in found.undefined

    @pytest.mark.parametrize(("a", "b"), [((1, 1), (0, 1)), ((0, 1), (2, 2))])
    def test_levels_must_differ(self, values, a, b):
        with pytest.raises(ValueError, match="must differ"):
            difference_of_differences(values, a, b, 0.95)
