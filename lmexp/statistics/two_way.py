"""Two crossed factors with seeds as blocks.

The model is ``value[a, b, seed] = mean + A[a] + B[b] + AB[a, b] + seed + error``: every combination of the two factors
at every seed, seeds additive, one error variance. The error pools all interactions with seeds, so that it has
(n_a n_b - 1)(seeds - 1) degrees of freedom; it is the blocked error of :mod:`lmexp.statistics.blocks` with the
combinations as arms. (The other model, in which each factor has its own error with seeds, leaves n_a - 1 times
seeds - 1 degrees of freedom: six for four levels and three seeds.)
"""

from dataclasses import dataclass

import numpy as np

from lmexp.statistics.blocks import Fit, contrast, fit_blocks
from lmexp.statistics.distributions import f_upper_p
from lmexp.statistics.estimates import Estimate
from lmexp.statistics.explained import explained_variation
from lmexp.statistics.rows import Tabular, f_text


@dataclass(frozen=True)
class Effect(Tabular):
    """One source of variation. Where ``why`` says so, ``f``, ``p`` and the partial eta2 and omega2 are undefined."""

    name: str  # A, B or AB
    ss: float
    df: int
    df_error: int
    f: float | None
    p: float | None
    eta2: Estimate
    omega2: Estimate
    why: str | None

    def __str__(self) -> str:
        text = f"{self.name}: {f_text(self.f, self.df, self.df_error, self.p, self.why)}"
        return text if self.f is None else f"{text}; {self.eta2}"


@dataclass(frozen=True)
class TwoWayAnova(Tabular):
    """The blocked two-way analysis of variance (the model: :mod:`lmexp.statistics.two_way`)."""

    n_a: int
    n_b: int
    n_seeds: int
    a: Effect
    b: Effect
    interaction: Effect
    ss_seeds: float
    df_seeds: int
    ss_error: float
    df_error: int
    error_variance: float | None
    why: str | None

    @property
    def effects(self) -> tuple[Effect, Effect, Effect]:
        """The two main effects and their interaction."""
        return self.a, self.b, self.interaction

    def __str__(self) -> str:
        return "; ".join(
            f"{effect.name} {f_text(effect.f, effect.df, effect.df_error, effect.p, effect.why)}"
            for effect in self.effects
        )


def two_way_blocked(values: np.ndarray) -> TwoWayAnova:
    """Test two factors and their interaction, seeds as blocks.

    Args:
        values: (n_a, n_b, seeds) without gaps.

    Raises:
        ValueError: the array is not 3-D, or a value is missing or infinite.

    Source: any text on factorial randomised block designs, for instance Kirk, Experimental Design.
    """
    fit, cells = _fit_cells(values)
    n_a, n_b, n_seeds = values.shape
    a, b = cells.mean(axis=1), cells.mean(axis=0)
    rest = cells - a[:, None] - b
    return TwoWayAnova(
        n_a=n_a,
        n_b=n_b,
        n_seeds=n_seeds,
        a=_effect("A", n_b * n_seeds * float(a @ a), n_a - 1, fit),
        b=_effect("B", n_a * n_seeds * float(b @ b), n_b - 1, fit),
        interaction=_effect("AB", n_seeds * float((rest**2).sum()), (n_a - 1) * (n_b - 1), fit),
        ss_seeds=fit.ss_seeds,
        df_seeds=n_seeds - 1,
        ss_error=fit.ss_error,
        df_error=fit.df_error,
        error_variance=fit.error_variance,
        why=fit.why,
    )


def _fit_cells(values: np.ndarray) -> tuple[Fit, np.ndarray]:
    """Return the block design whose arms are the combinations, and their means less the grand mean: (n_a, n_b)."""
    if values.ndim != 3:
        raise ValueError(f"values of shape {values.shape} must be (n_a, n_b, seeds)")
    n_a, n_b, n_seeds = values.shape
    fit = fit_blocks(values.reshape(n_a * n_b, n_seeds))
    cells = fit.means.reshape(n_a, n_b)
    return fit, cells - cells.mean()


def _effect(name: str, ss: float, df: int, fit: Fit) -> Effect:
    why = "the factor has one level" if df == 0 and fit.why is None else fit.why
    f = None if why or fit.error_variance is None else ss / df / fit.error_variance
    n_values = fit.n_arms * fit.n_seeds
    eta2, omega2 = explained_variation(f, df, fit.df_error, n_values, fit.n_seeds, why)
    p = None if f is None else f_upper_p(f, df, fit.df_error)
    return Effect(name, ss, df, fit.df_error, f, p, eta2, omega2, why)


def difference_of_differences(
    values: np.ndarray, a: tuple[int, int], b: tuple[int, int], confidence: float
) -> Estimate:
    """Return how much the step from one level of A to another changes with B, with its t interval on the pooled error.

    With a = b = (0, 1): (mean[1, 1] - mean[0, 1]) - (mean[1, 0] - mean[0, 0]), which is zero when the steps add up.

    Args:
        values: (n_a, n_b, seeds) without gaps.
        a: two levels of A, from and to.
        b: two levels of B, from and to.
        confidence: coverage of the interval; it holds for this one contrast.

    Raises:
        ValueError: the array is not 3-D or has gaps, or two levels are the same.
    """
    if a[0] == a[1] or b[0] == b[1]:
        raise ValueError(f"levels {a} of A and {b} of B must differ")
    fit, cells = _fit_cells(values)
    weights = np.zeros(cells.shape)
    weights[np.ix_(a, b)] = [[1, -1], [-1, 1]]
    return contrast(fit, weights.ravel(), confidence, "blocked t, difference of differences")
