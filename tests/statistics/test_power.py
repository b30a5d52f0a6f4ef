"""Power against statsmodels, scipy and simulated designs; the table on record; and what no data could reach."""

from itertools import pairwise, permutations, product
from math import comb, factorial

import numpy as np
import pytest
from scipy import integrate, stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from lmexp.statistics.blocks import permutation_test
from lmexp.statistics.distributions import dunnett_critical, t_quantile
from lmexp.statistics.power import (
    blocked,
    blocked_at,
    blocked_dunnett,
    blocked_f,
    difference_of_differences,
    f_power,
    paired,
    reaches_alpha,
    seeds_needed,
    smallest_p,
    t_power,
    tost_least_margin,
    tost_margin,
    tost_power,
    two_sample,
    two_way_interaction,
    two_way_main,
)

N_DRAWS = 40_000
MONTE_CARLO = 4 * np.sqrt(0.8 * 0.2 / N_DRAWS)  # four standard errors of a simulated power near 80%


def simulated(means, n_seeds, seed):
    """Blocked data: (draws, arms, seeds), blocked error 1, with seed effects ten times as large, which must cancel."""
    generator = np.random.default_rng(seed)
    errors = generator.normal(size=(N_DRAWS, len(means), n_seeds))
    return np.asarray(means)[:, None] + errors + 10 * generator.normal(size=(N_DRAWS, 1, n_seeds))


def blocked_errors(values):
    """The blocked error variance of every draw, from its definition."""
    residuals = (
        values - values.mean(2, keepdims=True) - values.mean(1, keepdims=True) + values.mean((1, 2))[:, None, None]
    )
    return (residuals**2).sum((1, 2)) / ((values.shape[1] - 1) * (values.shape[2] - 1))


@pytest.mark.parametrize(
    ("n_seeds", "two", "one", "block", "corrected"),
    [(3, "3.07", "3.26", "2.54", "3.36"), (5, "2.02", "1.68", "1.86", "2.36"), (10, "1.32", "1.00", "1.28", "1.59")],
)
def test_the_table_on_record(n_seeds, two, one, block, corrected):
    plans = two_sample(n_seeds, 0.05), paired(n_seeds, 0.05), blocked(6, n_seeds, 0.05), blocked(6, n_seeds, 0.05, 5)
    assert tuple(f"{plan.detectable().effect:.2f}" for plan in plans) == (two, one, block, corrected)


@pytest.mark.parametrize("n_seeds", [4, 7, 20])
def test_agrees_with_statsmodels(n_seeds):
    # statsmodels ends its search at 1e-8 or so; at 3 seeds its noncentral t loses more, so larger designs are compared.
    effect = paired(n_seeds, 0.03).detectable(0.7).effect
    assert effect == pytest.approx(TTestPower().solve_power(nobs=n_seeds, alpha=0.03, power=0.7), rel=1e-6)
    assert paired(n_seeds, 0.03).power(0.4) == pytest.approx(TTestPower().power(0.4, n_seeds, 0.03), abs=1e-9)
    effect = two_sample(n_seeds, 0.03).detectable(0.7).effect
    assert effect == pytest.approx(TTestIndPower().solve_power(nobs1=n_seeds, alpha=0.03, power=0.7), rel=1e-6)
    assert two_sample(n_seeds, 0.03).power(0.4) == pytest.approx(TTestIndPower().power(0.4, n_seeds, 0.03), abs=1e-9)


def test_f_power_agrees_with_scipys_noncentral_f():
    for df1, df2, noncentrality in product((1, 5, 9), (6, 30), (0.01, 4.0, 25.0)):
        # Two routes in double precision: ten digits leave room for either's cancellation.
        oracle = stats.ncf.sf(3.1, df1, df2, noncentrality)
        assert f_power(noncentrality, df1, df2, 3.1) == pytest.approx(oracle, abs=1e-10)
    assert f_power(0.0, 5, 6, 3.1) == pytest.approx(stats.f.sf(3.1, 5, 6), abs=1e-12)  # where scipy's ncf.sf is below 0


