"""All pairs against statsmodels, scipy, pingouin and SPSS, and where nothing is defined."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from lmexp.statistics.all_pairs import blocked_tukey, games_howell
from lmexp.statistics.blocks import fit_blocks
from lmexp.statistics.contrasts import differences

SPSS_EXAMPLE = [[24, 23, 31, 51], [34, 18, 18, 26], [17, 68, 59, 7]]


@pytest.fixture
def values():
    """(4 arms, 3 seeds): arms and seeds that both matter, errors well above rounding."""
    generator = np.random.default_rng(5)
    return np.array([0, -0.2, 0.6, 1.1])[:, None] + generator.normal(0, 1, 3) + generator.normal(0, 0.3, (4, 3))


@pytest.fixture
def samples():
    generator = np.random.default_rng(8)
    return [generator.normal(2.0 * i, 0.5 + i, n) for i, n in enumerate((3, 8, 5, 4))]


class TestBlockedTukey:
    def test_agrees_with_least_squares_and_the_studentized_range(self, values):
        import pandas as pd
        import statsmodels.formula.api as formula

        rows = [(arm, seed, values[arm, seed]) for arm, seed in product(range(4), range(3))]
        frame = pd.DataFrame(rows, columns=["arm", "seed", "value"])
        model = formula.ols("value ~ C(arm) + C(seed)", frame).fit()
        critical = stats.studentized_range.ppf(0.95, 4, 6)
        for pair in blocked_tukey(fit_blocks(values), 0.05):
            terms = [f"C(arm)[T.{arm}]" if arm else "0" for arm in (pair.first, pair.second)]
            oracle = model.t_test(f"{terms[0]} - {terms[1]} = 0")
            # Least squares by another route, and scipy's own quadrature, each good to nine digits or more.
            assert pair.alone.value == pytest.approx(oracle.effect.item(), rel=1e-9)
            assert pair.t == pytest.approx(oracle.tvalue.item(), rel=1e-9)
            assert pair.p == pytest.approx(oracle.pvalue.item(), rel=1e-9)
            assert [pair.alone.low, pair.alone.high] == pytest.approx(oracle.conf_int(0.05).ravel(), rel=1e-9)
            tukey = stats.studentized_range.sf(np.sqrt(2) * abs(oracle.tvalue.item()), 4, 6)
            assert pair.p_adjusted == pytest.approx(tukey, abs=1e-10)
            reach = critical / np.sqrt(2) * oracle.sd.item()
            assert pair.simultaneous.high - pair.simultaneous.value == pytest.approx(reach, rel=1e-7)  # scipy's root
            assert pair.simultaneous.value - pair.simultaneous.low == pytest.approx(reach, rel=1e-7)

    def test_every_pair_once_first_minus_second(self, values):
        pairs = blocked_tukey(fit_blocks(values), 0.05)
        assert [(p.first, p.second) for p in pairs] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
        means = values.mean(axis=1)
        for pair in pairs:
            assert pair.simultaneous.value == pytest.approx(means[pair.first] - means[pair.second], rel=1e-12)

    def test_interval_and_adjusted_p_agree(self, values):
        for alpha in (0.01, 0.05, 0.3):
            for pair in blocked_tukey(fit_blocks(values), alpha):
                excluded = pair.simultaneous.low > 0 or pair.simultaneous.high < 0
                assert excluded == (pair.p_adjusted < alpha)
                assert pair.simultaneous.confidence == 1 - alpha

    def test_tukey_is_wider_than_dunnett_which_is_wider_than_one_t(self, values):
        fit = fit_blocks(values)
        tukey = {pair.second: pair for pair in blocked_tukey(fit, 0.05) if pair.first == 0}
        for dunnett in differences(fit, 0, 0.05):
            widths = [
                estimate.high - estimate.low
                for estimate in (dunnett.alone, dunnett.simultaneous, tukey[dunnett.arm].simultaneous)
            ]
            assert widths == sorted(widths)
            assert dunnett.p < dunnett.p_adjusted < tukey[dunnett.arm].p_adjusted

    def test_two_arms_are_the_paired_t_test(self, values):
        (pair,) = blocked_tukey(fit_blocks(values[[3, 1]]), 0.10)
        oracle = stats.ttest_rel(values[3], values[1])
        assert pair.t == pytest.approx(oracle.statistic, rel=1e-9)
        assert pair.p_adjusted == pytest.approx(oracle.pvalue, rel=1e-9)  # one pair: nothing to adjust
        low, high = oracle.confidence_interval(0.90)
        assert (pair.simultaneous.low, pair.simultaneous.high) == pytest.approx((low, high), rel=1e-9)

    def test_undefined_intervals_keep_the_difference(self):
        pairs = blocked_tukey(fit_blocks(np.array([[1.0], [3.5], [7.0]])), 0.05)
        assert [pair.alone.value for pair in pairs] == [pair.simultaneous.value for pair in pairs] == [-2.5, -6.0, -3.5]
        for pair in pairs:
            assert pair.simultaneous.low is pair.t is pair.p is pair.p_adjusted is None
            assert "fewer than 2" in pair.simultaneous.undefined

    def test_no_seed_has_not_even_a_difference(self):
        (pair,) = blocked_tukey(fit_blocks(np.zeros((2, 0))), 0.05)
        assert pair.alone.value is pair.simultaneous.value is None

    def test_prints_on_one_line_and_turns_into_a_row(self, values):
        pair = blocked_tukey(fit_blocks(values), 0.05)[1]
        assert str(pair) == (
            f"arm 0 - arm 2: {pair.simultaneous}, p = {pair.p:.3g}, adjusted p = {pair.p_adjusted:.3g}"
        )
        assert "95% blocked Tukey, n=3" in str(pair)
        assert pair.row()["simultaneous_low"] == pair.simultaneous.low


class TestGamesHowell:
    def test_agrees_with_spss(self):
        """SPSS prints p=.558733632, .941147751, .682983915; the last of nine digits is off by one in the third."""
        found = [pair.p_adjusted for pair in games_howell(SPSS_EXAMPLE, 0.05)]
        assert found == pytest.approx([0.558733632, 0.941147751, 0.682983915], abs=1.1e-9)

    def test_agrees_with_pingouin(self, samples):
        import pandas as pd
        import pingouin

        frame = pd.DataFrame([(i, value) for i, sample in enumerate(samples) for value in sample], columns=["g", "v"])
        oracle = pingouin.pairwise_gameshowell(frame, dv="v", between="g")
        for pair, (_, row) in zip(games_howell(samples, 0.05), oracle.iterrows(), strict=True):
            assert (pair.first, pair.second) == (row["A"], row["B"])
            assert pair.alone.value == pytest.approx(row["diff"], rel=1e-12)
            assert pair.alone.df == pytest.approx(row["df"], rel=1e-12)
            assert pair.alone.n_seeds == min(len(samples[pair.first]), len(samples[pair.second]))
            assert pair.t == pytest.approx(row["T"], rel=1e-12)
            assert pair.p_adjusted == pytest.approx(row["pval"], abs=1e-10)  # scipy's quadrature and ours

    def test_intervals_agree_with_scipy(self, samples):
        oracle = stats.tukey_hsd(*samples, equal_var=False)
        limits = oracle.confidence_interval(0.9)
        for pair in games_howell(samples, 0.10):
            i, j = pair.first, pair.second
            assert pair.p_adjusted == pytest.approx(oracle.pvalue[i, j], abs=1e-10)
            # scipy finds its critical value by a root search of about eight digits.
            assert (pair.simultaneous.low, pair.simultaneous.high) == pytest.approx(
                (limits.low[i, j], limits.high[i, j]), rel=1e-7
            )

    def test_each_pair_alone_is_welchs_t(self, samples):
        for pair in games_howell(samples, 0.10):
            oracle = stats.ttest_ind(samples[pair.first], samples[pair.second], equal_var=False)
            low, high = oracle.confidence_interval(0.90)
            assert pair.p == pytest.approx(oracle.pvalue, rel=1e-12)
            assert (pair.alone.low, pair.alone.high) == pytest.approx((low, high), rel=1e-12)
            assert pair.p_adjusted > pair.p

    def test_only_pairs_with_a_bad_sample_are_undefined(self, samples):
        found = games_howell([samples[0], [2.0], samples[1], [5.0, 5.0], []], 0.05)
        whys = {(pair.first, pair.second): pair.simultaneous.undefined for pair in found}
        assert whys[0, 2] is None
        assert [whys[pair] for pair in ((0, 1), (2, 3), (0, 4))] == [
            "a sample has fewer than 2 values",
            "a sample has no variation",
            "a sample has no value",
        ]
        single = next(pair for pair in found if (pair.first, pair.second) == (1, 3))
        assert single.alone.value == pytest.approx(-3.0, abs=1e-12)
        assert single.simultaneous.low is single.t is single.p is single.p_adjusted is None

    def test_gaps_are_refused(self, samples):
        with pytest.raises(ValueError, match="without gaps"):
            games_howell([samples[0], [1.0, np.inf]], 0.05)
