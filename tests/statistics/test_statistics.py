"""The statistics against pingouin, statsmodels, scipy and published numbers, and where nothing is defined."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from lmexp.statistics import adjust, all_pairs, blocks, calibration, contrasts, one_way, two_way
from lmexp.statistics.blocks import (
    blocked_anova,
    complete_seeds,
    contrast,
    fit_blocks,
    greenhouse_geisser,
    mean_estimate,
    permutation_test,
)
from lmexp.statistics.contrasts import (
    differences,
    fieller,
    interaction,
    pairwise,
    plain_differences,
    ratio_of_means,
    share,
)
from lmexp.statistics.distributions import dunnett_cdf, dunnett_critical, t_quantile
from lmexp.statistics.effect_size import bias_correction, cohens_d, d_z, effect_sizes, hedges_g
from lmexp.statistics.explained import explained_variation
from lmexp.statistics.sign_flip import sign_flip_test

MPG = [
    *(21, 21, 22.8, 21.4, 18.7, 18.1, 14.3, 24.4, 22.8, 19.2, 17.8, 16.4, 17.3, 15.2, 10.4, 10.4),
    *(14.7, 32.4, 30.4, 33.9, 21.5, 15.5, 15.2, 13.3, 19.2, 27.3, 26, 30.4, 15.8, 19.7, 15, 21.4),
]  # miles per gallon of 32 cars (Motor Trend 1974), R's mtcars
MANUAL = [0, 1, 2, 17, 18, 19, 25, 26, 27, 28, 29, 30, 31]  # rows of the cars with a manual gearbox
SLEEP = ([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])


@pytest.fixture
def values():
    """(4 arms, 3 seeds): three sizes that differ, arms and seeds that both matter."""
    generator = np.random.default_rng(5)
    return (
        2.3
        + np.array([0, -0.05, -0.1, -0.3])[:, None]
        + generator.normal(0, 0.1, 3)
        + generator.normal(0, 0.03, (4, 3))
    )


@pytest.mark.parametrize(
    "result",
    [
        *(blocks.Fit, blocks.BlockedAnova, blocks.Permutation, contrasts.Difference, all_pairs.Pair),
        *(adjust.PlannedContrast, one_way.OneWayAnova, one_way.WelchAnova, one_way.AlexanderGovern),
        *(two_way.Effect, two_way.TwoWayAnova, calibration.Line),
    ],
)
def test_results_cannot_be_changed_after_the_fact(result):
    assert result.__dataclass_params__.frozen


def long_frame(values):
    import pandas as pd

    rows = [(arm, seed, values[arm, seed]) for arm, seed in product(*map(range, values.shape))]
    return pd.DataFrame(rows, columns=["arm", "seed", "value"])


class TestBlockedAnova:
    def test_agrees_with_statsmodels(self, values):
        from statsmodels.stats.anova import AnovaRM

        oracle = AnovaRM(long_frame(values), "value", "seed", within=["arm"]).fit().anova_table.iloc[0]
        found = blocked_anova(values)
        # The same sums in another order: all but the last digits.
        assert found.f == pytest.approx(oracle["F Value"], rel=1e-9)
        assert found.p == pytest.approx(oracle["Pr > F"], rel=1e-9)
        assert (found.df_arms, found.df_error) == (oracle["Num DF"], oracle["Den DF"]) == (3, 6)

    @pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")  # pingouin's own, not ours
    def test_agrees_with_pingouin_with_epsilon_and_partial_eta2(self):
        import pingouin

        wide = pingouin.read_dataset("rm_anova_wide").dropna()
        values = wide.to_numpy().T
        found, oracle = blocked_anova(values), pingouin.rm_anova(wide, correction=True, effsize="np2").iloc[0]
        # pingouin rounds nothing, but names changed between its versions: take them by position of meaning.
        assert found.f == pytest.approx(oracle["F"], rel=1e-9)
        assert found.eta2.value == pytest.approx(oracle["np2"], rel=1e-9)
        assert found.epsilon == pytest.approx(oracle["eps"], rel=1e-9)
        # And the figures on record, printed to five digits.
        assert found.f == pytest.approx(5.20065, abs=6e-6)
        assert found.epsilon == pytest.approx(0.69433, abs=6e-6)
        assert found.p_sphericity == pytest.approx(0.01670, abs=6e-6)

    def test_prints_on_one_line_and_turns_into_a_row(self, values):
        found = blocked_anova(values)
        text = f"F(3, 6) = {found.f:.4g}, p = {found.p:.3g}; permutation p = {found.permutation.p:.3g} (all 576"
        assert str(found).startswith(text)
        assert str(found.eta2) in str(found)
        assert "\n" not in str(found)
        row = found.row()
        assert (row["eta2"], row["omega2_low"], row["eta2_confidence"]) == (found.eta2.value, found.omega2.low, 0.9)
        assert (row["permutation_p"], row["permutation_exact"], row["why"]) == (found.permutation.p, True, None)
        undefined = blocked_anova(values[:, :1])
        assert str(undefined) == "F undefined: fewer than 2 complete seeds"
        assert undefined.row()["eta2_undefined"] == "fewer than 2 complete seeds"

    def test_sums_of_squares_add_up(self, values):
        found = blocked_anova(values)
        total = ((values - values.mean()) ** 2).sum()
        assert found.ss_arms + found.ss_seeds + found.ss_error == pytest.approx(total, rel=1e-12)

    def test_a_seed_that_shifts_every_arm_changes_nothing_about_the_arms(self, values):
        shifted = blocked_anova(values + np.array([0.0, 5.0, -3.0]))
        assert shifted.f == pytest.approx(blocked_anova(values).f, rel=1e-9)  # rounding of the larger numbers

    def test_two_arms_are_the_paired_t_test(self, values):
        found, oracle = blocked_anova(values[:2]), stats.ttest_rel(values[0], values[1])
        assert found.f == pytest.approx(oracle.statistic**2, rel=1e-9)
        assert found.p == pytest.approx(oracle.pvalue, rel=1e-9)

    def test_steigers_effect_sizes(self):
        """F(3, 35) = 45.8 with 39 values: eta2 .796984, omega2 .775087, 90% interval of eta2 [.68567, .85598]."""
        eta2, omega2 = explained_variation(45.8, 3, 35, 39, 10, None)
        assert eta2.value == pytest.approx(0.796984, abs=6e-7)
        assert omega2.value == pytest.approx(0.775087, abs=6e-7)
        assert (eta2.low, eta2.high) == pytest.approx((0.68567, 0.85598), abs=6e-6)
        assert omega2.low < omega2.value < omega2.high

    def test_omega2_uses_all_values_of_the_design(self, values):
        found = blocked_anova(values)
        assert found.omega2.value == pytest.approx(3 * (found.f - 1) / (3 * (found.f - 1) + 12), rel=1e-12)

    def test_epsilon_is_one_for_two_arms_and_within_its_bounds(self, values):
        assert greenhouse_geisser(values[:2]) == pytest.approx(1.0, abs=1e-12)
        assert 1 / 3 <= greenhouse_geisser(values) <= 1

    @pytest.mark.parametrize(
        ("array", "why"),
        [
            (np.full((3, 4), 2.3), "no variation"),
            (np.arange(3.0)[:, None] + np.arange(4.0), "the same amount at every seed"),  # arms and seeds, but no error
            (np.tile(np.arange(3.0)[:, None], (1, 4)), "no variation between seeds"),
            (np.array([[1.0], [2.0], [4.0]]), "fewer than 2 complete seeds"),
            (np.zeros((3, 0)), "fewer than 2 complete seeds"),
            (np.array([[1.0, 2.0, 4.0]]), "fewer than 2 arms"),
        ],
    )
    def test_what_is_undefined_is_none_and_says_why(self, array, why):
        found = blocked_anova(array) if len(array) > 1 else None
        fit = fit_blocks(array)
        assert fit.error_variance is None
        assert why in fit.why
        if found is not None:
            assert found.f is found.p is found.epsilon is found.permutation is found.eta2.value is None
            assert why in found.eta2.undefined

    @pytest.mark.parametrize("n_arms", [2, 4])
    def test_two_seeds_are_enough(self, values, n_arms):
        found = blocked_anova(values[:n_arms, :2])
        assert (found.df_arms, found.df_seeds, found.df_error) == (n_arms - 1, 1, n_arms - 1)
        if n_arms == 2:
            assert found.p == pytest.approx(stats.ttest_rel(*values[:2, :2]).pvalue, rel=1e-9)

    @pytest.mark.parametrize("unit", [1.0, 1e9, 1e-9])
    def test_rounding_is_not_variation(self, unit):
        values = unit * (0.1 + 0.2 * np.arange(3)[:, None] + 0.3 * np.arange(4))  # additive, but not in binary
        assert np.ptp(values - values.mean(0) - values.mean(1)[:, None]) > 0
        assert fit_blocks(values).error_variance is None

    def test_gaps_are_refused_not_skipped(self, values):
        values[1, 2] = np.nan
        assert complete_seeds(values).tolist() == [True, True, False]
        with pytest.raises(ValueError, match="every cell"):
            fit_blocks(values)


class TestPermutation:
    def test_agrees_with_scipys_exact_enumeration(self, values):
        small = values[:3]  # (3!)^3 = 216 arrangements

        def spread(*arms, axis):
            return np.var([arm.mean(axis=axis) for arm in arms], axis=0)

        oracle = stats.permutation_test(
            list(small), spread, permutation_type="samples", alternative="greater", vectorized=True, n_resamples=np.inf
        )
        found = permutation_test(small)
        assert found.exact
        assert found.n_arrangements == 36  # the first seed stays as it is: the same p from a sixth of the work
        assert found.p == pytest.approx(oracle.pvalue, abs=1e-12)

    def test_perfect_order_reaches_the_smallest_p(self):
        values = np.arange(4.0)[:, None] * 10 + np.array([0.1, 0.3, 0.2]) * np.arange(1, 5)[:, None]
        found = permutation_test(values)
        assert found.p == 1 / found.n_arrangements == 1 / 24**2

    def test_two_arms_are_the_sign_flip_test_on_their_differences(self):
        values = np.random.default_rng(2).normal([[0.0], [0.8]], 1, (2, 7))
        assert permutation_test(values) == sign_flip_test(values[1] - values[0])

    def test_arrangements_that_tie_in_exact_arithmetic_tie_here(self):
        """Decimal steps are not exact in binary; the same steps as whole numbers are. Both must count the same."""
        steps = np.array([[1, 5, 2, 7], [3, 4, 6, 9], [8, 6, 7, 5]])
        whole, decimal = permutation_test(steps.astype(float)), permutation_test(steps * 0.1 + 1e3)
        assert whole == decimal
        assert 1 / 216 < whole.p < 1

    def test_equal_sums_tie_with_every_arrangement(self):
        """Arms with the same sum are the least extreme arrangement there is, though in binary the sums differ a bit."""
        assert permutation_test(np.array([[0.1, 0.2, 0.3], [0.2, 0.3, 0.1], [0.3, 0.1, 0.2]])).p == 1.0

    def test_one_seed_shows_nothing(self):
        assert permutation_test(np.array([[1.0], [2.0], [5.0]])).p == 1.0

    def test_prints(self, values):
        assert str(permutation_test(values[:3])).endswith("(all 36 arrangements)")
        assert str(permutation_test(np.random.default_rng(3).normal(size=(8, 5)))).endswith(
            "(20,000 random arrangements)"
        )

    def test_equal_arms_give_p_one(self):
        assert permutation_test(np.tile(np.array([1.0, 2.0, 5.0]), (3, 1))).p == 1.0

    def test_many_arms_are_sampled_with_a_fixed_generator_and_p_is_never_zero(self):
        values = np.random.default_rng(3).normal(size=(8, 5)) + np.arange(8)[:, None] * 9
        first, second = permutation_test(values), permutation_test(values)
        assert first == second
        assert not first.exact
        assert first.p == pytest.approx(1 / 20_001)


class TestContrasts:
    def test_difference_is_arm_minus_control_with_the_blocked_error(self, values):
        fit = fit_blocks(values)
        found = differences(fit, control=1, alpha=0.05)
        assert [difference.arm for difference in found] == [0, 2, 3]
        error = np.sqrt(2 * fit.error_variance / 3)
        for difference in found:
            gap = values[difference.arm].mean() - values[1].mean()
            assert difference.alone.value == pytest.approx(gap, rel=1e-12)
            assert difference.t == pytest.approx(gap / error, rel=1e-12)
            assert difference.alone.high - gap == pytest.approx(t_quantile(0.975, 6) * error, rel=1e-9)
            reach = dunnett_critical(0.05, 3, 6) * error
            limits = (difference.simultaneous.low, difference.simultaneous.high)
            assert limits == pytest.approx((gap - reach, gap + reach), rel=1e-9)
            assert difference.p_adjusted == pytest.approx(1 - dunnett_cdf(abs(difference.t), 3, 6), abs=1e-12)

    def test_dunnett_p_agrees_with_scipy_where_both_apply(self):
        """Without blocks scipy's dunnett is an oracle: same statistic, pooled error, df = N - k."""
        generator = np.random.default_rng(11)
        groups = generator.normal([[0.0], [0.4], [1.5]], 1.0, (3, 6))
        oracle = stats.dunnett(groups[1], groups[2], control=groups[0], rng=np.random.default_rng(1))
        pooled = groups.var(axis=1, ddof=1).mean()
        t = (groups[1:].mean(axis=1) - groups[0].mean()) / np.sqrt(2 * pooled / 6)
        found = [1 - dunnett_cdf(abs(value), 2, 15) for value in t]
        assert found == pytest.approx(oracle.pvalue, abs=2e-4)  # scipy integrates quasi-randomly

    def test_two_arms_are_the_paired_t_interval(self, values):
        (found,) = differences(fit_blocks(values[:2]), control=0, alpha=0.10)
        oracle = stats.ttest_rel(values[1], values[0]).confidence_interval(0.90)
        assert (found.alone.low, found.alone.high) == pytest.approx((oracle.low, oracle.high), rel=1e-9)
        assert found.simultaneous.low == pytest.approx(found.alone.low, rel=1e-7)  # one comparison: no adjustment
        assert found.alone.confidence == 0.90

    def test_undefined_intervals_keep_the_difference(self):
        (found,) = differences(fit_blocks(np.array([[1.0], [3.5]])), control=0, alpha=0.05)
        assert found.alone.value == found.simultaneous.value == 2.5
        assert found.alone.low is found.simultaneous.low is found.t is found.p is found.p_adjusted is None
        assert "fewer than 2" in found.simultaneous.undefined

    def test_plain_differences_have_their_own_interval_and_no_p(self, values):
        fit = fit_blocks(values)
        for plain, tested in zip(plain_differences(fit, 1, 0.05), differences(fit, 1, 0.05), strict=True):
            assert plain.arm == tested.arm
            assert plain.shown == plain.alone == tested.alone
            assert tested.shown == tested.simultaneous != tested.alone
            assert plain.simultaneous is plain.t is plain.p is plain.p_adjusted is None

    def test_differences_print_on_one_line_and_turn_into_rows(self, values):
        fit = fit_blocks(values)
        tested, plain = differences(fit, 1, 0.05)[0], plain_differences(fit, 1, 0.05)[0]
        assert str(tested) == (
            f"arm 0: {tested.simultaneous}, p = {tested.p:.3g}, adjusted p = {tested.p_adjusted:.3g}"
        )
        assert str(plain) == f"arm 0: {plain.alone}"
        assert tested.row()["simultaneous_high"] == tested.simultaneous.high
        assert tested.row()["p_adjusted"] == tested.p_adjusted
        assert plain.row()["simultaneous"] is None

    def test_weights_that_do_not_cancel_seeds_are_refused(self, values):
        with pytest.raises(ValueError, match="sum to zero"):
            contrast(fit_blocks(values), np.array([1.0, 0, 0, 0]), 0.95)

    def test_interaction_of_two_parts_is_the_difference_of_differences(self, values):
        fit = fit_blocks(values)
        found = interaction(fit, [1, 2], control=0, full=3, direction=1, confidence=0.95)
        means = values.mean(axis=1)
        expected = (means[0] - means[3]) - (means[0] - means[1]) - (means[0] - means[2])
        assert found.value == pytest.approx(expected, rel=1e-12)
        reach = t_quantile(0.975, 6) * np.sqrt(4 * fit.error_variance / 3)  # weights -1, 1, 1, -1
        assert found.high - found.value == pytest.approx(reach, rel=1e-9)
        assert interaction(fit, [1, 2], 0, 3, -1, 0.95).value == pytest.approx(-expected, rel=1e-12)

    def test_pairwise_weights(self):
        assert pairwise(4, 2, 0).tolist() == [-1, 0, 1, 0]