class TestSimulatedDesigns:
    """The power of 80% that is promised, met on data whose errors are known."""

    @pytest.mark.parametrize(("n_arms", "n_seeds"), [(6, 3), (4, 5)])
    def test_blocked_comparison(self, n_arms, n_seeds):
        plan = blocked(n_arms, n_seeds, 0.05)
        values = simulated([plan.detectable().effect] + [0] * (n_arms - 1), n_seeds, 1)
        t = (values[:, 0] - values[:, 2]).mean(1) / np.sqrt(blocked_errors(values) * 2 / n_seeds)
        rejected = np.abs(t) > stats.t.ppf(0.975, (n_arms - 1) * (n_seeds - 1))
        assert rejected.mean() == pytest.approx(0.8, abs=MONTE_CARLO)

    def test_dunnett(self):
        values = simulated([blocked_dunnett(6, 3, 0.05).detectable().effect, 0, 0, 0, 0, 0], 3, 2)
        t = (values[:, 0] - values[:, 5]).mean(1) / np.sqrt(blocked_errors(values) * 2 / 3)
        assert (np.abs(t) > dunnett_critical(0.05, 5, 10)).mean() == pytest.approx(0.8, abs=MONTE_CARLO)

    def test_blocked_f_in_its_least_favourable_pattern(self):
        found = blocked_f(5, 3, 0.05).detectable()
        values = simulated([found.effect / 2, 0, 0, 0, -found.effect / 2], 3, 3)
        between = 3 * values.mean(2).var(1, ddof=1)
        rejected = between / blocked_errors(values) > stats.f.ppf(0.95, 4, 8)
        assert rejected.mean() == pytest.approx(0.8, abs=MONTE_CARLO)
        # Any other pattern with the same largest difference is found more often: here arms at the two ends only.
        half = found.effect / 2
        values = simulated([half, half, 0, -half, -half], 3, 3)
        assert (3 * values.mean(2).var(1, ddof=1) / blocked_errors(values) > stats.f.ppf(0.95, 4, 8)).mean() > 0.85

    def test_two_way(self):
        """(2 x 4 arms, 3 seeds): main effect of the four levels, and the interaction."""
        main, cross = two_way_main(4, 2, 3, 0.05).detectable().effect, two_way_interaction(2, 4, 3, 0.05).detectable()
        levels = np.tile([main / 2, 0, -main / 2, 0], (2, 1))
        corner = (
            np.array([[1, -1, 0, 0], [-1, 1, 0, 0]]) * cross.effect / 4
        )  # its difference of differences: the effect
        values = simulated((levels + corner).ravel(), 3, 4)
        cells, errors = values.mean(2).reshape(-1, 2, 4), blocked_errors(values)
        columns = cells.mean(1)
        f = 3 * 2 * columns.var(1, ddof=1) / errors
        assert (f > stats.f.ppf(0.95, 3, 14)).mean() == pytest.approx(0.8, abs=MONTE_CARLO)
        crossed = cells - columns[:, None] - cells.mean(2, keepdims=True) + cells.mean((1, 2))[:, None, None]
        f = 3 * (crossed**2).sum((1, 2)) / 3 / errors
        assert (f > stats.f.ppf(0.95, 3, 14)).mean() == pytest.approx(0.8, abs=MONTE_CARLO)

    @pytest.mark.parametrize(("effect", "margin"), [(0.0, 2.0), (0.5, 1.6)])
    def test_tost(self, effect, margin):
        generator = np.random.default_rng(5)
        values = generator.normal(effect, 1, (N_DRAWS, 4))
        reach = stats.t.ppf(0.95, 3) * values.std(1, ddof=1) / 2
        equivalent = (np.abs(values.mean(1)) + reach < margin).mean()
        assert tost_power(margin, effect, 0.5, 3, 0.05) == pytest.approx(equivalent, abs=4 * 0.5 / np.sqrt(N_DRAWS))


