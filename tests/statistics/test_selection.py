"""The best of a sweep: who is chosen, by how much it flatters, and what the corrections give back."""

from itertools import combinations_with_replacement, product

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from lmexp.statistics.blocks import fit_blocks
from lmexp.statistics.contrasts import differences
from lmexp.statistics.estimates import NO_SPREAD
from lmexp.statistics.selection import (
    NO_RATE,
    best_of_sweep,
    bootstrap_optimism,
    chance_to_win,
    chosen_rates,
    expected_best,
    held_out_estimate,
    held_out_values,
    mean_across_rates,
    selection_bias,
)


@pytest.fixture
def sweep():
    """(3 options, 4 rates, 5 seeds): three sizes that differ; seed effects that all share; lower is better."""
    generator = np.random.default_rng(0)
    bowl = np.array([[0.3, 0.15, 0.0, 0.4], [0.0, 0.3, 0.5, 0.9], [0.2, 0.13, 0.1, 0.2]])
    return 2 + bowl[:, :, None] + generator.normal(0, 1, 5) + generator.normal(0, 0.1, (3, 4, 5))


def equal_rates(n_options, n_rates, n_seeds, seed):
    """A sweep in which nothing matters: sigma 1, with seed effects of 5 that all rates share."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n_options, n_rates, n_seeds)) + 5 * generator.normal(size=(n_options, 1, n_seeds))


class TestChoice:
    def test_takes_the_best_mean_in_either_direction(self, sweep):
        lower, higher = chosen_rates(sweep, "lower"), chosen_rates(-sweep, "higher")
        assert [choice.rate for choice in lower] == [choice.rate for choice in higher] == [2, 0, 2]
        worst = [choice.rate for choice in chosen_rates(sweep, "higher")]
        assert worst == list(sweep.mean(axis=2).argmax(axis=1)) != [2, 0, 2]

    def test_flags_the_edges(self, sweep):
        assert [choice.at_edge for choice in chosen_rates(sweep, "lower")] == [False, True, False]
        assert chosen_rates(sweep[1:2, ::-1], "lower")[0].at_edge  # the other edge
        assert chosen_rates(sweep[:, :1], "lower")[0].at_edge  # one rate: nothing is known of its neighbours

    def test_a_rate_with_a_gap_is_never_chosen(self, sweep):
        for gap in (np.nan, np.inf, -np.inf):
            sweep[0, 2, 4] = gap
            choice = chosen_rates(sweep, "lower")[0]
            assert (choice.rate, choice.n_left_out, choice.beside_gap, choice.at_edge) == (1, 1, True, False)

    def test_a_gap_further_off_is_counted_but_not_beside(self, sweep):
        sweep[0, 0, 1] = np.nan
        choice = chosen_rates(sweep, "lower")[0]
        assert (choice.rate, choice.n_left_out, choice.beside_gap) == (2, 1, False)
        sweep[0, 3, 1] = np.nan
        assert chosen_rates(sweep, "lower")[0].beside_gap
        assert not chosen_rates(sweep, "lower")[1].beside_gap

    def test_ties_go_to_the_first_and_say_so(self):
        values = np.array([[[3.0, 3.0], [0.1, 0.2], [0.2, 0.1], [0.1, 0.3]]])
        for direction, sign in (("lower", 1), ("higher", -1)):
            choice = chosen_rates(sign * values, direction)[0]
            assert (choice.rate, choice.tied) == (1, True)
        tenths = np.array([[[9.0, 9.0, 9.0], [0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]])  # sums that differ by rounding only
        assert tenths[0, 1].mean() > tenths[0, 2].mean()
        assert (chosen_rates(tenths, "lower")[0].rate, chosen_rates(tenths, "lower")[0].tied) == (1, True)
        for scale in (-1e6, -1e-6):  # rounding grows with the values; the mean of 0 is no measure of it
            found = chosen_rates(scale * np.concatenate([tenths, np.zeros((1, 1, 3))], axis=1)[:, 1:], "higher")[0]
            assert (found.rate, found.tied) == (2, False)
            found = chosen_rates(scale * np.concatenate([tenths, np.ones((1, 1, 3))], axis=1)[:, 1:], "higher")[0]
            assert (found.rate, found.tied) == (0, True)
            found = chosen_rates(-scale * np.concatenate([tenths, np.zeros((1, 1, 3))], axis=1)[:, 1:], "higher")[0]
            assert (found.rate, found.tied) == (0, True)
        assert not chosen_rates(values[:, ::3], "lower")[0].tied

    def test_an_option_without_a_complete_rate_has_none(self, sweep):
        sweep[2, :, 0] = np.nan
        choice = chosen_rates(sweep, "lower")[2]
        assert (choice.rate, choice.undefined, choice.n_left_out) == (None, NO_RATE, 4)
        assert (choice.at_edge, choice.beside_gap, choice.tied) == (False, False, False)
        assert chosen_rates(sweep[:, :, :0], "lower")[0].rate is None

    def test_refuses_what_it_cannot_read(self, sweep):
        for function in (chosen_rates, held_out_values, bootstrap_optimism, lambda v, d: best_of_sweep(v, d, 0.9)):
            with pytest.raises(ValueError, match="lower or higher, not 'min'"):
                function(sweep, "min")
            with pytest.raises(ValueError, match=r"not \(4, 5\)"):
                function(sweep[0], "lower")
        with pytest.raises(ValueError, match=r"not \(4, 5\)"):
            mean_across_rates(sweep[0])


class TestHeldOut:
    def test_is_choosing_without_the_seed_and_looking_it_up(self, sweep):
        sweep[0, 2] += np.array([0, 0, 0, 0, 0.3])  # so close that the folds disagree
        found = held_out_values(sweep, "lower")
        for option, seed in product(range(3), range(5)):
            rate = np.delete(sweep[option], seed, axis=1).mean(axis=1).argmin()
            assert found[option, seed] == sweep[option, rate, seed]
        assert np.array_equal(held_out_values(-sweep, "higher"), -found)

    def test_the_seed_that_measures_has_no_say(self, sweep):
        before = held_out_values(sweep, "lower")
        sweep[:, :, 3] = -sweep[:, :, 3] * np.array([1, 5, -7, 2])[:, None].T
        others = [0, 1, 2, 4]
        changed = held_out_values(sweep, "lower")
        for option in range(3):
            rate = sweep[option][:, others].mean(axis=1).argmin()
            assert changed[option, 3] == sweep[option, rate, 3]
        assert before.shape == changed.shape == (3, 5)

    def test_gaps_and_single_seeds(self, sweep):
        sweep[0, 2, 4] = np.nan
        sweep[2, :, 1] = np.nan
        found = held_out_values(sweep, "lower")
        assert np.array_equal(found[:2], held_out_values(np.delete(sweep, 2, axis=1)[:2], "lower"))
        assert np.isnan(found[2]).all()
        assert np.isnan(held_out_values(sweep[:, :, :1], "lower")).all()

    def test_is_unbiased_where_the_best_mean_is_not(self):
        """20,000 sweeps of 4 equal rates and 3 seeds: -0.594 sigma against nothing."""
        values = equal_rates(20_000, 4, 3, seed=1)
        shared = values.mean(axis=(1, 2))  # take out the seeds' effects, which are no matter of selection
        centred = values - values.mean(axis=1, keepdims=True)
        naive = centred.mean(axis=2).min(axis=1)
        held_out = held_out_values(values, "lower").mean(axis=1) - shared
        error = 4 * np.array([naive.std(), held_out.std()]) / np.sqrt(20_000)  # four Monte Carlo standard errors
        assert naive.mean() == pytest.approx(-selection_bias(4, 3), abs=error[0])
        assert held_out.mean() == pytest.approx(0, abs=error[1])

    @pytest.mark.parametrize(("n_rates", "gap"), [(4, 0.0), (4, 0.5), (8, 0.0), (4, 4.0)])
    def test_coverage_is_what_the_docstring_says(self, n_rates, gap):
        """Paired differences of two tuned options, which are worth the same; 3 seeds, 4,000 sweeps of each."""
        slope = gap * np.arange(n_rates)[:, None]
        values = equal_rates(4_000, n_rates, 3, seed=2) + slope
        rivals = values - equal_rates(4_000, n_rates, 3, seed=2) + equal_rates(4_000, n_rates, 3, seed=3) + slope
        paired = held_out_values(values, "lower") - held_out_values(rivals, "lower")
        covers = [abs(e.value) <= e.high - e.value for e in (held_out_estimate(row, 0.95) for row in paired)]
        margin = 3 * np.sqrt(0.05 * 0.95 / 4_000)  # three Monte Carlo standard errors
        assert 0.95 - margin < np.mean(covers) < 0.98 + margin

    def test_interval_by_hand(self):
        found = held_out_estimate(np.array([1.0, 2.0, 6.0]), 0.9)
        reach = stats.t.ppf(0.95, 2) * np.sqrt(7 * (1 / 3 + 1 / 2))  # the variance of 1, 2, 6 is 7
        assert (found.value, found.low, found.high) == pytest.approx((3, 3 - reach, 3 + reach))
        assert (found.df, found.n_seeds, found.confidence, found.undefined) == (2, 3, 0.9, None)
        assert found.method == "leave-one-seed-out, corrected t"
        assert held_out_estimate(np.array([1.0, 2.0]), 0.9).has_interval  # two seeds are enough

    def test_undefined(self):
        assert held_out_estimate(np.array([1.0, np.nan, 2.0]), 0.95).undefined == NO_RATE
        assert held_out_estimate(np.array([1.0]), 0.95).undefined == "fewer than 2 seeds"
        for held_out in ([1.0, np.nan, 2.0], [1.0], [0.7, 0.7]):
            found = held_out_estimate(np.array(held_out), 0.9)
            assert (found.confidence, found.n_seeds, found.low) == (0.9, len(held_out), None)
            assert found.method == "leave-one-seed-out, corrected t"
        constant = held_out_estimate(np.array([0.7, 0.7, 0.7]), 0.95)
        assert (constant.value, constant.low, constant.undefined) == (pytest.approx(0.7), None, NO_SPREAD)


class TestBootstrap:
    def test_looks_at_every_resample_with_its_probability(self, sweep):
        """Against all 27 sequences of 3 seeds, one by one."""
        values = sweep[:, :, :3]
        by_hand = np.zeros(3)
        for drawn in product(range(3), repeat=3):
            resampled = values[:, :, list(drawn)].mean(axis=2)
            chosen = resampled.argmin(axis=1)
            by_hand += (values.mean(axis=2)[range(3), chosen] - resampled[range(3), chosen]) / 27
        assert bootstrap_optimism(values, "lower") == pytest.approx(by_hand, rel=1e-9)
        assert bootstrap_optimism(-values, "higher") == pytest.approx(by_hand, rel=1e-9)

    def test_still_looks_at_every_resample_of_seven_seeds(self):
        values = equal_rates(1, 4, 7, seed=7)[0]
        counts = np.array([np.bincount(d, minlength=7) for d in combinations_with_replacement(range(7), 7)])
        means = counts @ values.T / 7
        gains = values.mean(axis=1)[means.argmin(axis=1)] - means.min(axis=1)
        by_hand = gains @ stats.multinomial.pmf(counts, 7, [1 / 7] * 7)
        assert bootstrap_optimism(values[None], "lower") == pytest.approx([by_hand], rel=1e-9)

    def test_draws_agree_with_looking_at_all(self):
        """At 8 seeds 10,000 are drawn, the same ones every time; here against another 200,000."""
        values = equal_rates(1, 4, 8, seed=4)
        found = bootstrap_optimism(values, "lower")[0]
        counts = np.random.default_rng(9).multinomial(8, [1 / 8] * 8, size=200_000)
        means = counts @ values[0].T / 8
        gains = values[0].mean(axis=1)[means.argmin(axis=1)] - means.min(axis=1)
        assert found == pytest.approx(gains.mean(), abs=4 * gains.std() / np.sqrt(10_000))
        assert found == bootstrap_optimism(values.copy(), "lower")[0]

    def test_is_never_below_zero_and_nothing_without_a_choice(self, sweep):
        assert (bootstrap_optimism(sweep, "lower") >= 0).all()
        assert bootstrap_optimism(sweep[:, :1], "lower").tolist() == [0, 0, 0]
        assert bootstrap_optimism(np.tile(sweep[:, :1], 2), "lower").tolist() == [0, 0, 0]  # 10 seeds: drawn

    def test_seed_effects_that_all_rates_share_do_not_matter(self, sweep):
        shifted = sweep + 100 * np.arange(5.0) ** 2
        assert bootstrap_optimism(shifted, "lower") == pytest.approx(bootstrap_optimism(sweep, "lower"), rel=1e-6)

    @pytest.mark.parametrize(("n_seeds", "removed"), [(3, 0.48), (5, 0.57)])
    def test_takes_out_only_the_part_of_the_bias_on_record(self, n_seeds, removed):
        optimism = bootstrap_optimism(equal_rates(6_000, 4, n_seeds, seed=5), "lower")
        # One Monte Carlo standard error of the ratio is below 0.004.
        assert optimism.mean() / selection_bias(4, n_seeds) == pytest.approx(removed, abs=0.016)

    def test_undefined(self, sweep):
        sweep[1, :, 2] = np.nan
        found = bootstrap_optimism(sweep, "lower")
        assert np.isnan(found).tolist() == [False, True, False]
        assert np.isnan(bootstrap_optimism(sweep[:, :, :1], "lower")).all()


class TestFiguresOnRecord:
    def test_the_best_of_four_is_too_good_by_0_6_sigma(self):
        """Sigma of one run: -0.6 with 3 seeds; it is -1.03 standard errors of a mean."""
        assert f"{selection_bias(4, 3):.1f}" == "0.6"
        assert selection_bias(4, 3) == pytest.approx(0.5943, abs=5e-5)

    def test_the_best_of_four_wins_80_percent_against_an_equal_untuned_arm(self):
        assert chance_to_win(4) == 0.8
        values = equal_rates(20_000, 5, 3, seed=6).mean(axis=2)
        wins = np.mean(values[:, :4].min(axis=1) < values[:, 4])
        assert wins == pytest.approx(0.8, abs=4 * np.sqrt(0.8 * 0.2 / 20_000))

    @pytest.mark.parametrize("n", [1, 2, 4, 30])
    def test_expected_best_against_another_integral(self, n):
        oracle = integrate.quad(lambda x: x * n * stats.norm.pdf(x) * stats.norm.cdf(x) ** (n - 1), -9, 9, epsabs=1e-12)
        assert expected_best(n) == pytest.approx(oracle[0], abs=1e-9)

    def test_expected_best_where_it_is_known(self):
        assert expected_best(1) == pytest.approx(0, abs=1e-12)
        assert expected_best(2) == pytest.approx(1 / np.sqrt(np.pi), abs=1e-12)
        assert expected_best(3) == pytest.approx(1.5 / np.sqrt(np.pi), abs=1e-12)
        with pytest.raises(ValueError, match="best of 0"):
            expected_best(0)


class TestMeanAcrossRates:
    def test_is_a_block_design_of_options_and_seeds(self, sweep):
        means = mean_across_rates(sweep)
        assert means.shape == (3, 5)
        assert means[1, 3] == pytest.approx(sweep[1, :, 3].sum() / 4)
        found = differences(fit_blocks(means), control=0, alpha=0.05)[0]
        assert found.alone.value == pytest.approx(sweep[1].mean() - sweep[0].mean())

    def test_a_missing_rate_leaves_no_mean_at_that_seed(self, sweep):
        for gap in (np.nan, np.inf):
            sweep[2, 3, 1] = gap
            means = mean_across_rates(sweep)
            assert np.argwhere(np.isnan(means)).tolist() == [[2, 1]]
            assert np.isfinite(means).sum() == 14


class TestBestOfSweep:
    def test_puts_the_parts_together(self, sweep):
        sweep[2, 3, 1] = np.nan
        found = best_of_sweep(sweep, "lower", 0.9)[2]
        held_out = held_out_estimate(held_out_values(sweep, "lower")[2], 0.9)
        assert found.rate == chosen_rates(sweep, "lower")[2].rate == 2
        assert found.naive == pytest.approx(sweep[2, 2].mean())
        assert (found.held_out, found.low, found.high) == (held_out.value, held_out.low, held_out.high)
        rates = [np.delete(sweep[2, :3], seed, axis=1).mean(axis=1).argmin() for seed in range(5)]
        assert found.n_same == rates.count(2) == 4  # one fold chose another rate
        assert found.optimism == bootstrap_optimism(sweep, "lower")[2] > 0
        assert found.corrected == pytest.approx(found.naive + found.optimism)
        assert (found.n_left_out, found.beside_gap, found.at_edge, found.n_seeds) == (1, True, False, 5)
        assert found.swept is None
        assert best_of_sweep(sweep, "lower", 0.9)[1].swept == pytest.approx(sweep[1].mean())

    def test_says_which_rate_the_folds_chose_when_a_rate_before_it_is_left_out(self, sweep):
        sweep[0, 0, 2] = np.nan
        assert (best_of_sweep(sweep, "lower", 0.9)[0].rate, best_of_sweep(sweep, "lower", 0.9)[0].n_same) == (2, 5)

    def test_higher_is_the_mirror(self, sweep):
        for lower, higher in zip(best_of_sweep(sweep, "lower", 0.9), best_of_sweep(-sweep, "higher", 0.9), strict=True):
            assert higher.corrected == pytest.approx(-lower.corrected)
            assert higher.corrected <= higher.naive  # the correction makes it worse
            assert (higher.low, higher.n_same, higher.optimism) == pytest.approx(
                (-lower.high, lower.n_same, lower.optimism)
            )

    def test_undefined_is_none(self, sweep):
        sweep[1, :, 2] = np.nan
        found = best_of_sweep(sweep, "lower", 0.95)[1]
        numbers = found.naive, found.held_out, found.low, found.n_same, found.optimism, found.corrected, found.swept
        assert numbers == (None,) * 7
        assert found.undefined == NO_RATE
        single = best_of_sweep(sweep[:, :, :1], "lower", 0.95)[0]
        assert single.naive == sweep[0, :, 0].min()
        assert (single.held_out, single.corrected, single.n_same) == (None, None, None)
        assert single.undefined == "fewer than 2 seeds"
        assert str(single) == "option 0: undefined (fewer than 2 seeds)"

    def test_two_seeds_are_enough(self, sweep):
        found = best_of_sweep(sweep[:, :, :2], "lower", 0.95)[2]
        assert None not in (found.held_out, found.low, found.n_same, found.optimism, found.corrected)
        assert np.isfinite(held_out_values(sweep[:, :, :2], "lower")).all()

    def test_prints_and_becomes_rows(self, sweep):
        sweep[2, :, 0] = np.nan
        found = best_of_sweep(np.round(sweep, 2), "lower", 0.95)
        text = str(found[1])
        assert text.startswith("option 1, rate 0, at the grid's edge: held out ")
        assert text.endswith(f"(5/5 folds chose it); best mean {found[1].naive:.4g}, biased")
        assert str(found[2]) == "option 2: undefined (no rate has a value at every seed)"
        assert pd.DataFrame([vars(row) for row in found])["rate"].tolist()[:2] == [2, 0]
        choices = chosen_rates(sweep, "lower")
        assert [str(choice) for choice in choices[1:]] == [
            "option 1: rate 0 of 4 (at the grid's edge)",
            "option 2: no rate chosen (no rate has a value at every seed)",
        ]
        assert str(chosen_rates(sweep[:, 1:, 1:], "lower")[0]) == "option 0: rate 1 of 3"