class TestShares:
    def test_share_is_the_part_of_the_full_improvement(self, values):
        means = values.mean(axis=1)
        found = share(fit_blocks(values), arm=2, control=0, full=3, direction=1, confidence=0.95)
        assert found.value == pytest.approx((means[0] - means[2]) / (means[0] - means[3]), rel=1e-12)
        assert found.low < found.value < found.high

    def test_fieller_holds_just_the_ratios_compatible_with_zero(self, values):
        """The definition: r is inside when numerator - r * denominator, a contrast, has an interval that holds 0."""
        fit = fit_blocks(values)
        found = share(fit, arm=1, control=0, full=3, direction=1, confidence=0.95)
        for r, inside in [(found.low, True), (found.high, True), (found.value, True)]:
            nudge = 1e-6 * (1 if r != found.high else -1)
            assert self.compatible(fit, r + nudge) is inside
        assert not self.compatible(fit, found.low - 1e-6)
        assert not self.compatible(fit, found.high + 1e-6)

    @staticmethod
    def compatible(fit, r):
        estimate = contrast(fit, pairwise(4, 0, 1) - r * pairwise(4, 0, 3), 0.95)
        return estimate.low <= 0 <= estimate.high

    def test_higher_is_better_mirrors_lower_is_better(self, values):
        lower = share(fit_blocks(values), 1, 0, 3, direction=1, confidence=0.95)
        higher = share(fit_blocks(-values), 1, 0, 3, direction=-1, confidence=0.95)
        assert (higher.value, higher.low, higher.high) == pytest.approx((lower.value, lower.low, lower.high), rel=1e-9)

    def test_share_of_the_full_arm_is_exactly_one(self, values):
        found = share(fit_blocks(values), 3, 0, 3, direction=1, confidence=0.95)
        # The numerator is the denominator; the root of a tiny difference costs half the digits.
        assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1), abs=1e-6)

    def test_undefined_when_the_full_arm_is_worse_or_unclear(self, values):
        worse = share(fit_blocks(values), 1, 3, 0, direction=1, confidence=0.95)
        assert worse.value is worse.low is None
        assert "the full arm is clearly worse than the control" in worse.undefined
        unclear = values.copy()
        unclear[3] = unclear[0] - 0.001 + np.array([0.01, -0.01, 0.0])
        found = share(fit_blocks(unclear), 1, 0, 3, 1, 0.95).undefined
        assert "not clearly above zero (interval \N{MINUS SIGN}" in found

    def test_one_seed_has_a_share_but_no_interval(self, values):
        found = share(fit_blocks(values[:, :1]), 1, 0, 3, 1, 0.95)
        assert found.value == pytest.approx((values[0, 0] - values[1, 0]) / (values[0, 0] - values[3, 0]), rel=1e-12)
        assert found.low is None
        assert "fewer than 2" in found.undefined
        assert share(fit_blocks(values[:, :1]), 1, 3, 0, 1, 0.95).value is None  # the full arm is worse: no share
        assert share(fit_blocks(values[:, :0]), 1, 0, 3, 1, 0.95).value is None

    def test_the_bounded_case_is_just_a_denominator_clear_of_zero(self):
        t2 = t_quantile(0.975, 4) ** 2
        covariance = np.array([[1.0, 0.3], [0.3, 1.0]])
        assert fieller(1.0, np.sqrt(t2) * 1.001, covariance, 4, 0.95, 3).low is not None
        assert "not clearly different" in fieller(1.0, np.sqrt(t2) * 0.999, covariance, 4, 0.95, 3).undefined

    def test_ratio_of_means_uses_the_pairs(self):
        top, bottom = np.array([2.0, 4.2, 6.1, 7.9]), np.array([1.0, 2.0, 3.0, 4.0])
        paired = ratio_of_means(top, bottom, 0.95)
        broken = ratio_of_means(top[::-1].copy(), bottom, 0.95)
        assert paired.value == pytest.approx(20.2 / 10.0)
        assert paired.high - paired.low < 0.5
        assert broken.high is None or broken.high - broken.low > 4 * (paired.high - paired.low)

    def test_limits_of_a_ratio_are_where_the_paired_t_test_just_rejects(self):
        """Fieller's definition: r is a limit when top - r * bottom differs from zero with p = 1 - confidence."""
        top, bottom = np.array([2.0, 4.2, 6.1, 7.9]), np.array([1.5, 2.0, 2.9, 3.7])
        found = ratio_of_means(top, bottom, 0.90)
        for limit in (found.low, found.high):
            assert stats.ttest_1samp(top - limit * bottom, 0).pvalue == pytest.approx(0.10, rel=1e-9)
        assert (found.df, found.n_seeds, found.confidence, found.method) == (3, 4, 0.90, "Fieller")

    def test_two_seeds_have_a_ratio_with_its_interval(self):
        found = ratio_of_means(np.array([200.0, 204.0]), np.array([100.0, 101.0]), 0.95)
        assert found.low < 404 / 201 < found.high

    def test_ratio_undefined_cases(self):
        same = np.array([2.0, 2.0, 2.0])
        assert "no variation" in ratio_of_means(same, same / 4, 0.95).undefined
        assert ratio_of_means(same, same / 4, 0.95).value == 4.0
        assert ratio_of_means(same, 0 * same, 0.95).value is None
        one = ratio_of_means(same[:1], same[:1] / 4, 0.95)
        assert (one.value, one.low, one.undefined) == (4.0, None, "fewer than 2 complete seeds")
        assert ratio_of_means(same[:1], 0 * same[:1], 0.95).value is None
        assert ratio_of_means(same[:0], same[:0], 0.95).value is None