class TestLaws:
    def test_no_effect_is_found_as_often_as_alpha_says(self):
        for plan in (two_sample(3, 0.04), paired(4, 0.04), blocked(5, 3, 0.04), blocked_f(5, 3, 0.04)):
            assert plan.power(0.0) == pytest.approx(0.04, abs=1e-9)  # the quantile functions' own error
        shared = (
            two_sample(3, 0.04, 4),
            paired(4, 0.04, 4),
            blocked(5, 3, 0.04, 4),
            difference_of_differences(5, 3, 0.04, 4),
        )
        assert [plan.power(0.0) for plan in shared] == pytest.approx([0.01] * 4, abs=1e-9)
        assert two_way_interaction(3, 4, 3, 0.04).power(0.0) == pytest.approx(0.04, abs=1e-9)

    def test_the_sign_of_the_effect_does_not_matter(self):
        assert blocked(5, 3, 0.05).power(-1.3) == pytest.approx(blocked(5, 3, 0.05).power(1.3), abs=1e-12)
        assert t_power(0.7, 4, 0.5) > 1 - stats.nct.cdf(0.5, 4, 0.7) + 0.05  # the wrong tail counts too

    def test_two_arms_in_blocks_are_a_paired_comparison(self):
        # The differences of two arms have standard deviation sqrt(2) sigma_e.
        paired_effect, blocked_effect = paired(4, 0.05).detectable().effect, blocked(2, 4, 0.05).detectable().effect
        assert blocked_effect == pytest.approx(np.sqrt(2) * paired_effect, rel=1e-9)

    def test_a_two_way_design_with_one_level_is_the_blocked_design(self):
        main, plain = two_way_main(5, 1, 3, 0.05), blocked_f(5, 3, 0.05)
        assert main.detectable().effect == pytest.approx(plain.detectable().effect, rel=1e-9)

    def test_the_interaction_of_two_by_two_is_one_difference_of_differences(self):
        # F = t^2: two routes to one test, each with its own noncentral distribution.
        crossed, single = two_way_interaction(2, 2, 5, 0.05), difference_of_differences(4, 5, 0.05)
        assert crossed.detectable().effect == pytest.approx(single.detectable().effect, rel=1e-6)
        assert single.detectable().effect == pytest.approx(np.sqrt(2) * blocked(4, 5, 0.05).detectable().effect)

    def test_cohens_f_is_the_spread_of_the_arms_over_the_error(self):
        means = np.array([1.5, 0, 0, 0, -1.5])
        assert blocked_f(5, 3, 0.05).cohens_f(3.0) == pytest.approx(means.std())
        levels = np.tile([1.5, 0, -1.5, 0], 2)
        assert two_way_main(4, 2, 3, 0.05).cohens_f(3.0) == pytest.approx(levels.std())
        assert blocked(5, 3, 0.05).cohens_f(3.0) is None

    def test_dunnett_lies_between_no_correction_and_a_fifth_of_alpha(self):
        plans = blocked(6, 3, 0.05), blocked_dunnett(6, 3, 0.05), blocked(6, 3, 0.05, 5)
        effects = [plan.detectable().effect for plan in plans]
        assert effects == sorted(effects)
        assert effects[0] < effects[1] < effects[2]
        given = blocked_at(6, 3, dunnett_critical(0.05, 5, 10), "given")
        assert given.detectable().effect == pytest.approx(effects[1], rel=1e-9)

    def test_more_seeds_find_less(self):
        effects = [blocked_dunnett(6, n, 0.05).detectable().effect for n in (2, 3, 5, 10, 40)]
        assert all(fewer > more for fewer, more in pairwise(effects))

    def test_what_is_found_has_the_power_asked_for(self):
        for plan in (blocked(4, 3, 0.01), blocked_f(4, 3, 0.01), two_way_main(3, 2, 4, 0.01)):
            assert plan.power(plan.detectable(0.9).effect) == pytest.approx(0.9, abs=1e-9)

    @pytest.mark.parametrize(
        ("plan", "name", "unit", "sizes"),
        [
            (two_sample(4, 0.05), "two-sample t", "d", (2, 4, None, 6)),
            (paired(4, 0.05), "paired t", "d_z", (2, 4, None, 3)),
            (blocked(5, 3, 0.05), "blocked t", "sigma_e", (5, 3, None, 8)),
            (blocked_at(5, 3, 2.9, "Tukey"), "Tukey", "sigma_e", (5, 3, None, 8)),
            (blocked_dunnett(5, 3, 0.05), "blocked Dunnett", "sigma_e", (5, 3, None, 8)),
            (difference_of_differences(5, 3, 0.05), "difference of differences", "sigma_e", (5, 3, None, 8)),
            (blocked_f(5, 3, 0.05), "blocked F", "sigma_e", (5, 3, 4, 8)),
            (two_way_main(4, 2, 3, 0.05), "two-way main F", "sigma_e", (8, 3, 3, 14)),
            (two_way_interaction(4, 3, 5, 0.05), "two-way interaction F", "sigma_e", (12, 5, 6, 44)),
        ],
    )
    def test_says_what_it_is(self, plan, name, unit, sizes):
        assert (plan.name, plan.unit) == (name, unit)
        assert (plan.n_arms, plan.n_seeds, plan.df_effect, plan.df_error) == sizes
        found = plan.detectable(0.7)
        assert (found.test, found.unit, found.n_arms, found.n_seeds) == (name, unit, *sizes[:2])
        assert (found.df_error, found.critical, found.power) == (sizes[3], plan.critical, 0.7)

    def test_prints_and_becomes_a_row(self):
        import pandas as pd

        found = blocked(6, 3, 0.05).detectable()
        assert str(found) == "blocked t: 2.54 sigma_e at 80% power (6 arms, 3 seeds, df 10)"
        assert pd.DataFrame([vars(found)]).loc[0, "effect"] == found.effect


