"""What a design can find before a run is made: power, the smallest detectable effect, and the smallest p it can reach.

A :class:`PlannedTest` holds all that the power of a t or F test depends on; a function makes one for each test that a
plan can name. Effects are in standard deviations, since no data exist yet:

- ``d`` in standard deviations of one arm over independent seeds (two-sample t),
- ``d_z`` in standard deviations of the paired differences (paired t),
- ``sigma_e`` in blocked errors: the standard deviation of what is left of a run when arm and seed are taken out.

The functions raise ValueError when the sizes leave a test no degrees of freedom, or when alpha is no probability.

All tests are two-sided. The power of a comparison is that of the one comparison, not of finding any or all of several.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import comb

import numpy as np
from scipy import special

from lmexp.statistics.blocks import permutation_test
from lmexp.statistics.distributions import dunnett_critical, noncentral_t_cdf, t_quantile

CONTINUOUS_TESTS = ("two_sample_t", "paired_t", "blocked_t", "blocked_f", "two_way_f", "welch_f")
COUNTING_TESTS = ("sign_flip", "permutation_two_sample", "permutation_blocks")
_MOST_EFFECT = 1e9  # in standard deviations: no search goes further


@dataclass(frozen=True)
class Detectable:
    """The smallest effect that a planned test finds with the given power, in ``unit``.

    For an F test the effect is the largest difference in the least favourable pattern; ``cohens_f`` is the same effect
    as Cohen's f, and None for a t test.
    """

    test: str
    effect: float
    unit: str
    cohens_f: float | None
    n_arms: int
    n_seeds: int
    df_error: int
    critical: float
    power: float

    def __str__(self) -> str:
        size = f"{self.n_arms} arms, {self.n_seeds} seeds"
        return f"{self.test}: {self.effect:.3g} {self.unit} at {self.power:.0%} power ({size}, df {self.df_error})"


@dataclass(frozen=True)
class PlannedTest:
    """A two-sided t test (``df_effect`` is None) or an F test of a design, fixed in everything but the effect.

    ``standard_error`` is that of the effect, in the effect's unit; ``critical`` the least t or F that rejects;
    ``n_values`` the number of runs that the test looks at.
    """

    name: str
    unit: str
    n_arms: int
    n_seeds: int
    df_effect: int | None
    df_error: int
    standard_error: float
    critical: float
    n_values: int

    def power(self, effect: float) -> float:
        """Return the probability that the test rejects when the true effect, in ``unit``, is this large.

        For an F test the effect is the largest difference (for an interaction: difference of differences) between
        arms, with all else as even as this allows: every other pattern with the same largest difference is found more
        often (Kirk, Experimental Design, on the least favourable pattern of means).
        """
        noncentrality = effect / self.standard_error
        if self.df_effect is None:
            return t_power(noncentrality, self.df_error, self.critical)
        return f_power(noncentrality**2, self.df_effect, self.df_error, self.critical)

    def cohens_f(self, effect: float) -> float | None:
        """Return an F test's effect as Cohen's f, sqrt(noncentrality / runs) (Cohen 1988); None for a t test."""
        return None if self.df_effect is None else abs(effect) / self.standard_error / float(np.sqrt(self.n_values))

    def detectable(self, power: float = 0.8) -> Detectable:
        """Return the minimal detectable effect.

        Raises:
            ValueError: ``power`` is not above what the test has without any effect, and below 1.
        """
        if not self.power(0.0) < power < 1:
            raise ValueError(f"power must lie between {self.power(0.0):.3g}, that of no effect, and 1, not {power}")
        effect = _rising_root(lambda effect: self.power(effect) - power)
        found = (effect, self.unit, self.cohens_f(effect), self.n_arms, self.n_seeds)
        return Detectable(self.name, *found, self.df_error, self.critical, power)


def t_power(noncentrality: float, df: float, critical: float) -> float:
    """Return P(|T| >= critical) for the noncentral t: both tails, the wrong one included."""
    return 1 - noncentral_t_cdf(critical, df, noncentrality) + noncentral_t_cdf(-critical, df, noncentrality)


def f_power(noncentrality: float, df_effect: float, df_error: float, critical: float) -> float:
    """Return P(F >= critical) for the noncentral F."""
    return float(1 - special.ncfdtr(df_effect, df_error, noncentrality, critical))


def two_sample(n_seeds: int, alpha: float, n_tests: int = 1) -> PlannedTest:
    """Plan Student's t for two arms whose seeds are independent; the effect is d, the level alpha / n_tests."""
    return _t_test("two-sample t", "d", 2, n_seeds, 2 * n_seeds - 2, 2, alpha / n_tests)


def paired(n_seeds: int, alpha: float, n_tests: int = 1) -> PlannedTest:
    """Plan the t test of two arms' paired differences; the effect is d_z, the level alpha / n_tests."""
    return _t_test("paired t", "d_z", 2, n_seeds, n_seeds - 1, 1, alpha / n_tests)


