"""One-way analyses of separate samples against scipy, pingouin, R and Steiger, and where nothing is defined."""

import numpy as np
import pytest
from scipy import stats

from lmexp.statistics.one_way import alexander_govern, describe, one_way_anova, welch_anova

R_EXAMPLE = [
    [-50.42, 40.31, -18.09, 35.58, -6.8, 0.22],
    [23.44, 4.5, 15.1, 9.66],
    [11.94, 11.1, 9.87, 9.09, 3.33],
]


@pytest.fixture
def samples():
    """Four samples of four different sizes, means and spreads."""
    generator = np.random.default_rng(3)
    return [generator.normal(0.4 * i, 0.5 + i, n) for i, n in enumerate((3, 8, 5, 4))]


def steiger_samples():
    """Return samples of 10, 10, 10 and 9 values, scaled so that F(3, 35) is 45.8."""
    generator = np.random.default_rng(4)
    noise = [sample - sample.mean() for sample in (generator.normal(size=n) for n in (10, 10, 10, 9))]
    shifts = (0.0, 1.0, -0.5, 2.0)
    f = stats.f_oneway(*[sample + shift for sample, shift in zip(noise, shifts, strict=True)]).statistic
    return [sample + shift * np.sqrt(45.8 / f) for sample, shift in zip(noise, shifts, strict=True)]