class TestSeedsNeeded:
    @pytest.mark.parametrize("effect", [0.9, 1.3, 3.0])
    def test_one_seed_less_would_not_do(self, effect):
        found = seeds_needed(lambda n: blocked(6, n, 0.05), effect)
        assert found is not None
        assert blocked(6, found, 0.05).power(effect) >= 0.8
        assert found == 2 or blocked(6, found - 1, 0.05).power(effect) < 0.8

    def test_agrees_with_statsmodels(self):
        wanted = TTestIndPower().solve_power(effect_size=0.6, alpha=0.05, power=0.9)
        assert seeds_needed(lambda n: two_sample(n, 0.05), 0.6, 0.9) == int(np.ceil(wanted))

    def test_the_ends_of_the_range(self):
        assert seeds_needed(lambda n: paired(n, 0.05), 1e4) == 2
        assert seeds_needed(lambda n: paired(n, 0.05), 0.0) is None
        exactly = seeds_needed(lambda n: paired(n, 0.05), 0.7)
        assert seeds_needed(lambda n: paired(n, 0.05), 0.7, most=exactly) == exactly
        assert seeds_needed(lambda n: paired(n, 0.05), 0.7, most=exactly - 1) is None


class TestSmallestP:
    @pytest.mark.parametrize(("n_seeds", "expected"), [(2, 0.5), (3, 0.25), (5, 0.0625), (6, 0.03125)])
    def test_sign_flip(self, n_seeds, expected):
        """Against every flip of the most extreme differences: all of one sign."""
        signs = np.array(list(product((1, -1), repeat=n_seeds)))
        by_hand = np.mean(np.abs(signs @ np.arange(1, n_seeds + 1)) >= n_seeds * (n_seeds + 1) / 2)
        assert smallest_p("sign_flip", 4, n_seeds) == by_hand == expected

    @pytest.mark.parametrize("n_seeds", [2, 3, 4])
    def test_two_sample_permutation(self, n_seeds):
        apart = [list(range(n_seeds)), list(range(100, 100 + n_seeds))]
        oracle = stats.permutation_test(apart, lambda a, b: np.mean(a) - np.mean(b), n_resamples=np.inf)
        assert smallest_p("permutation_two_sample", 2, n_seeds) == pytest.approx(oracle.pvalue, abs=1e-15)
        assert smallest_p("permutation_two_sample", 2, n_seeds) == 2 / comb(2 * n_seeds, n_seeds)

    def test_figures_on_record(self):
        assert smallest_p("sign_flip", 2, 3) == 0.25
        assert smallest_p("permutation_two_sample", 2, 3) == pytest.approx(0.10)

    @pytest.mark.parametrize(("n_arms", "n_seeds"), [(2, 3), (3, 2), (3, 4), (6, 3)])
    def test_blocks_when_every_arrangement_is_looked_at(self, n_arms, n_seeds):
        assert smallest_p("permutation_blocks", n_arms, n_seeds) == 1 / factorial(n_arms) ** (n_seeds - 1)

    def test_no_blocked_data_of_three_arms_and_two_seeds_do_better(self):
        ps = [permutation_test(np.array([(0, 1, 5), order], float).T).p for order in permutations((0, 2, 3))]
        assert smallest_p("permutation_blocks", 3, 2) == min(ps)

    def test_blocks_when_arrangements_are_drawn(self):
        assert smallest_p("permutation_blocks", 8, 4) == pytest.approx(1 / 20_001)  # (0 hits + 1) / (draws + 1)

    def test_two_arms_in_blocks_are_a_sign_flip(self):
        assert smallest_p("permutation_blocks", 2, 5) == smallest_p("sign_flip", 2, 5)

    def test_continuous_tests_have_none_unless_they_cannot_be_done(self):
        assert smallest_p("blocked_f", 6, 3) == 0.0
        assert smallest_p("blocked_f", 6, 1) == smallest_p("blocked_f", 1, 3) == smallest_p("sign_flip", 2, 1) == 1.0

    def test_what_cannot_reach_its_alpha(self):
        assert not reaches_alpha("sign_flip", 2, 5, 0.05)
        assert reaches_alpha("sign_flip", 2, 6, 0.05)
        assert reaches_alpha("permutation_two_sample", 2, 3, 0.1)  # just: p may equal alpha
        assert not reaches_alpha("permutation_two_sample", 2, 3, 0.05)
        with pytest.raises(ValueError, match="unknown test 'anova'"):
            smallest_p("anova", 2, 3)