def blocked(n_arms: int, n_seeds: int, alpha: float, n_tests: int = 1) -> PlannedTest:
    """Plan one arm minus another on the blocked error; the effect is in sigma_e, the level alpha / n_tests."""
    return _t_test("blocked t", "sigma_e", n_arms, n_seeds, _blocked_df(n_arms, n_seeds), 2, alpha / n_tests)


def blocked_at(n_arms: int, n_seeds: int, critical: float, name: str) -> PlannedTest:
    """Plan one arm minus another on the blocked error at a given critical value of |t|, Tukey's for instance."""
    return _planned(name, "sigma_e", n_arms, n_seeds, None, _blocked_df(n_arms, n_seeds), 2, critical)


def blocked_dunnett(n_arms: int, n_seeds: int, alpha: float) -> PlannedTest:
    """Plan one arm minus the control with Dunnett's critical value, which holds alpha over all arms together."""
    df_error = _blocked_df(n_arms, n_seeds)
    _check(n_arms, n_seeds, df_error, alpha)
    return blocked_at(n_arms, n_seeds, dunnett_critical(alpha, n_arms - 1, df_error), "blocked Dunnett")


def difference_of_differences(n_arms: int, n_seeds: int, alpha: float, n_tests: int = 1) -> PlannedTest:
    """Plan (a - b) - (c - d) of four arms on the blocked error: an interaction, or non-additivity; in sigma_e."""
    df_error = _blocked_df(n_arms, n_seeds)
    return _t_test("difference of differences", "sigma_e", n_arms, n_seeds, df_error, 4, alpha / n_tests)


def blocked_f(n_arms: int, n_seeds: int, alpha: float) -> PlannedTest:
    """Plan the blocked omnibus test F(k-1, (k-1)(n-1)); the effect is the largest difference, in sigma_e."""
    return _f_test("blocked F", n_arms, n_seeds, n_arms - 1, 2, alpha)


def two_way_main(n_levels: int, n_other: int, n_seeds: int, alpha: float) -> PlannedTest:
    """Plan the main effect of a factor with ``n_levels`` in a blocked two-way design; largest difference, in sigma_e.

    The difference is between levels' means over the ``n_other`` levels of the other factor. The error is the blocked
    error of all arms, with (n_levels * n_other - 1)(n_seeds - 1) degrees of freedom.
    """
    return _f_test("two-way main F", n_levels * n_other, n_seeds, n_levels - 1, 2 / max(1, n_other), alpha)


def two_way_interaction(n_first: int, n_second: int, n_seeds: int, alpha: float) -> PlannedTest:
    """Plan the interaction of a blocked two-way design; the largest difference of differences, in sigma_e."""
    df_effect = (n_first - 1) * (n_second - 1)
    return _f_test("two-way interaction F", n_first * n_second, n_seeds, df_effect, 4, alpha)


def _blocked_df(n_arms: int, n_seeds: int) -> int:
    return (n_arms - 1) * (n_seeds - 1)


def _t_test(name: str, unit: str, n_arms: int, n_seeds: int, df: int, squares: float, alpha: float) -> PlannedTest:
    _check(n_arms, n_seeds, df, alpha)
    return _planned(name, unit, n_arms, n_seeds, None, df, squares, t_quantile(1 - alpha / 2, df))


def _f_test(name: str, n_arms: int, n_seeds: int, df_effect: int, squares: float, alpha: float) -> PlannedTest:
    df_error = _blocked_df(n_arms, n_seeds)
    _check(n_arms, n_seeds, min(df_effect, df_error), alpha)
    critical = float(special.fdtri(df_effect, df_error, 1 - alpha))
    return _planned(name, "sigma_e", n_arms, n_seeds, df_effect, df_error, squares, critical)


def _planned(
    name: str, unit: str, n_arms: int, n_seeds: int, df1: int | None, df2: int, squares: float, critical: float
) -> PlannedTest:
    """``squares`` is the sum of the squared weights of the contrast that is the effect."""
    _check(n_arms, n_seeds, df2)
    error = float(np.sqrt(squares / n_seeds))
    return PlannedTest(name, unit, n_arms, n_seeds, df1, df2, error, critical, n_arms * n_seeds)


def _check(n_arms: int, n_seeds: int, df: int, alpha: float = 0.5) -> None:
    if n_arms < 2 or n_seeds < 2 or df < 1:
        raise ValueError(f"{n_arms} arms and {n_seeds} seeds leave no degrees of freedom: the test needs 2 of each")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, not {alpha}")


def seeds_needed(plan: Callable[[int], PlannedTest], effect: float, power: float = 0.8, most: int = 1000) -> int | None:
    """Return the fewest seeds with which a test finds an effect with the given power; None when ``most`` are too few.

    Args:
        plan: makes the test for a number of seeds, for instance ``lambda n: blocked(6, n, 0.05)``.
        effect: the true effect, in the test's unit.
        power: the power wanted.
        most: the largest number of seeds that is tried.
    """
    few, enough = 1, most  # power rises with seeds, so halve the range
    if plan(most).power(effect) < power:
        return None
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if plan(middle).power(effect) >= power else (middle, enough)
    return enough


