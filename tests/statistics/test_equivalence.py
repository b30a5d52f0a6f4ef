"""TOST against pingouin and statsmodels, its size by simulation, and the outcomes that are neither yes nor no."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from lmexp.statistics.blocks import contrast, fit_blocks
from lmexp.statistics.contrasts import pairwise
from lmexp.statistics.equivalence import tost, tost_contrast, tost_paired
from lmexp.statistics.estimates import NO_ERROR, NO_SPREAD, TOO_FEW
from lmexp.statistics.power import tost_least_margin


@pytest.fixture
def pair():
    """(5 seeds) twice: seed effects ten times the error, a difference of about 0.3."""
    generator = np.random.default_rng(3)
    seeds = generator.normal(0, 10, 5)
    return seeds + generator.normal(0.3, 1, 5), seeds + generator.normal(0, 1, 5)


@pytest.fixture
def fit():
    """(4 arms, 3 seeds)."""
    generator = np.random.default_rng(4)
    return fit_blocks(np.array([0, 0.1, 2, 5])[:, None] + generator.normal(0, 4, 3) + generator.normal(0, 0.3, (4, 3)))


class TestOracles:
    @pytest.mark.parametrize("margin", [0.2, 1.0, 4.0])
    def test_statsmodels(self, pair, margin):
        found, oracle = tost_paired(*pair, margin, 0.05), ttost_paired(*pair, -margin, margin)
        # The same t, by the same function of SciPy: all but the last digits.
        assert found.p == pytest.approx(oracle[0], rel=1e-9)
        assert (found.p_lower, found.p_upper) == pytest.approx((oracle[1][1], oracle[2][1]), rel=1e-9)
        assert found.df == oracle[1][2] == 4

    @pytest.mark.parametrize("margin", [0.2, 1.0, 4.0])
    def test_pingouin(self, pair, margin):
        import pingouin

        oracle = pingouin.tost(*pair, bound=margin, paired=True).iloc[0]
        p_column = next(name for name in oracle.index if name.startswith("p"))  # its name varies between versions
        assert tost_paired(*pair, margin, 0.05).p == pytest.approx(oracle[p_column], rel=1e-9)

    def test_beyond_is_the_larger_of_two_one_sided_t_tests(self, pair):
        found, paired = tost_paired(*pair, 0.1, 0.05), pair[0] - pair[1]
        above = stats.ttest_1samp(paired, 0.1, alternative="greater").pvalue
        below = stats.ttest_1samp(paired, -0.1, alternative="less").pvalue
        assert found.p_beyond == pytest.approx(min(1, 2 * min(above, below)), rel=1e-9)


class TestContrast:
    def test_has_the_interval_of_the_contrast_at_one_minus_two_alpha(self, fit):
        weights = pairwise(4, 1, 0)
        found, interval = tost_contrast(fit, weights, 1.0, 0.04), contrast(fit, weights, 0.92)
        assert (found.value, found.low, found.high) == pytest.approx((interval.value, interval.low, interval.high))
        assert found.confidence == pytest.approx(0.92)
        assert (found.df, found.n_seeds) == (6, 3)

    def test_two_arms_in_blocks_are_a_pair(self, pair):
        blocked = tost_contrast(fit_blocks(np.stack(pair)), np.array([1.0, -1.0]), 0.7, 0.05)
        paired = tost_paired(*pair, 0.7, 0.05)
        assert (blocked.p_lower, blocked.p_upper) == pytest.approx((paired.p_lower, paired.p_upper), rel=1e-9)

    def test_tells_equal_from_unequal_arms(self, fit):
        assert tost_contrast(fit, pairwise(4, 1, 0), 1.5, 0.05).outcome == "equivalent"
        assert tost_contrast(fit, pairwise(4, 3, 0), 1.5, 0.05).outcome == "different"
        assert tost_contrast(fit, pairwise(4, 0, 3), 1.5, 0.05).outcome == "different"
        assert tost_contrast(fit, pairwise(4, 2, 0), 1.9, 0.05).outcome == "undecided"

    def test_weights_must_cancel_seeds(self, fit):
        with pytest.raises(ValueError, match="sum to zero"):
            tost_contrast(fit, np.array([1.0, 0, 0, 0]), 1.0, 0.05)


class TestLaws:
    def test_the_interval_lies_within_the_margins_just_when_the_claim_holds(self):
        for difference in np.linspace(-2, 2, 41):
            found = tost(difference, 0.3, 4, 1.0, 0.05, 3)
            assert (found.outcome == "equivalent") == (found.low > -1.0 and found.high < 1.0)

    def test_beyond_the_margin_means_the_two_sided_interval_is(self):
        for difference in np.linspace(-3, 3, 61):
            reach = stats.t.ppf(0.975, 4) * 0.3
            outside = difference - reach > 1.0 or difference + reach < -1.0
            assert (tost(difference, 0.3, 4, 1.0, 0.05, 3).outcome == "different") == outside

    def test_swapping_the_arms_swaps_the_sides(self, pair):
        found, swapped = tost_paired(*pair, 1.0, 0.05), tost_paired(*pair[::-1], 1.0, 0.05)
        assert (found.p_lower, found.low) == pytest.approx((swapped.p_upper, -swapped.high))
        assert (found.p, found.p_beyond) == pytest.approx((swapped.p, swapped.p_beyond))

    def test_the_unit_does_not_matter(self, pair):
        found, scaled = tost_paired(*pair, 0.6, 0.05), tost_paired(1000 * pair[0], 1000 * pair[1], 600, 0.05)
        assert (found.p, found.p_beyond) == pytest.approx((scaled.p, scaled.p_beyond))

    def test_equal_to_alpha_is_enough(self):
        p = tost(0.4, 0.3, 4, 1.0, 0.05, 3).p
        assert tost(0.4, 0.3, 4, 1.0, p, 3).outcome == "equivalent"
        assert tost(0.4, 0.3, 4, 1.0, p * (1 - 1e-9), 3).outcome == "undecided"
        p = tost(1.9, 0.3, 4, 1.0, 0.05, 3).p_beyond
        assert tost(1.9, 0.3, 4, 1.0, p, 3).outcome == "different"
        assert tost(1.9, 0.3, 4, 1.0, p * (1 - 1e-9), 3).outcome == "undecided"

    def test_three_equal_pairs_need_a_margin_of_1_69_deviations(self):
        pairs = np.array([-1.0, 0.0, 1.0]) + 5, np.full(3, 5.0)  # mean difference 0, deviation 1
        least = tost_least_margin(1 / np.sqrt(3), 2, 0.05)
        assert tost_paired(*pairs, least * 1.001, 0.05).outcome == "equivalent"
        assert tost_paired(*pairs, least * 0.999, 0.05).outcome == "undecided"

    def test_in_the_middle_nothing_speaks_for_beyond(self):
        assert tost(0.0, 0.3, 4, 1.0, 0.05, 3).p_beyond == 1

    def test_a_small_but_certain_difference_is_equivalent(self):
        found = tost(0.2, 0.01, 10, 1.0, 0.05, 3)
        assert found.low > 0
        assert found.outcome == "equivalent"


def test_errors_hold_alpha_at_the_margin():
    """20,000 draws at n = 3 (paired): a claim that is wrong is made at most as often as alpha says."""
    differences = np.random.default_rng(6).normal(0, 1, (20_000, 3))
    errors = differences.std(axis=1, ddof=1) / np.sqrt(3)

    def rate(outcome, truth, margin):
        means = differences.mean(axis=1) + truth
        return np.mean([tost(m, e, 2, margin, 0.05, 3).outcome == outcome for m, e in zip(means, errors, strict=True)])

    above = 0.05 + 4 * np.sqrt(0.05 * 0.95 / 20_000)  # four Monte Carlo standard errors
    below = 0.05 - 4 * np.sqrt(0.05 * 0.95 / 20_000)
    assert below < rate("equivalent", 30.0, 30.0) < above  # wide margins: of size alpha
    assert rate("equivalent", 1.0, 1.0) < above
    assert below < rate("different", 1e-9, 1e-9) < above  # margins of nothing: the two-sided t test
    assert rate("different", 1.0, 1.0) < above


class TestUndefined:
    def test_one_seed(self):
        found = tost_paired(np.array([2.0]), np.array([1.5]), 1.0, 0.05)
        assert (found.outcome, found.undefined, found.value) == ("undefined", TOO_FEW, 0.5)
        assert (found.p, found.p_beyond, found.low, found.p_lower) == (None, None, None, None)
        assert (found.margin, found.alpha, found.df, found.n_seeds) == (1.0, 0.05, 0, 1)
        assert found.confidence == pytest.approx(0.9)
        assert tost_paired(np.array([2.0, 3.0]), np.array([1.5, 2.6]), 1.0, 0.05).p is not None  # two are enough
        assert tost_paired(np.array([]), np.array([]), 1.0, 0.05).value is None

    def test_no_variation_is_no_proof_of_equality(self):
        same = np.full(3, 2.5)
        found = tost_paired(same, same, 1.0, 0.05)
        assert found.undefined == NO_SPREAD
        assert (found.margin, found.alpha, found.df, found.n_seeds) == (1.0, 0.05, 2, 3)
        large = np.array([1e6, 3e6, 2e6])  # where rounding is as large as other metrics' differences
        assert tost_paired(large * 1.1, large * 1.1 - 0.3, 1.0, 0.05).undefined == NO_ERROR
        moving = np.array([1.0, 4.0, 2.0])
        assert tost_paired(moving + 0.1, moving, 1.0, 0.05).undefined == NO_ERROR
        found = tost_contrast(fit_blocks(np.stack([moving + 0.1, moving])), np.array([1.0, -1.0]), 1.0, 0.05)
        assert (found.outcome, found.undefined, found.p) == ("undefined", NO_ERROR, None)
        assert (found.margin, found.alpha, found.df, found.n_seeds) == (1.0, 0.05, 2, 3)
        assert found.value == pytest.approx(0.1)
        assert tost_contrast(fit_blocks(np.empty((2, 0))), np.array([1.0, -1.0]), 1.0, 0.05).value is None

    @pytest.mark.parametrize(
        ("margin", "alpha"), [(0.0, 0.05), (-1, 0.05), (np.nan, 0.05), (np.inf, 0.05), (1, 0.5), (1, 0)]
    )
    def test_a_margin_or_level_that_is_none(self, pair, fit, margin, alpha):
        for test in (
            lambda: tost(0.1, 0.3, 4, margin, alpha, 3),
            lambda: tost_paired(*pair, margin, alpha),
            lambda: tost_contrast(fit, pairwise(4, 1, 0), margin, alpha),
        ):
            with pytest.raises(ValueError, match="margin above 0"):
                test()

    def test_one_degree_of_freedom_is_enough(self):
        assert tost(0.0, 0.5, 1, 4.0, 0.05, 2).p == pytest.approx(stats.t.sf(8, 1), rel=1e-9)

    def test_errors_and_series_that_are_none(self):
        for error, df in ((0.0, 4), (0.3, 0), (np.nan, 4)):
            with pytest.raises(ValueError, match="above 0"):
                tost(0.1, error, df, 1.0, 0.05, 3)
        for first, second in (([1.0, 2], [1.0, 2, 3]), ([1.0, np.nan], [1.0, 2])):
            with pytest.raises(ValueError, match="without gaps"):
                tost_paired(np.array(first), np.array(second), 1.0, 0.05)


def test_prints_and_becomes_a_row(pair):
    found = tost(0.1, 0.2, 10, 1.0, 0.05, 3)
    assert str(found) == "equivalent at margin ±1: 0.1 [-0.2625, 0.4625] (90% t, p=0.000572, n=3)"
    assert pd.DataFrame([vars(found)]).loc[0, "outcome"] == "equivalent"
    nothing = tost_paired(np.ones(3), np.ones(3), 1.0, 0.05)
    assert str(nothing) == "undefined at margin ±1: 0 [undefined: no variation between seeds]"