class TestEquivalence:
    def test_the_margin_that_three_seeds_need(self):
        """1.69 s_diff at n = 3: the margin at which three equal pairs' interval of 90% just fits."""
        least = tost_least_margin(1 / np.sqrt(3), 2, 0.05)
        assert f"{least:.2f}" == "1.69"
        assert least == pytest.approx(stats.t.ppf(0.95, 2) / np.sqrt(3), rel=1e-12)

    @pytest.mark.parametrize(
        ("margin", "effect", "df"), [(1.2, 0.3, 2), (3.0, -1.0, 10), (0.4, 0.0, 1), (2.5, 2.0, 300)]
    )
    def test_power_agrees_with_another_integral(self, margin, effect, df):
        critical = stats.t.ppf(0.95, df)

        def at(chi2):
            reach = margin - critical * 0.8 * np.sqrt(chi2 / df)
            return max(0.0, np.diff(stats.norm.cdf([-reach, reach], effect, 0.8))[0]) * stats.chi2.pdf(chi2, df)

        end = min(df * (margin / critical / 0.8) ** 2, stats.chi2.isf(1e-14, df))
        oracle = integrate.quad(at, 0, end, epsabs=1e-12, limit=200, points=[min(df, end)])[0]
        assert tost_power(margin, effect, 0.8, df, 0.05) == pytest.approx(oracle, abs=1e-9)

    def test_at_its_margin_a_difference_passes_at_most_as_often_as_alpha_says(self):
        assert tost_power(1.5, 1.5, 0.5, 4, 0.05) < 0.05
        # With a wide margin the other side never matters and TOST is one t test, of size alpha.
        assert tost_power(60, 60, 0.5, 4, 0.05) == pytest.approx(0.05, abs=1e-9)
        assert tost_power(60, 0, 0.5, 4, 0.05) == pytest.approx(1, abs=1e-6)

    def test_the_margin_for_a_power(self):
        margin = tost_margin(0.7, 10, 0.05, 0.9)
        assert tost_power(margin, 0.0, 0.7, 10, 0.05) == pytest.approx(0.9, abs=1e-9)
        assert tost_power(tost_margin(0.7, 10, 0.05), 0.0, 0.7, 10, 0.05) == pytest.approx(0.8, abs=1e-9)
        assert margin > tost_least_margin(0.7, 10, 0.05) == pytest.approx(0.7 * t_quantile(0.95, 10))

    @pytest.mark.parametrize(("margin", "alpha"), [(0.0, 0.05), (-1.0, 0.05), (1.0, 0.5), (1.0, 0.0)])
    def test_refuses_what_is_no_test(self, margin, alpha):
        with pytest.raises(ValueError, match="margin above 0 and alpha"):
            tost_power(margin, 0.0, 1.0, 4, alpha)
        with pytest.raises(ValueError, match="power must lie between"):
            tost_margin(1.0, 4, 0.05, 1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: paired(1, 0.05),
        lambda: two_sample(0, 0.05),
        lambda: blocked(1, 3, 0.05),
        lambda: blocked_dunnett(6, 1, 0.05),
        lambda: blocked_at(1, 3, 2.5, "Tukey"),
        lambda: blocked_f(6, 1, 0.05),
        lambda: two_way_main(1, 4, 3, 0.05),
        lambda: two_way_main(4, 0, 3, 0.05),
        lambda: two_way_interaction(4, 1, 3, 0.05),
    ],
)
def test_a_design_without_degrees_of_freedom_is_refused(make):
    with pytest.raises(ValueError, match="leave no degrees of freedom"):
        make()


def test_a_level_or_a_power_that_is_none_is_refused():
    with pytest.raises(ValueError, match="alpha must lie"):
        blocked(6, 3, 0.0)
    with pytest.raises(ValueError, match="alpha must lie"):
        blocked_dunnett(6, 3, 1.0)
    for power in (0.049, 1.0, 0.01):
        with pytest.raises(ValueError, match="power must lie"):
            blocked(6, 3, 0.05).detectable(power)
