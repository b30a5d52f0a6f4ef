"""Holm's adjustment and planned contrasts against statsmodels and scipy, and where nothing is defined."""

import numpy as np
import pytest
from scipy import stats

from lmexp.statistics.adjust import holm, holm_differences, paired_t_holm
from lmexp.statistics.blocks import contrast, fit_blocks
from lmexp.statistics.contrasts import differences, pairwise

PLANNED = [pairwise(4, 3, 0), np.array([0.5, 0.5, -0.5, -0.5]), pairwise(4, 2, 1)]


@pytest.fixture
def values():
    """(4 arms, 5 seeds): arms and seeds that both matter, errors well above rounding."""
    generator = np.random.default_rng(5)
    return np.array([0, -0.2, 0.3, 0.6])[:, None] + generator.normal(0, 1, 5) + generator.normal(0, 0.3, (4, 5))


class TestHolm:
    @pytest.mark.parametrize("seed", range(5))
    def test_agrees_with_statsmodels(self, seed):
        from statsmodels.stats.multitest import multipletests

        p = np.random.default_rng(seed).uniform(0, 1, 7) ** 3
        p[4] = p[2]  # a tie
        assert holm(list(p)) == pytest.approx(multipletests(p, method="holm")[1], rel=1e-14)

    def test_by_hand(self):
        # Sorted .01 .02 .03 .04: times 4, 3, 2, 1 = .04 .06 .06 .04; never below a smaller p's: the last is .06.
        assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06], rel=1e-14)
        assert holm([0.9, 0.6]) == [1.0, 1.0]
        assert holm([0.03]) == [0.03]
        assert holm([]) == []
        assert holm([1.0, 0.0]) == [1.0, 0.0]  # the ends are p values too

    def test_an_undefined_test_stays_undefined_and_counts_in_the_family(self):
        assert holm([0.01, None, 0.02]) == pytest.approx([0.03, None, 0.04])
        assert holm([None]) == [None]

    @pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
    def test_what_is_no_p_value_is_refused(self, p):
        with pytest.raises(ValueError, match="is not a p value"):
            holm([0.2, p])


class TestPlannedContrasts:
    def test_each_is_a_t_test_on_the_blocked_error(self, values):
        fit = fit_blocks(values)
        found = holm_differences(fit, PLANNED, 0.10)
        for one, weights in zip(found, PLANNED, strict=True):
            assert one.weights == tuple(weights)
            assert one.alone == contrast(fit, weights, 0.90)
            error = np.sqrt(fit.error_variance * (weights @ weights) / 5)
            assert one.t == pytest.approx(weights @ values.mean(axis=1) / error, rel=1e-12)
            assert one.p == pytest.approx(2 * stats.t.sf(abs(one.t), 12), rel=1e-9)
        assert [one.p_adjusted for one in found] == holm([one.p for one in found])

    def test_intervals_are_bonferronis(self, values):
        fit = fit_blocks(values)
        for one, weights in zip(holm_differences(fit, PLANNED, 0.10), PLANNED, strict=True):
            wider = contrast(fit, weights, 1 - 0.10 / 3)
            assert (one.simultaneous.low, one.simultaneous.high) == (wider.low, wider.high)
            assert one.simultaneous.confidence == 0.90  # of all three together
            assert one.simultaneous.method == "blocked t, Bonferroni"

    def test_an_interval_without_zero_means_that_holm_rejects(self):
        generator = np.random.default_rng(2)
        excluded = only_holm = 0
        for _ in range(200):
            means = generator.normal(0, 0.5, 4)[:, None]
            for one in holm_differences(fit_blocks(means + generator.normal(0, 0.3, (4, 3))), PLANNED, 0.05):
                clear = one.simultaneous.low > 0 or one.simultaneous.high < 0
                assert one.p_adjusted < 0.05 or not clear
                excluded += clear
                only_holm += one.p_adjusted < 0.05 and not clear
        assert excluded > 0
        assert only_holm > 0  # the step-down test is the stronger of the two

    def test_undefined_keeps_the_value(self):
        (one,) = holm_differences(fit_blocks(np.array([[1.0], [3.5]])), [pairwise(2, 1, 0)], 0.05)
        assert one.alone.value == one.simultaneous.value == 2.5
        assert one.simultaneous.low is one.t is one.p is one.p_adjusted is None
        assert str(one).endswith("[undefined: fewer than 2 complete seeds] (95% blocked t, Bonferroni, n=1)")

    def test_weights_that_do_not_cancel_seeds_are_refused(self, values):
        with pytest.raises(ValueError, match="sum to zero"):
            holm_differences(fit_blocks(values), [np.array([1.0, 0, 0, 0])], 0.05)

    def test_prints_on_one_line(self, values):
        one = holm_differences(fit_blocks(values), PLANNED, 0.05)[1]
        ending = f", p = {one.p:.3g}, Holm p = {one.p_adjusted:.3g}"
        assert str(one) == f"contrast +0.5 +0.5 -0.5 -0.5: {one.simultaneous}{ending}"


class TestPairedT:
    def test_agrees_with_scipy_pair_by_pair(self, values):
        found = paired_t_holm(values, control=1, alpha=0.10)
        assert [one.arm for one in found] == [0, 2, 3]
        for one in found:
            oracle = stats.ttest_rel(values[one.arm], values[1])
            assert one.t == pytest.approx(oracle.statistic, rel=1e-9)
            assert one.p == pytest.approx(oracle.pvalue, rel=1e-9)
            for estimate, confidence in ((one.alone, 0.90), (one.simultaneous, 1 - 0.10 / 3)):
                low, high = oracle.confidence_interval(confidence)
                assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=1e-9)
                assert estimate.confidence == 0.90
                assert estimate.df == 4
        assert [one.p_adjusted for one in found] == holm([one.p for one in found])
        assert (found[0].alone.method, found[0].simultaneous.method) == ("paired t", "paired t, Bonferroni")

    def test_a_noisy_arm_spoils_its_own_comparison_only(self, values):
        """The reason for this sensitivity analysis: Dunnett's one error is shared, each pair's own is not."""
        noisy = values.copy()
        noisy[3] += np.array([4.0, -4.0, 3.0, -3.0, 0.0])
        before, after = paired_t_holm(values, 0, 0.05), paired_t_holm(noisy, 0, 0.05)
        assert [one.alone for one in before[:2]] == [one.alone for one in after[:2]]
        shared = differences(fit_blocks(values), 0, 0.05), differences(fit_blocks(noisy), 0, 0.05)
        assert shared[1][0].alone.high > shared[0][0].alone.high

    def test_a_pair_without_error_is_undefined_and_counts(self, values):
        values[2] = values[1] + 0.5
        found = paired_t_holm(values, control=1, alpha=0.05)
        assert found[1].alone.value == pytest.approx(0.5, abs=1e-12)
        assert found[1].p is found[1].p_adjusted is found[1].simultaneous.low is None
        assert "the same amount at every seed" in found[1].simultaneous.undefined
        smaller = min(found[0].p, found[2].p)
        assert min(found[0].p_adjusted, found[2].p_adjusted) == pytest.approx(3 * smaller, rel=1e-12)