@cache
def smallest_p(test: str, n_arms: int, n_seeds: int) -> float:
    """Return the smallest two-sided p value that a design can reach, whatever the data.

    Args:
        test: ``sign_flip`` of paired differences (2 / 2^n); ``permutation_two_sample`` (2 / C(2n, n));
            ``permutation_blocks``, of arms within seeds as :func:`~lmexp.statistics.blocks.permutation_test` does it
            (1 / (k!)^(n-1) as long as it looks at every arrangement); or one of ``CONTINUOUS_TESTS``, which have no
            smallest p: 0.
        n_arms: arms k; the first two tests compare two of them.
        n_seeds: seeds n of every arm.

    Returns:
        1 where the design leaves the test nothing to vary, so that it can never reject.

    Raises:
        ValueError: the test is unknown.
    """
    if test not in CONTINUOUS_TESTS + COUNTING_TESTS:
        raise ValueError(f"unknown test {test!r}; one of {', '.join(CONTINUOUS_TESTS + COUNTING_TESTS)}")
    if n_arms < 2 or n_seeds < 2:
        return 1.0
    if test == "sign_flip":
        return 2 / 2**n_seeds
    if test == "permutation_two_sample":
        return 2 / comb(2 * n_seeds, n_seeds)
    return _smallest_block_p(n_arms, n_seeds) if test == "permutation_blocks" else 0.0


def _smallest_block_p(n_arms: int, n_seeds: int) -> float:
    """Return the p of data that no arrangement beats: every seed puts the arms in the same order."""
    return permutation_test(np.tile(np.arange(n_arms, dtype=float)[:, None], (1, n_seeds))).p


def reaches_alpha(test: str, n_arms: int, n_seeds: int, alpha: float) -> bool:
    """Return whether a test can reject at all at this level: a plan whose test cannot is to be refused."""
    return smallest_p(test, n_arms, n_seeds) <= alpha


def tost_least_margin(standard_error: float, df: float, alpha: float) -> float:
    """Return the margin that equivalence (TOST) needs even when the arms come out exactly equal.

    In the standard error's unit: with 3 paired seeds, alpha .05 and s_diff = 1 (standard error 1 / sqrt(3), 2 degrees
    of freedom) it is 1.69. A smaller margin can never give equivalence.
    """
    return t_quantile(1 - alpha, df) * standard_error


def tost_power(margin: float, effect: float, standard_error: float, df: float, alpha: float) -> float:
    """Return the probability that TOST finds equivalence within ``margin`` when the true difference is ``effect``.

    Exact, both tests on the one estimated error (Owen 1965; Phillips 1990). All lengths are in one unit.

    With S the ratio of estimated to true error, equivalence needs the difference to lie within margin - c S errors of
    zero, c the critical value; the integral over S ends where that is nothing.

    Raises:
        ValueError: ``margin`` is not above 0, or ``alpha`` not between 0 and 0.5.
    """
    if margin <= 0 or not 0 < alpha < 0.5:
        raise ValueError(f"TOST needs a margin above 0 and alpha between 0 and 0.5, not {margin} and {alpha}")
    critical = t_quantile(1 - alpha, df)
    scale, weight = _scale_grid(df, margin / standard_error / critical)
    upper = (margin - effect) / standard_error - critical * scale
    lower = (-margin - effect) / standard_error + critical * scale
    return float(np.clip(weight @ (special.ndtr(upper) - special.ndtr(lower)), 0.0, 1.0))


def tost_margin(standard_error: float, df: float, alpha: float, power: float = 0.8) -> float:
    """Return the margin within which TOST finds arms that truly are equal with the given power.

    Raises:
        ValueError: ``power`` is not between 0 and 1.
    """
    if not 0 < power < 1:
        raise ValueError(f"power must lie between 0 and 1, not {power}")
    return standard_error * _rising_root(lambda margin: tost_power(margin, 0.0, 1.0, df, alpha) - power)


def _scale_grid(df: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Return points of S = sqrt(chi2(df) / df) from 0 to ``end`` and weights that hold its density."""
    end = min(end, float(np.sqrt(2 * special.gammainccinv(df / 2, 1e-17) / df)))  # beyond, nothing that counts
    points, weights = np.polynomial.legendre.leggauss(32)
    n_panels = 32  # so narrow that within a panel the integrand is close to a polynomial
    starts = np.arange(n_panels)[:, None]
    scale = (end * (starts + (points + 1) / 2) / n_panels).ravel()
    log_density = np.log(2) + df / 2 * np.log(df / 2) - special.gammaln(df / 2) - df * scale * scale / 2
    return scale, np.tile(weights, n_panels) * end / 2 / n_panels * np.exp(log_density + special.xlogy(df - 1, scale))


def _rising_root(function: Callable[[float], float]) -> float:
    """Return the root of a function that rises from below zero at 0: double a bound, then halve to eleven digits."""
    low, high = 0.0, 1.0
    while function(high) < 0:
        low, high = high, 2 * high
        if high > _MOST_EFFECT:
            raise ValueError("no effect, however large, is found with this power")
    while high - low > 1e-11 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return (low + high) / 2