class TestOneWayAnova:
    def test_agrees_with_scipy(self, samples):
        found, oracle = one_way_anova(samples), stats.f_oneway(*samples)
        # The same sums in another order: all but the last digits.
        assert found.f == pytest.approx(oracle.statistic, rel=1e-12)
        assert found.p == pytest.approx(oracle.pvalue, rel=1e-12)
        assert (found.df_between, found.df_within, found.n_groups, found.n_values) == (3, 16, 4, 20)

    def test_two_samples_are_students_t_test(self, samples):
        found, oracle = one_way_anova(samples[:2]), stats.ttest_ind(*samples[:2])
        assert found.f == pytest.approx(oracle.statistic**2, rel=1e-12)
        assert found.p == pytest.approx(oracle.pvalue, rel=1e-12)

    def test_sums_of_squares_add_up(self, samples):
        values = np.concatenate(samples)
        found = one_way_anova(samples)
        assert found.ss_between + found.ss_within == pytest.approx(((values - values.mean()) ** 2).sum(), rel=1e-13)

    def test_steigers_effect_sizes(self):
        """F(3, 35) = 45.8: eta2 .796984, omega2 .775087, 90% interval of eta2 [.68567, .85598] (Steiger 2004)."""
        found = one_way_anova(steiger_samples())
        assert found.f == pytest.approx(45.8, rel=1e-12)
        assert found.eta2.value == pytest.approx(0.796984, abs=6e-7)  # printed to six decimals
        assert found.omega2.value == pytest.approx(0.775087, abs=6e-7)
        assert (found.eta2.low, found.eta2.high) == pytest.approx((0.68567, 0.85598), abs=6e-6)  # to five
        # The limits of the noncentrality L as in eta2 = L / (L + 35), over all 39 values.
        for eta2, omega2 in ((found.eta2.low, found.omega2.low), (found.eta2.high, found.omega2.high)):
            noncentrality = 35 * eta2 / (1 - eta2)
            assert omega2 == pytest.approx(noncentrality / (noncentrality + 39), rel=1e-12)
        assert found.eta2.confidence == found.omega2.confidence == 0.90
        assert found.eta2.method == "eta2, noncentral F"  # of the whole variation: not partial
        assert found.eta2.n_seeds == 9

    def test_eta2_is_the_part_between_samples(self, samples):
        found = one_way_anova(samples)
        assert found.eta2.value == pytest.approx(found.ss_between / (found.ss_between + found.ss_within), rel=1e-13)

    def test_a_far_origin_loses_nothing(self):
        """Small integers, then the same far from zero: exact in doubles, so that F must agree to the last digits."""
        samples = [np.array([1.0, 2.0, 4.0]), np.array([2.0, 7.0, 3.0, 9.0]), np.array([5.0, 1.0])]
        far = [sample + 1e12 for sample in samples]
        assert one_way_anova(far).f == pytest.approx(one_way_anova(samples).f, rel=1e-14)

    def test_a_change_of_unit_changes_only_the_sums(self, samples):
        found, scaled = one_way_anova(samples), one_way_anova([1000 * sample for sample in samples])
        assert scaled.f == pytest.approx(found.f, rel=1e-12)
        assert scaled.ss_within == pytest.approx(1e6 * found.ss_within, rel=1e-12)

    @pytest.mark.parametrize(
        ("arrays", "why"),
        [
            ([[1.0, 1.0], [2.0, 2.0, 2.0]], "no variation within any sample"),
            ([[0.1 + 0.2, 0.3], [1.0, 1.0]], "no variation within any sample"),  # rounding is not variation
            ([[3e5 + 1e-10, 3e5], [1.0, 1.0]], "no variation within any sample"),  # of the largest values
            ([[1.0], [2.0], [4.0]], "no sample has 2 values"),
            ([[1.0, 2.0, 4.0]], "fewer than 2 samples"),
        ],
    )
    def test_what_is_undefined_is_none_and_says_why(self, arrays, why):
        found = one_way_anova(arrays)
        assert found.f is found.p is found.eta2.value is found.omega2.low is None
        assert found.why == found.eta2.undefined == why
        assert str(found) == f"F undefined: {why}"

    def test_one_degree_of_freedom_is_enough(self):
        found, oracle = one_way_anova([[1.0, 2.0], [3.0]]), stats.f_oneway([1.0, 2.0], [3.0])
        assert (found.f, found.p) == pytest.approx((oracle.statistic, oracle.pvalue), rel=1e-12)

    def test_variation_of_the_thirteenth_digit_is_variation(self):
        assert one_way_anova([[1e12, 1e12 + 0.1], [1e12 + 0.3, 1e12 + 0.2]]).f is not None

    def test_gaps_and_empty_samples_are_refused(self):
        with pytest.raises(ValueError, match=r"sample 1 .* without gaps"):
            one_way_anova([[1.0, 2.0], [1.0, np.nan]])
        with pytest.raises(ValueError, match=r"sample 0 of shape \(1, 2\)"):
            one_way_anova([[[1.0, 2.0]], [1.0, 3.0]])
        with pytest.raises(ValueError, match="a value in every sample"):
            one_way_anova([[1.0, 2.0], []])

    def test_prints_on_one_line_and_turns_into_a_row(self):
        found = one_way_anova([[1.0, 2.0, 4.0], [2.0, 7.0, 3.0, 9.0]])
        assert str(found).startswith(f"F(1, 5) = {found.f:.4g}, p = {found.p:.3g}; {found.eta2.value:.4g} [0, ")
        assert "\n" not in str(found)
        assert found.row()["eta2_high"] == found.eta2.high


