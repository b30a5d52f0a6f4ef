"""The distributions against scipy's slow or quasi-random ones, published tables, and their own laws."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from lmexp.statistics.distributions import (
    _falling_root,
    dunnett_cdf,
    dunnett_critical,
    f_upper_p,
    noncentral_f_cdf,
    noncentral_f_limits,
    noncentral_t_cdf,
    noncentral_t_limits,
    studentized_range_cdf,
    studentized_range_critical,
    t_quantile,
    t_two_sided_p,
)


@pytest.mark.parametrize(
    ("t", "df", "noncentrality"),
    [(2, 4, 1), (-1.3, 10, 2.5), (4.303, 2, 8), (100, 2, 50), (500, 2, 20), (0.01, 3, 0.5), (30, 200, 29), (3, 1, 0)],
)
def test_noncentral_t_agrees_with_scipy_where_scipy_is_right(t, df, noncentrality):
    # Two ways to the same integral in double precision: ten digits leave room for either's cancellation.
    assert noncentral_t_cdf(t, df, noncentrality) == pytest.approx(stats.nct.cdf(t, df, noncentrality), abs=1e-10)


def test_noncentral_t_is_a_number_where_scipy_gives_nan():
    assert np.isnan(stats.nct.cdf(-4.303, 2, 8))  # the reason for this module; if scipy mends it, think again
    assert 0 <= noncentral_t_cdf(-4.303, 2, 8) < 1e-15


@pytest.mark.parametrize("df", [1, 1.05, 1.5, 2.4, 9, 4000])
def test_noncentral_t_without_noncentrality_is_students_t(df):
    # The integral over the scale in double precision, whole degrees of freedom or not.
    for t in (0.1, 2.0, 50.0):
        assert noncentral_t_cdf(t, df, 0.0) == pytest.approx(stats.t.cdf(t, df), abs=1e-13)


def test_noncentral_t_mirrors_and_falls_with_the_noncentrality():
    assert noncentral_t_cdf(1.7, 5, 0.8) == pytest.approx(1 - noncentral_t_cdf(-1.7, 5, -0.8), abs=1e-12)
    values = [noncentral_t_cdf(2.2, 3, delta) for delta in np.linspace(-5, 8, 40)]
    assert all(before > after for before, after in pairwise(values))


def test_noncentral_t_limits_put_t_at_the_two_ends():
    low, high = noncentral_t_limits(3.1, 4, 0.9)
    # The root is closed to twelve digits of the noncentrality, where the curve is no steeper than 1.
    assert noncentral_t_cdf(3.1, 4, low) == pytest.approx(0.95, abs=1e-11)
    assert noncentral_t_cdf(3.1, 4, high) == pytest.approx(0.05, abs=1e-11)


def test_noncentral_t_limits_around_zero_mirror_each_other():
    low, high = noncentral_t_limits(0.0, 5, 0.95)
    assert (low, high) == pytest.approx((-1.959963984540054, 1.959963984540054), rel=1e-11)  # T is then Z / S


@pytest.mark.parametrize("t", [0.0, -2.0, 300.0, -300.0])
def test_noncentral_t_limits_surround_t_even_far_out(t):
    low, high = noncentral_t_limits(t, 2, 0.95)
    assert low < t < high


def test_steigers_interval():
    """F(3, 35) = 45.8: 90% interval of eta2 [.68567, .85598] (Steiger 2004), given to five decimals."""
    low, high = noncentral_f_limits(45.8, 3, 35, 0.90)
    assert low / (low + 35) == pytest.approx(0.68567, abs=6e-6)
    assert high / (high + 35) == pytest.approx(0.85598, abs=6e-6)


def test_the_least_noncentrality_leaves_zero_just_when_f_is_significant():
    """The reason for 90% intervals of eta2: they exclude zero just when p < .05."""
    assert noncentral_f_limits(stats.f.ppf(0.949, 3, 17), 3, 17, 0.90)[0] == 0.0
    f = stats.f.ppf(0.951, 3, 17)
    low, high = noncentral_f_limits(f, 3, 17, 0.90)
    assert low > 0
    assert stats.ncf.cdf(f, 3, 17, low) == pytest.approx(0.95, abs=1e-9)
    assert stats.ncf.cdf(f, 3, 17, high) == pytest.approx(0.05, abs=1e-9)
    assert f_upper_p(f, 3, 17) == pytest.approx(0.049, abs=1e-9)


@pytest.mark.parametrize("start", [-3.0, 0.0, 0.6, 40.0])
def test_roots_are_found_in_a_handful_of_calls(start):
    calls = []

    def falling(x):
        calls.append(x)
        return 2 - np.exp(min(x, 500.0))

    assert _falling_root(falling, start) == pytest.approx(np.log(2), rel=1e-12)
    assert len(calls) < 25  # bisection to twelve digits alone takes forty


@pytest.mark.parametrize(("df1", "df2", "f"), [(5, 10, 2e6), (1, 2, 9e6), (8, 180, 1.3e6)])
def test_noncentral_f_goes_on_where_its_series_ends(df1, df2, f):
    """Both forms at the seam, 1e7: the normal root is off by a relative 1e-7, and scipy's series by some 1e-9."""
    below, above = noncentral_f_cdf(f, df1, df2, 1e7 * (1 - 1e-12)), noncentral_f_cdf(f, df1, df2, 1e7)
    assert 0.001 < above < 0.999
    assert above == pytest.approx(below, abs=3e-7)