class TestEffectSizes:
    def test_cohens_d_of_the_cars(self):
        """R effectsize: mpg by gearbox, d = -1.48 [-2.27, -0.67], printed to two decimals."""
        mpg = np.array(MPG)
        manual = np.isin(np.arange(len(mpg)), MANUAL)
        found = cohens_d(mpg[~manual], mpg[manual], 0.95)
        assert (found.value, found.low, found.high) == pytest.approx((-1.48, -2.27, -0.67), abs=0.0051)
        assert found.df == 30

    def test_d_z_of_the_sleepers(self):
        """R effectsize: sleep, d_z = -1.28456 [-2.11802, -0.41463], printed to five decimals."""
        found = d_z(np.array(SLEEP[0]), np.array(SLEEP[1]), 0.95)
        assert (found.value, found.low, found.high) == pytest.approx((-1.28456, -2.11802, -0.41463), abs=6e-6)

    def test_signs_follow_first_minus_second(self):
        found = effect_sizes(np.array([1.0, 1.2, 1.1]), np.array([2.0, 2.3, 2.05]), 0.95)
        assert found.cohens_d.value < 0
        assert found.hedges_g.value < 0
        assert found.d_z.value < 0

    def test_bias_correction(self):
        """J(2) = .564, J(4) = .798 to three decimals; it tends to 1."""
        assert (bias_correction(2), bias_correction(4)) == pytest.approx((0.564, 0.798), abs=5e-4)
        assert bias_correction(1000) == pytest.approx(1, abs=1e-3)

    def test_hedges_g_shrinks_d_and_its_limits_alike(self):
        d = cohens_d(np.array([1.0, 1.2, 1.1]), np.array([2.0, 2.3, 2.05]), 0.95)
        g = hedges_g(d)
        assert (g.value, g.low, g.high) == pytest.approx([bias_correction(4) * x for x in (d.value, d.low, d.high)])

    def test_pooled_spread_divides_by_n_minus_one(self):
        found = cohens_d(np.array([0.0, 2.0]), np.array([10.0, 12.0]), 0.95)
        assert found.value == pytest.approx(-10 / np.sqrt(2))

    @pytest.mark.parametrize("n", [0, 1])
    def test_too_few_seeds_are_undefined(self, n):
        found = effect_sizes(np.ones(n), np.zeros(n), 0.95)
        for estimate in (found.cohens_d, found.hedges_g, found.d_z):
            assert estimate.value is estimate.low is None
            assert "fewer than 2" in estimate.undefined

    def test_zero_variance_is_undefined_never_zero_or_infinite(self):
        found = effect_sizes(np.full(3, 0.3), np.full(3, 0.1), 0.95)
        for estimate in (found.cohens_d, found.hedges_g, found.d_z):
            assert estimate.value is None
            assert "no variation" in estimate.undefined

    def test_constant_difference_leaves_d_but_not_d_z(self):
        control = np.array([0.1, 0.2, 0.7])
        found = effect_sizes(control + 0.1, control, 0.95)
        assert found.cohens_d.value is not None
        assert found.d_z.value is None
        assert "the same amount at every seed" in found.d_z.undefined

    def test_two_seeds_have_wide_but_finite_intervals(self):
        found = effect_sizes(np.array([1.0, 1.1]), np.array([2.0, 2.3]), 0.95)
        assert all(np.isfinite([e.low, e.high]).all() for e in (found.cohens_d, found.hedges_g, found.d_z))