class TestWelch:
    def test_agrees_with_r(self):
        """R's oneway.test prints F=.609740409019517, p=.574838941286302: all fifteen digits."""
        found = welch_anova(R_EXAMPLE)
        assert found.f == pytest.approx(0.609740409019517, abs=2e-15)
        assert found.p == pytest.approx(0.574838941286302, abs=2e-15)
        assert (found.n_groups, found.n_values, found.df1) == (3, 15, 2)

    def test_agrees_with_pingouin(self, samples):
        import pandas as pd
        import pingouin

        frame = pd.DataFrame([(i, value) for i, sample in enumerate(samples) for value in sample], columns=["g", "v"])
        oracle, found = pingouin.welch_anova(frame, dv="v", between="g").iloc[0], welch_anova(samples)
        assert found.f == pytest.approx(oracle["F"], rel=1e-12)
        assert found.df2 == pytest.approx(oracle["ddof2"], rel=1e-12)
        assert found.p == pytest.approx(oracle.filter(regex="^p[_-]unc").item(), rel=1e-12)

    def test_two_samples_are_welchs_t_test(self, samples):
        found, oracle = welch_anova(samples[1:3]), stats.ttest_ind(*samples[1:3], equal_var=False)
        assert found.f == pytest.approx(oracle.statistic**2, rel=1e-12)
        assert found.df2 == pytest.approx(oracle.df, rel=1e-12)
        assert found.p == pytest.approx(oracle.pvalue, rel=1e-12)

    def test_a_far_origin_loses_nothing(self):
        samples = [np.array([1.0, 2.0, 4.0]), np.array([2.0, 7.0, 3.0, 9.0]), np.array([5.0, 1.0])]
        far = [sample + 1e12 for sample in samples]
        assert welch_anova(far).f == pytest.approx(welch_anova(samples).f, rel=1e-14)
        assert alexander_govern(far).statistic == pytest.approx(alexander_govern(samples).statistic, rel=1e-14)

    def test_prints(self):
        assert str(welch_anova(R_EXAMPLE)) == "F(2, 5.83) = 0.6097, p = 0.575"


class TestAlexanderGovern:
    def test_agrees_with_scipy(self, samples):
        found, oracle = alexander_govern(samples), stats.alexandergovern(*samples)
        assert found.statistic == pytest.approx(oracle.statistic, rel=1e-12)
        assert found.p == pytest.approx(oracle.pvalue, rel=1e-12)
        assert (found.df, found.n_groups) == (3, 4)
        assert str(found) == f"A(3) = {oracle.statistic:.4g}, p = {oracle.pvalue:.3g}"

    def test_agrees_with_scipy_where_the_means_differ(self, samples):
        apart = [sample + 4 * i for i, sample in enumerate(samples)]  # all terms of the approximation count
        found, oracle = alexander_govern(apart), stats.alexandergovern(*apart)
        assert found.statistic == pytest.approx(oracle.statistic, rel=1e-12)
        assert found.p < 0.05


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ([[1.0, 2.0], [3.0, 3.0, 3.0]], "a sample has no variation"),
        ([[1.0, 2.0], [3.0]], "a sample has fewer than 2 values"),
        ([[1.0, 2.0], []], "a sample has no value"),
        ([[1.0, 2.0]], "fewer than 2 samples"),
        ([], "fewer than 2 samples"),
    ],
)
def test_separate_variances_need_variation_in_every_sample(arrays, why):
    welch, check = welch_anova(arrays), alexander_govern(arrays)
    assert welch.f is welch.df2 is welch.p is check.statistic is check.p is None
    assert welch.why == check.why == why
    assert welch.n_groups == check.n_groups == len(arrays)
    assert welch.n_values == sum(map(len, arrays))
    assert welch.df1 == check.df == len(arrays) - 1
    assert why in str(welch)
    assert why in str(check)


def test_description_is_of_the_mean():
    one, other = describe([[1.0, 2.0, 6.0], [11.0, 12.0]])
    assert (one.n, other.n) == (3, 2)
    assert other.mean - one.mean == pytest.approx(8.5, abs=1e-14)
    assert one.squared_error == pytest.approx(7.0 / 3, rel=1e-14)  # variance 7, three values


def test_a_sample_without_spread_still_has_a_mean():
    one, single, constant, none = describe([[1.0, 2.0, 6.0], [4.0], [5.0, 5.0], []])
    assert [sample.n for sample in (one, single, constant, none)] == [3, 1, 2, 0]
    assert (single.mean - one.mean, constant.mean - one.mean) == pytest.approx((1.0, 2.0), abs=1e-14)
    assert single.squared_error is constant.squared_error is none.mean is None
