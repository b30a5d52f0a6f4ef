"""The complete block design: every arm at every seed, ``value[arm, seed] = mean + arm + seed + error``.

Seeds are paired across arms (same data order, same shared initial weights), so what a seed does to every arm alike is
taken out, and what is left, the blocked error, is the yardstick of every comparison between arms.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import factorial

import numpy as np
from scipy import special

from lmexp.statistics.distributions import f_upper_p, t_quantile
from lmexp.statistics.estimates import NO_ERROR, NO_SPREAD, TOO_FEW, Estimate, undefined
from lmexp.statistics.explained import explained_variation
from lmexp.statistics.rows import Tabular, f_text, p_text

_ROUNDING = 1e-12  # residuals below this fraction of the values are rounding, not variation
_EXACT_UP_TO = 600_000  # permutations; beyond, draw at random
_N_DRAWS = 20_000


@dataclass(frozen=True)
class Fit:
    """The fitted block design. ``error_variance`` is None when undefined, and ``why`` then says why."""

    means: np.ndarray  # (arms,)
    n_seeds: int
    ss_arms: float
    ss_seeds: float
    ss_error: float
    df_error: int
    error_variance: float | None
    why: str | None

    @property
    def n_arms(self) -> int:
        """The number of arms."""
        return len(self.means)


def complete_seeds(values: np.ndarray) -> np.ndarray:
    """Return which seeds have a value in every arm. values: (arms, seeds), NaN where missing -> (seeds,) of bool."""
    return np.isfinite(values).all(axis=0)


def fit_blocks(values: np.ndarray) -> Fit:
    """Fit ``mean + arm + seed + error``.

    Args:
        values: (arms, seeds), without gaps.

    Raises:
        ValueError: a value is missing or infinite: drop incomplete seeds first, and count them.
    """
    if not np.isfinite(values).all():
        raise ValueError("fit_blocks needs a value in every cell")
    n_arms, n_seeds = values.shape
    if n_seeds == 0:
        return Fit(np.full(n_arms, np.nan), 0, 0.0, 0.0, 0.0, 0, None, TOO_FEW)
    means, centred = values.mean(axis=1), values - values.mean()
    arms, seeds = centred.mean(axis=1), centred.mean(axis=0)
    residuals = centred - arms[:, None] - seeds
    df_error = (n_arms - 1) * (n_seeds - 1)
    why = _why_no_error(residuals, seeds, np.abs(values).max(), df_error)
    sums = (n_seeds * float(arms @ arms), n_arms * float(seeds @ seeds), float((residuals**2).sum()))
    variance = None if why else sums[2] / df_error
    return Fit(means, n_seeds, *sums, df_error, variance, why)


def _why_no_error(residuals: np.ndarray, seeds: np.ndarray, scale: float, df_error: int) -> str | None:
    if len(seeds) < 2:
        return TOO_FEW
    if df_error < 1:
        return "fewer than 2 arms"
    if np.abs(residuals).max() > _ROUNDING * scale:
        return None
    return NO_ERROR if np.abs(seeds).max() > _ROUNDING * scale else NO_SPREAD


@dataclass(frozen=True)
class BlockedAnova(Tabular):
    """The blocked (randomised block, repeated measures) analysis of variance.

    ``f`` and all that follows are None when undefined; ``why`` then says why.

    ``eta2`` and ``omega2`` are partial: the part of the variation that is left when seed effects are taken out
    (conventions of their intervals: :func:`~lmexp.statistics.explained.explained_variation`).

    ``epsilon`` is Greenhouse and Geisser's and ``p_sphericity`` the p value corrected by it: with few seeds a rough
    check only. ``permutation`` assumes no more than that arms are exchangeable within a seed under the null.
    """

    n_arms: int
    n_seeds: int
    ss_arms: float
    ss_seeds: float
    ss_error: float
    df_arms: int
    df_seeds: int
    df_error: int
    f: float | None
    p: float | None
    eta2: Estimate
    omega2: Estimate
    epsilon: float | None
    p_sphericity: float | None
    permutation: "Permutation | None"
    why: str | None

    def __str__(self) -> str:
        f = f_text(self.f, self.df_arms, self.df_error, self.p, self.why)
        return f if self.permutation is None else f"{f}; {self.permutation}; {self.eta2}"


def blocked_anova(values: np.ndarray) -> BlockedAnova:
    """Test whether the arms differ at all: F(k-1, (k-1)(n-1)) with seeds as blocks.

    Args:
        values: (arms, seeds), without gaps.

    Source: any text on randomised block designs, for instance Kirk, Experimental Design; epsilon from Greenhouse and
    Geisser (1959); intervals by inverting the noncentral F (Steiger 2004).
    """
    fit = fit_blocks(values)
    df_arms = fit.n_arms - 1
    f = None if fit.error_variance is None else fit.ss_arms / df_arms / fit.error_variance
    epsilon = None if f is None else greenhouse_geisser(values)
    eta2, omega2 = explained_variation(f, df_arms, fit.df_error, values.size, fit.n_seeds, fit.why)
    return BlockedAnova(
        n_arms=fit.n_arms,
        n_seeds=fit.n_seeds,
        ss_arms=fit.ss_arms,
        ss_seeds=fit.ss_seeds,
        ss_error=fit.ss_error,
        df_arms=df_arms,
        df_seeds=fit.n_seeds - 1,
        df_error=fit.df_error,
        f=f,
        p=None if f is None else f_upper_p(f, df_arms, fit.df_error),
        eta2=eta2,
        omega2=omega2,
        epsilon=epsilon,
        p_sphericity=None if f is None or epsilon is None else f_upper_p(f, epsilon * df_arms, epsilon * fit.df_error),
        permutation=None if f is None else permutation_test(values),
        why=fit.why,
    )


def greenhouse_geisser(values: np.ndarray) -> float:
    """Return epsilon in [1/(k-1), 1]: 1 when all differences between arms vary alike. values: (arms, seeds)."""
    covariance = np.atleast_2d(np.cov(values))
    centred = covariance - covariance.mean(axis=0) - covariance.mean(axis=1)[:, None] + covariance.mean()
    return float(np.trace(centred) ** 2 / ((len(values) - 1) * (centred**2).sum()))


@dataclass(frozen=True)
class Permutation(Tabular):
    """A permutation test: its p value and how many arrangements it looked at; an exact p is at least 1 in as many."""

    p: float
    n_arrangements: int
    exact: bool

    def __str__(self) -> str:
        which = f"all {self.n_arrangements:,}" if self.exact else f"{self.n_arrangements:,} random"
        return f"{p_text(self.p, 'permutation p')} ({which} arrangements)"


def permutation_test(values: np.ndarray) -> Permutation:
    """Test the null that within a seed the arms are exchangeable; the statistic is the variation between arm means.

    Every arrangement is looked at when there are at most 600,000 that differ (the first seed can stay as it is), and
    20,000 drawn with a fixed generator otherwise; then p counts the observed arrangement too (Phipson and Smyth 2010).

    Args:
        values: (arms, seeds), without gaps.
    """
    n_arms, n_seeds = values.shape
    n_different = factorial(n_arms) ** (n_seeds - 1)
    exact = n_different <= _EXACT_UP_TO
    centred = values - values.mean(axis=0)  # the arms' sums then add up to zero in every arrangement
    lengths, observed = _all_lengths(centred) if exact else _drawn_lengths(centred), _lengths(centred.sum(axis=1))
    # Arrangements that tie in exact arithmetic must tie here: allow rounding of the sums.
    rounding = 1e-9 * observed + 1e-13 * n_seeds * (centred**2).sum()
    hits = int((lengths >= observed - rounding).sum())
    if exact:
        return Permutation(hits / n_different, n_different, True)
    return Permutation((hits + 1) / (_N_DRAWS + 1), _N_DRAWS, False)


def _lengths(sums: np.ndarray) -> np.ndarray:
    """Return the squared lengths of the arms' sums over seeds, the test's statistic: (..., arms) -> (...)."""
    return np.asarray((sums**2).sum(axis=-1))


def _all_lengths(values: np.ndarray) -> np.ndarray:
    """Return the statistic of every arrangement: (arrangements of all seeds but the last, those of the last)."""
    orders, n_arms = _orders(len(values)), len(values)
    sums = values[None, :, 0]
    for seed in range(1, values.shape[1] - 1):
        sums = (sums[:, None, :] + values[orders, seed]).reshape(-1, n_arms)
    if values.shape[1] == 1:
        return _lengths(sums)
    last = values[orders, -1]
    return np.add.outer(_lengths(sums), _lengths(last)) + 2 * sums @ last.T  # |a + b|^2 of every pair of them


@lru_cache(maxsize=2)
def _orders(n: int) -> np.ndarray:
    """Return every order of n things: (n!, n)."""
    orders = np.zeros((1, 0), dtype=int)
    for size in range(n):
        orders = np.concatenate([np.insert(orders, place, size, axis=1) for place in range(size + 1)])
    return orders


def _drawn_lengths(values: np.ndarray) -> np.ndarray:
    """Return the statistic of arrangements drawn at random: (draws,)."""
    generator = np.random.Generator(np.random.PCG64(0))
    columns = (generator.permuted(np.tile(column, (_N_DRAWS, 1)), axis=1) for column in values.T)
    return _lengths(sum(columns, start=np.zeros((_N_DRAWS, len(values)))))


def contrast(fit: Fit, weights: np.ndarray, confidence: float, method: str = "blocked t") -> Estimate:
    """Return ``weights @ means`` with its t interval on the blocked error.

    Args:
        fit: the block design.
        weights: (arms,), summing to zero, so that seed effects cancel.
        confidence: coverage of the interval, for instance 0.95.
    """
    value = float(weights @ fit.means) if fit.n_seeds else None
    error = standard_error(fit, weights)
    if value is None or error is None:
        return undefined(str(fit.why), confidence, fit.n_seeds, method, value)
    reach = t_quantile((1 + confidence) / 2, fit.df_error) * error
    return Estimate(value, value - reach, value + reach, confidence, fit.n_seeds, fit.df_error, method, None)


def standard_error(fit: Fit, weights: np.ndarray) -> float | None:
    """Return the standard error of a contrast of arm means, None when undefined."""
    if abs(weights.sum()) > _ROUNDING:
        raise ValueError("a contrast's weights must sum to zero, or seed effects do not cancel")
    if fit.error_variance is None:
        return None
    return float(np.sqrt(fit.error_variance * (weights @ weights) / fit.n_seeds))


def mean_estimate(values: np.ndarray, confidence: float) -> Estimate:
    """Return an arm's mean with the t interval on its own spread over seeds. values: (seeds,), NaN where missing."""
    present = values[np.isfinite(values)]
    if len(present) == 0:
        return undefined("no value", confidence, 0, "t")
    value = float(present.mean())
    if len(present) < 2:
        return undefined("fewer than 2 seeds", confidence, len(present), "t", value)
    deviation = float(present.std(ddof=1))
    if deviation <= _ROUNDING * np.abs(present).max():
        return undefined(NO_SPREAD, confidence, len(present), "t", value)
    df = len(present) - 1
    reach = float(special.stdtrit(df, (1 + confidence) / 2)) * deviation / np.sqrt(len(present))
    return Estimate(value, value - reach, value + reach, confidence, len(present), df, "t", None)