class TestMean:
    def test_interval_is_students(self):
        row = np.array([2.0, 2.4, np.nan, 2.1])
        present = row[np.isfinite(row)]
        low, high = stats.t.interval(0.9, 2, present.mean(), stats.sem(present))
        found = mean_estimate(row, 0.9)
        assert (found.value, found.low, found.high) == pytest.approx((present.mean(), low, high), rel=1e-9)
        assert found.n_seeds == 3

    @pytest.mark.parametrize(
        ("row", "value", "why"),
        [
            ([], None, "no value"),
            ([2.5], 2.5, "fewer than 2"),
            ([2.5, 2.5], 2.5, "no variation"),
            ([3e9 * (0.1 + 0.2), 3e9 * 0.3], 9e8, "no variation"),  # rounding
        ],
    )
    def test_undefined(self, row, value, why):
        found = mean_estimate(np.array(row, dtype=float), 0.95)
        assert found.value == value
        assert found.low is None
        assert why in found.undefined


class TestCalibration:
    """Small seeded simulations on the exact design of the first plan: k = 6 arms, n = 3 seeds."""

    N = 2000
    ERROR = 3.3 * np.sqrt(0.05 * 0.95 / N)  # 3.3 Monte Carlo standard errors: a fair code fails once in a thousand

    def test_dunnett_holds_its_family_wise_error(self):
        generator = np.random.default_rng(17)
        hits = sum(self.any_rejected(generator.normal(0, 1, (6, 3))) for _ in range(self.N))
        assert hits / self.N == pytest.approx(0.05, abs=self.ERROR)

    @staticmethod
    def any_rejected(values):
        fit = fit_blocks(values + np.array([0.0, 3.0, -2.0]))
        largest = max(abs(fit.means - fit.means[0])) / np.sqrt(2 * fit.error_variance / 3)
        return largest > 2.990290179

    def test_fieller_covers_the_share(self):
        generator = np.random.default_rng(23)
        truth = np.array([0.0, -0.3, -1.0, -0.1, -0.5, -2.0])[:, None] * 4
        covered = 0
        for _ in range(self.N):
            found = share(fit_blocks(truth + generator.normal(0, 1, (6, 3))), 1, 0, 5, 1, 0.95)
            covered += found.low <= 0.15 <= found.high
        assert covered / self.N == pytest.approx(0.95, abs=self.ERROR)

    def test_intervals_of_d_cover(self):
        generator = np.random.default_rng(29)
        samples = generator.normal(0, 1, (600, 2, 3)) + np.array([1.2, 0.0])[:, None]
        covered = [(e := cohens_d(first, second, 0.95)).low <= 1.2 <= e.high for first, second in samples]
        assert np.mean(covered) == pytest.approx(0.95, abs=3.3 * np.sqrt(0.05 * 0.95 / 600))
