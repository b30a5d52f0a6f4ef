"""Timing: series whose warm-up, correlation and truth are known, and those of which nothing can be said."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.signal import lfilter

from lmexp.statistics.estimates import NO_ERROR, NO_SPREAD
from lmexp.statistics.timing import (
    CONSTANT,
    NO_STEADY_STATE,
    RULES,
    TOO_SHORT,
    effective_size,
    launch,
    launch_medians,
    ratio_of_launches,
    warm_up_cut,
    windows,
)


def correlated(n, rho, generator):
    """An AR(1) series of variance 1, long after its start: (n,)."""
    return lfilter([1], [1, -rho], generator.normal(size=n + 500))[500:] * np.sqrt(1 - rho**2)


def steady(n, seed, rho=0.0):
    """Seconds per step about 0.2 with a spread of 5%: (n,)."""
    return 0.2 * (1 + 0.05 * correlated(n, rho, np.random.default_rng(seed)))


class TestWindows:
    def test_are_what_lies_between_log_points(self):
        times, steps = windows(np.array([10, 14, 20]), np.array([5.0, 7.0, 8.5]))
        assert times.tolist() == [0.5, 0.25]
        assert steps.tolist() == [4, 6]
        assert windows(np.array([1, 2]), np.array([0.25, 0.75]))[0].tolist() == [0.5]

    @pytest.mark.parametrize(
        ("step", "seconds"),
        [([1, 2, 2], [1.0, 2, 3]), ([1, 2, 3], [1.0, 2, 2]), ([1, 2, 3], [1.0, np.nan, 3]), ([1, 2, 3], [1.0, 2])],
    )
    def test_must_rise(self, step, seconds):
        with pytest.raises(ValueError, match="must rise"):
            windows(np.array(step), np.array(seconds))


def mser_by_definition(values, steps):
    """The cut of MSER-5 from its definition, batch by batch."""
    starts = range(0, len(values) // 5 * 5, 5)
    means = np.array([np.average(values[i : i + 5], weights=steps[i : i + 5]) for i in starts])
    weight = np.array([steps[i : i + 5].sum() for i in starts])
    scores = []
    for cut in range(len(means) - 4):
        kept, w = means[cut:], weight[cut:]
        scores.append(np.average((kept - np.average(kept, weights=w)) ** 2, weights=w) / w.sum())
    cut = int(np.argmin(scores))
    return None if cut >= len(means) / 2 else 5 * cut


def changes_by_trying(values):
    """The cut of the change-point rule from its definition: every way to place up to two changes, one by one."""
    medians = np.median(values.reshape(-1, 5), axis=1)
    n, jumps = len(medians), np.abs(np.diff(medians))
    penalty = 4 * np.log(n) * (np.median(jumps) / stats.norm.ppf(0.75)) ** 2 / 2
    ways = [(), *((a,) for a in range(3, n - 2)), *((a, b) for a in range(3, n - 5) for b in range(a + 3, n - 2))]
    costs = [sum(part.var() * len(part) for part in np.split(medians, way)) + penalty * len(way) for way in ways]
    return 5 * max(ways[int(np.argmin(costs))], default=0)


class TestCut:
    def test_mser_is_its_definition(self):
        cuts = []
        for seed in range(40):
            generator = np.random.default_rng(seed)
            values = steady(103, seed, rho=0.3) + 0.1 * np.exp(-np.arange(103) / 12)
            steps = generator.integers(1, 9, 103)
            cuts.append(warm_up_cut(values, "mser5", steps).n_cut)
            assert cuts[-1] == mser_by_definition(values, steps)
        assert len(set(cuts)) > 5  # or the comparison would be of nothing

    def test_change_point_is_its_definition(self):
        cuts = []
        for seed in range(30):
            values = steady(75, seed) + 0.02 * (np.arange(75) < 15) + 0.02 * (np.arange(75) < 5 * (seed % 7))
            cuts.append(warm_up_cut(values, "change_point").n_cut)
            expected = changes_by_trying(values)
            assert cuts[-1] == (expected if 2 * expected < 75 else None)
        assert len(set(cuts)) > 3

    @pytest.mark.parametrize("rule", RULES)
    def test_cuts_a_warm_up_ramp_and_little_more(self, rule):
        """40 of 200 windows fall from three times the time to the steady one."""
        ramp = 0.2 * 2 * np.clip(1 - np.arange(200) / 40, 0, None)
        for seed in range(5):
            cut = warm_up_cut(steady(200, seed) + ramp, rule)
            # The last windows of the ramp are within the noise, and batches have five: no rule can tell them apart.
            assert 30 <= cut.n_cut <= 70

    def test_a_step_between_batches_is_found_exactly(self):
        values = steady(120, 3) + 0.1 * (np.arange(120) < 35)
        assert warm_up_cut(values, "change_point").n_cut == 35

    @pytest.mark.parametrize("rule", RULES)
    def test_a_constant_series_needs_no_cut(self, rule):
        assert warm_up_cut(np.full(60, 0.3), rule).n_cut == 0
        assert warm_up_cut(np.r_[np.linspace(9, 1, 15), np.full(60, 0.3)], rule).n_cut == 15
        steps = np.random.default_rng(0).integers(1, 9, 95)
        for scale in (0.1e-6, 0.7e6):  # rounding grows with the values
            assert warm_up_cut(np.full(95, scale), rule, steps).n_cut == 0

    @pytest.mark.parametrize("n_slow", [5, 10])
    def test_a_level_lasts_three_batches_or_more(self, n_slow):
        values = steady(100, 23) + 0.3 * (np.arange(100) < n_slow)
        assert warm_up_cut(values, "change_point").n_cut == 15

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("n", [50, 100, 203])
    def test_a_drift_that_never_settles_has_no_steady_state(self, rule, n):
        for drift in (np.linspace(1, 4, n), np.linspace(4, 1, n)):
            cut = warm_up_cut(steady(n, 4) * drift, rule)
            assert (cut.n_cut, cut.undefined) == (None, NO_STEADY_STATE)

    @pytest.mark.parametrize("rule", RULES)
    def test_a_late_change_has_no_steady_state(self, rule):
        values = steady(100, 5) + 0.1 * (np.arange(100) > 65)
        assert warm_up_cut(values, rule).undefined == NO_STEADY_STATE

    def test_a_change_at_the_middle_leaves_too_little(self):
        values = steady(100, 6)
        assert warm_up_cut(values + 0.1 * (np.arange(100) < 50), "change_point").n_cut is None
        assert warm_up_cut(values + 0.1 * (np.arange(100) < 45), "change_point").n_cut == 45

    @pytest.mark.parametrize("rule", RULES)
    def test_too_short_a_series(self, rule):
        assert warm_up_cut(steady(49, 0), rule).undefined == TOO_SHORT
        assert warm_up_cut(steady(50, 0), rule).undefined != TOO_SHORT
        assert warm_up_cut(np.array([]), rule).undefined == TOO_SHORT

    def test_single_slow_windows_are_no_change_of_level(self):
        values = steady(150, 7)
        values[[20, 71, 110, 140]] *= 20
        assert warm_up_cut(values, "change_point").n_cut == 0

    @pytest.mark.parametrize("rule", RULES)
    def test_the_units_do_not_matter(self, rule):
        values = steady(100, 9) + 0.1 * np.exp(-np.arange(100) / 8)
        steps = np.random.default_rng(8).integers(1, 9, 100)
        cut = warm_up_cut(values, rule, steps)
        assert cut.n_cut > 0
        assert warm_up_cut(1000 * values, rule, 7 * steps).n_cut == cut.n_cut

    @pytest.mark.parametrize(("rule", "rho", "at_most"), [("change_point", 0.0, 0.06), ("change_point", 0.5, 0.09)])
    def test_steady_series_pass_as_often_as_the_docstring_says(self, rule, rho, at_most):
        found = [warm_up_cut(steady(100, seed, rho), rule).n_cut is None for seed in range(400)]
        # The rates on record, 3% and 5%, and three Monte Carlo standard errors (about 0.01 each).
        assert np.mean(found) < at_most

    def test_mser_fails_in_a_seventh_of_steady_series(self):
        found = [warm_up_cut(steady(100, seed), "mser5").n_cut is None for seed in range(400)]
        assert np.mean(found) == pytest.approx(0.14, abs=0.055)  # three standard errors of 400

    def test_refuses_what_is_no_series(self):
        for values in (np.r_[steady(60, 0), np.nan], np.r_[steady(60, 0), 0.0], np.r_[steady(60, 0), -1.0]):
            with pytest.raises(ValueError, match="finite and above 0"):
                warm_up_cut(values, "mser5")
        with pytest.raises(ValueError, match="finite and above 0"):
            warm_up_cut(steady(60, 0), "mser5", np.zeros(60))
        with pytest.raises(ValueError, match="as many step counts"):
            warm_up_cut(steady(60, 0), "mser5", np.ones(59))
        with pytest.raises(ValueError, match="not 'mser'"):
            warm_up_cut(steady(60, 0), "mser")

    def test_prints(self):
        values = np.r_[np.full(15, 0.9), np.full(60, 0.3)]
        assert str(warm_up_cut(values, "mser5")) == "mser5: first 15 cut, of 75 windows"
        assert str(warm_up_cut(values[:9], "mser5")) == "mser5: no cut (fewer than 50 windows), of 9 windows"


class TestEffectiveSize:
    @pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.8])
    def test_of_an_autoregressive_series(self, rho):
        """n (1 - rho) / (1 + rho), on average over 200 series of 2,000."""
        generator = np.random.default_rng(11)
        found = np.array([effective_size(correlated(2_000, rho, generator)) for _ in range(200)])
        expected = 2_000 * (1 - rho) / (1 + rho)
        # The rule where the sum ends has a bias of a few percent itself (capped at n, it is -5% without correlation);
        # the Monte Carlo error of the mean is 1%.
        assert found.mean() == pytest.approx(expected, rel=0.08)

    def test_by_hand(self):
        values = np.array([1.0, 2.0, 4.0, 3.0, 5.0, 6.0, 8.0, 7.0, 2.0])
        centred = values - values.mean()
        rho = [centred[: 9 - lag] @ centred[lag:] / (centred @ centred) for lag in range(9)]
        assert rho[0] + rho[1] > 0 > rho[4] + rho[5]
        positive = rho[2] + rho[3] if rho[2] + rho[3] > 0 else 0
        expected = 9 / (1 + 2 * (rho[1] + positive))
        assert effective_size(values) == pytest.approx(expected, rel=1e-9)

    def test_is_at_most_n(self):
        assert effective_size(np.tile([1.0, 2.0], 30)) == 60
        assert effective_size(np.array([1.0, 2.0])) == 2

    def test_a_series_that_repeats_every_value_is_worth_half(self):
        values = np.random.default_rng(12).normal(size=4_000)
        # Each of the two has an error of about 4% of its own; the average over the two lengths is what is compared.
        assert effective_size(np.repeat(values, 2)) / effective_size(values) == pytest.approx(1.0, abs=0.12)

    def test_a_slow_and_short_series_looks_better_than_it_is(self):
        generator = np.random.default_rng(13)
        found = np.mean([effective_size(correlated(200, 0.9, generator)) for _ in range(300)])
        assert found / (200 * 0.1 / 1.9) == pytest.approx(1.45, abs=0.12)  # four Monte Carlo standard errors

    @pytest.mark.parametrize("values", [[], [1.0], [0.3] * 20, [0.1 + 0.2, 0.3]])
    def test_without_variation_it_is_undefined(self, values):
        assert effective_size(np.array(values)) is None


class TestLaunch:
    def test_is_the_median_after_the_cut(self):
        values = steady(120, 3) + 0.1 * (np.arange(120) < 35)
        found = launch(values, "change_point", 0.95)
        assert (found.n_cut, found.n_windows) == (35, 120)
        assert found.median == np.median(values[35:])
        assert found.low < found.median < found.high
        assert found.undefined is None

    def test_windows_count_by_their_steps(self):
        """A tenth of the windows, slow ones, hold most of the steps: the median step is slow."""
        values = np.where(np.arange(100) % 10 == 4, 0.5, 0.2) * steady(100, 9) / 0.2
        steps = np.where(np.arange(100) % 10 == 4, 90, 1)
        assert launch(values, "change_point", 0.95).median == pytest.approx(0.2, rel=0.05)
        weighted = launch(values, "change_point", 0.95, steps)
        assert weighted.median == pytest.approx(0.5, rel=0.1)
        kish = (10 * 90 + 90) ** 2 / (10 * 90**2 + 90)
        assert weighted.n_effective <= kish + 1e-9

    @pytest.mark.parametrize(("n", "confidence"), [(80, 0.9), (81, 0.99)])
    def test_interval_is_its_definition(self, n, confidence):
        values, steps = steady(n, 19, rho=0.3), np.random.default_rng(19).integers(1, 9, n)
        found = launch(values, "change_point", confidence, steps)
        assert found.n_cut == 0
        order = np.argsort(values)
        places = (np.cumsum(steps[order]) - steps[order] / 2) / steps.sum()
        median = np.interp(0.5, places, values[order])
        worth = min(effective_size(values), effective_size((values > median).astype(float)))
        worth *= steps.sum() ** 2 / (steps @ steps) / n
        reach = stats.norm.ppf((1 + confidence) / 2) / 2 / np.sqrt(worth)
        ends = np.interp([0.5 - reach, 0.5 + reach], places, values[order])
        assert (found.n_effective, found.median) == pytest.approx((worth, median), rel=1e-9)
        assert (found.low, found.high) == pytest.approx(tuple(ends), rel=1e-9)

    def test_equal_steps_are_no_steps(self):
        values = steady(99, 10)
        assert launch(values, "mser5", 0.9, np.full(99, 7)) == launch(values, "mser5", 0.9)

    @pytest.mark.parametrize("rho", [0.0, 0.5])
    def test_interval_covers(self, rho):
        found = [launch(steady(200, seed, rho), "change_point", 0.9) for seed in range(400)]
        covers = [each.low < 0.2 < each.high for each in found if each.low is not None]
        assert len(covers) > 370
        # Never short beyond three Monte Carlo standard errors; a little long, since the smaller effective size counts.
        assert 0.9 - 3 * np.sqrt(0.09 / 400) < np.mean(covers) < 0.97

    def test_interval_of_independent_windows_is_that_of_the_sign_test(self):
        values = steady(1_000, 14)
        found = launch(values, "change_point", 0.95)
        reach = int(stats.binom.ppf(0.975, round(found.n_effective), 0.5) - found.n_effective / 2)
        share = reach / found.n_effective
        ends = np.quantile(values, [0.5 - share, 0.5 + share])
        # Ranks are whole numbers there and not here: one rank of a thousand at each end is about 0.1% of the value.
        assert (found.low, found.high) == pytest.approx(tuple(ends), rel=1e-3)

    def test_slow_outliers_do_not_hide_correlation(self):
        values = steady(400, 15, rho=0.7)
        values[::40] *= 30
        assert effective_size(values) > 300
        assert launch(values, "change_point", 0.95).n_effective < 150

    def test_a_wider_confidence_is_a_wider_interval(self):
        values = steady(80, 16)
        inner, outer = launch(values, "change_point", 0.8), launch(values, "change_point", 0.99)
        assert outer.low < inner.low < inner.median == outer.median < inner.high < outer.high

    @pytest.mark.parametrize("rule", RULES)
    def test_no_steady_state_makes_it_undefined(self, rule):
        found = launch(steady(100, 4) * np.linspace(1, 4, 100), rule, 0.95)
        assert (found.median, found.low, found.n_cut, found.undefined) == (None, None, None, NO_STEADY_STATE)
        assert str(found) == f"undefined: no steady state ({rule}, 100 windows)"
        assert launch(steady(20, 4), rule, 0.95).undefined == TOO_SHORT

    def test_a_constant_series_has_a_median_and_no_interval(self):
        found = launch(np.full(60, 0.3), "mser5", 0.95)
        assert (found.median, found.low, found.n_effective, found.undefined) == (0.3, None, None, CONSTANT)
        assert str(found) == "0.3 s/step [undefined: no variation between windows] (95%, 60 of 60 windows)"

    def test_too_few_independent_windows_have_no_interval(self):
        """Two levels in turn, so slow that 60 windows are worth about five."""
        values = 0.2 + 0.01 * np.sin(np.arange(60) * 2 * np.pi / 55)
        values[-25:] = values[10:35]
        found = launch(values, "mser5", 0.999)
        assert found.median is not None
        assert found.low is None
        assert found.undefined.startswith("windows worth only ")

    def test_an_interval_needs_values_on_both_sides(self):
        """All of w independent values lie on one side of the median with probability 1 / 2^(w-1)."""
        values = steady(60, 24, rho=0.6)
        worth = launch(values, "change_point", 0.5).n_effective
        assert launch(values, "change_point", 1 - 0.5 ** (worth - 1.01)).low == values.min()
        assert launch(values, "change_point", 1 - 0.5 ** (worth - 1.01)).high == values.max()
        assert launch(values, "change_point", 1 - 0.5 ** (worth - 0.99)).low is None

    def test_prints_and_becomes_a_row(self):
        values = np.r_[np.full(15, 0.9), steady(85, 17)]
        found = launch(values, "change_point", 0.95)
        assert str(found).startswith(f"{found.median:.4g} s/step [{found.low:.4g}, {found.high:.4g}] (95%, 85 of 100")
        assert pd.DataFrame([vars(found)]).loc[0, "n_cut"] == 15


class TestRatio:
    TOP, BOTTOM = np.array([0.30, 0.36, 0.33, 0.42]), np.array([0.20, 0.21, 0.24, 0.25])

    def test_is_the_paired_t_of_logs(self):
        found = ratio_of_launches(self.TOP, self.BOTTOM, 0.9)
        oracle = stats.ttest_rel(np.log(self.TOP), np.log(self.BOTTOM)).confidence_interval(0.9)
        assert (found.low, found.high) == pytest.approx((np.exp(oracle.low), np.exp(oracle.high)), rel=1e-12)
        assert found.value == pytest.approx(stats.gmean(self.TOP) / stats.gmean(self.BOTTOM), rel=1e-12)
        assert (found.method, found.n_seeds, found.df, found.confidence) == ("paired log t", 4, 3, 0.9)

    def test_upside_down_is_the_reciprocal(self):
        found, turned = ratio_of_launches(self.TOP, self.BOTTOM, 0.95), ratio_of_launches(self.BOTTOM, self.TOP, 0.95)
        assert (turned.value, turned.low, turned.high) == pytest.approx(
            (1 / found.value, 1 / found.high, 1 / found.low)
        )

    def test_what_a_launch_does_to_both_does_not_matter(self):
        host = np.array([1.0, 10.0, 0.1, 3.0])
        found, plain = (ratio_of_launches(self.TOP * f, self.BOTTOM * f, 0.95) for f in (host, 1.0))
        assert (found.low, found.high) == pytest.approx((plain.low, plain.high), rel=1e-9)

    def test_covers(self):
        """2,000 experiments of 3 launches: a true ratio of 1.3, launches that differ by 20%, errors of 5%."""
        generator = np.random.default_rng(18)
        host = generator.lognormal(0, 0.2, (2_000, 3))
        top, bottom = (
            1.3 * host * generator.lognormal(0, 0.05, (2_000, 3)),
            host * generator.lognormal(0, 0.05, (2_000, 3)),
        )
        found = [ratio_of_launches(*pair, 0.95) for pair in zip(top, bottom, strict=True)]
        error = 3 * np.sqrt(0.05 * 0.95 / 2_000)  # three Monte Carlo standard errors
        assert np.mean([each.low < 1.3 < each.high for each in found]) == pytest.approx(0.95, abs=error)

    def test_a_launch_without_steady_state_is_reported_and_not_dropped(self):
        launches = [launch(steady(60, seed), "change_point", 0.95) for seed in (20, 21)]
        drifting = launch(steady(60, 22) * np.linspace(1, 4, 60), "change_point", 0.95)
        top = launch_medians([launches[0], drifting, launches[1]])
        assert np.isnan(top).tolist() == [False, True, False]
        found = ratio_of_launches(top, np.array([0.2, 0.2, np.nan]), 0.95)
        assert (found.value, found.low, found.n_seeds) == (None, None, 3)
        assert found.undefined == "no steady value in launch 2, 3 of 3"

    def test_undefined(self):
        one = ratio_of_launches(np.array([0.3]), np.array([0.2]), 0.95)
        assert (one.value, one.low, one.undefined) == (pytest.approx(1.5), None, "fewer than 2 launches")
        assert ratio_of_launches(np.array([]), np.array([]), 0.95).value is None
        assert ratio_of_launches(self.TOP[:2], self.BOTTOM[:2], 0.95).has_interval  # two are enough
        same = np.full(3, 0.2)
        assert ratio_of_launches(2 * same, same, 0.95).undefined == NO_SPREAD
        assert ratio_of_launches(2 * self.BOTTOM, self.BOTTOM, 0.95).undefined == NO_ERROR

    def test_refuses_what_has_no_ratio(self):
        for top, bottom in (([1.0, 0.0], [1.0, 2]), ([1.0, 2], [-1.0, 2]), ([1.0, 2], [0.0, 2]), ([1.0], [1.0, 2])):
            with pytest.raises(ValueError, match="above 0"):
                ratio_of_launches(np.array(top), np.array(bottom), 0.95)