def test_noncentral_f_limits_are_numbers_where_scipy_gives_nan():
    assert np.isnan(stats.ncf.cdf(1e12, 5, 10, 5e12))  # the reason for the second form
    low, high = noncentral_f_limits(1e12, 5, 10, 0.90)
    # F / noncentrality then has the law of chi2(10) / 10 below the line alone.
    assert low / 5e12 == pytest.approx(stats.chi2.ppf(0.05, 10) / 10, rel=1e-5)
    assert high / 5e12 == pytest.approx(stats.chi2.ppf(0.95, 10) / 10, rel=1e-5)


def test_noncentral_f_limits_are_zero_when_f_is_small():
    assert noncentral_f_limits(0.01, 5, 10, 0.90) == (0.0, 0.0)
    low, high = noncentral_f_limits(1.0, 5, 10, 0.90)
    assert low == 0.0
    assert stats.ncf.cdf(1.0, 5, 10, high) == pytest.approx(0.05, abs=1e-9)


def test_dunnett_for_one_comparison_is_students_t():
    assert dunnett_critical(0.05, 1, 7) == pytest.approx(t_quantile(0.975, 7), abs=1e-9)
    assert 1 - dunnett_cdf(1.9, 1, 7) == pytest.approx(t_two_sided_p(1.9, 7), abs=1e-11)
    assert dunnett_critical(0.01, 1, 1) == pytest.approx(63.6567, abs=1e-3)  # heavy tails: the hardest case


@pytest.mark.parametrize(("n", "critical"), [(2, 2.57), (3, 2.76), (4, 2.89), (5, 2.99)])
def test_dunnett_reproduces_the_published_table(n, critical):
    """Two-sided 5% points with 10 degrees of freedom (Dunnett 1964), printed to two decimals."""
    assert dunnett_critical(0.05, n, 10) == pytest.approx(critical, abs=0.006)


def test_dunnett_agrees_with_the_multivariate_t():
    cov = np.full((5, 5), 0.5) + 0.5 * np.eye(5)
    integral = stats.multivariate_t(shape=cov, df=10)
    for bound in (1.5, 2.99):
        oracle = integral.cdf(np.full(5, bound), lower_limit=np.full(5, -bound), random_state=1)
        assert dunnett_cdf(bound, 5, 10) == pytest.approx(oracle, abs=1e-4)  # its quasi-random error is about 1e-5


def test_dunnett_is_between_no_correction_and_bonferroni():
    p = 1 - dunnett_cdf(2.4, 5, 10)
    assert t_two_sided_p(2.4, 10) < p < 5 * t_two_sided_p(2.4, 10)


@pytest.mark.parametrize(
    ("q", "n_means", "df"),
    [(3.5, 6, 10), (3.5, 3, 2), (1.0, 2, 1), (8.0, 10, 5), (4.0, 16, 30), (3.3, 3, 2.4), (0.2, 3, 4), (40.0, 6, 2)],
)
def test_studentized_range_agrees_with_scipy(q, n_means, df):
    # Two quadratures in double precision: ten digits leave room for either.
    assert studentized_range_cdf(q, n_means, df) == pytest.approx(
        stats.studentized_range.cdf(q, n_means, df), abs=1e-10
    )


@pytest.mark.parametrize(
    ("alpha", "n_means", "df", "critical"),
    [(0.05, 3, 10, 3.88), (0.05, 6, 10, 4.91), (0.05, 4, 20, 3.96), (0.01, 5, 12, 5.84), (0.05, 10, 5, 6.99)],
)
def test_studentized_range_reproduces_the_published_table(alpha, n_means, df, critical):
    """Upper points of the studentized range in any textbook, printed to two decimals."""
    assert studentized_range_critical(alpha, n_means, df) == pytest.approx(critical, abs=0.0051)


def test_studentized_range_of_two_means_is_students_t():
    for df in (1, 1.05, 1.5, 2.4, 7, 4000):  # degrees of freedom of Welch's kind need not be whole
        assert 1 - studentized_range_cdf(np.sqrt(2) * 1.9, 2, df) == pytest.approx(t_two_sided_p(1.9, df), abs=1e-12)
    assert studentized_range_critical(0.05, 2, 7) == pytest.approx(np.sqrt(2) * t_quantile(0.975, 7), rel=1e-10)


def test_critical_values_are_where_the_distribution_says():
    assert studentized_range_cdf(studentized_range_critical(0.01, 5, 2.7), 5, 2.7) == pytest.approx(0.99, abs=1e-11)
    assert dunnett_cdf(dunnett_critical(0.01, 4, 6), 4, 6) == pytest.approx(0.99, abs=1e-11)
