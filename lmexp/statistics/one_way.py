"""Separate samples of any sizes: the classical one-way analysis of variance, Welch's, Alexander and Govern's check.

For arms whose seeds are paired use :mod:`lmexp.statistics.blocks`: it takes out what the seeds share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, log, sqrt

import numpy as np
from scipy import special

from lmexp.statistics.distributions import f_upper_p
from lmexp.statistics.estimates import Estimate
from lmexp.statistics.explained import explained_variation
from lmexp.statistics.rows import Tabular, f_text, p_text

# Deviations below this many units in the last place of the largest value are rounding, not variation. Values that
# differ in their 13th digit, as in NIST's hardest files, are hundreds of units apart.
_ROUNDING_UNITS = 16
_NO_SPREAD = "no variation within any sample"


def finite_samples(samples: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the samples as arrays of float.

    Raises:
        ValueError: a sample is not 1-D, or a value is missing or infinite: drop it first, and count it.
    """
    arrays = [np.asarray(sample, dtype=float) for sample in samples]
    for i, sample in enumerate(arrays):
        if sample.ndim != 1 or not np.isfinite(sample).all():
            raise ValueError(f"sample {i} of shape {sample.shape} must be 1-D without gaps")
    return arrays


def _is_rounding(deviations: np.ndarray, scale: float) -> bool:
    return bool(np.abs(deviations).max(initial=0.0) <= _ROUNDING_UNITS * np.spacing(scale))


@dataclass(frozen=True)
class Sample:
    """What one sample says of its mean; ``squared_error`` is None when undefined, and ``why`` then says why."""

    n: int
    mean: float | None  # above the mean of all values of all samples
    squared_error: float | None  # variance of the mean, s^2 / n
    why: str | None


def describe(samples: Sequence[np.ndarray]) -> list[Sample]:
    """Return each sample's mean and squared standard error; values are centred first, so that both keep their digits.

    Raises:
        ValueError: a value is missing or infinite.
    """
    arrays = finite_samples(samples)
    near = _middle(arrays)
    return [_describe(sample, near) for sample in arrays]


def _middle(arrays: list[np.ndarray]) -> float:
    """Return the mean of all values. Any rounding of it cancels, and values close to it lose nothing by subtraction."""
    values = np.concatenate(arrays) if arrays else np.zeros(0)
    return float(values.mean()) if len(values) else 0.0


def _describe(sample: np.ndarray, near: float) -> Sample:
    if len(sample) == 0:
        return Sample(0, None, None, "a sample has no value")
    mean, deviations = _centred(sample - near)
    if len(sample) < 2:
        return Sample(1, mean, None, "a sample has fewer than 2 values")
    if _is_rounding(deviations, float(np.abs(sample).max())):
        return Sample(len(sample), mean, None, "a sample has no variation")
    return Sample(len(sample), mean, fsum(deviations**2) / (len(sample) - 1) / len(sample), None)


def _centred(values: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean and the deviations from it. values: (n,), already near zero for their spread."""
    mean = fsum(values) / len(values)
    return mean, values - mean


@dataclass(frozen=True)
class OneWayAnova(Tabular):
    """The classical one-way analysis of variance: independent samples with one common variance.

    ``f`` and ``p`` are None when undefined; ``why`` then says why. Here ``eta2`` (R squared) and ``omega2`` are of the
    whole variation.
    """

    n_groups: int
    n_values: int
    ss_between: float
    ss_within: float
    df_between: int
    df_within: int
    f: float | None
    p: float | None
    eta2: Estimate
    omega2: Estimate
    why: str | None

    def __str__(self) -> str:
        f = f_text(self.f, self.df_between, self.df_within, self.p, self.why)
        return f if self.f is None else f"{f}; {self.eta2}"


def one_way_anova(samples: Sequence[np.ndarray]) -> OneWayAnova:
    """Test whether independent samples with one common variance have one mean: F(k - 1, N - k).

    Values are centred before anything is squared and sums carry no rounding, so F has all the digits that the values
    themselves hold.

    Args:
        samples: 1-D arrays without gaps, of any lengths.

    Raises:
        ValueError: a value is missing or infinite, or a sample is empty.

    Source: any text, for instance Kirk, Experimental Design; intervals as in
    :func:`~lmexp.statistics.explained.explained_variation`.
    """
    arrays = finite_samples(samples)
    if min(map(len, arrays), default=0) == 0:
        raise ValueError("one_way_anova needs a value in every sample")
    df = (len(arrays) - 1, sum(map(len, arrays)) - len(arrays))
    between, within, spread = _sums_of_squares(arrays)
    why = _why_no_f(df, spread)
    f = None if why else between / df[0] / (within / df[1])
    n_values, n_seeds = sum(map(len, arrays)), min(map(len, arrays))
    eta2, omega2 = explained_variation(f, *df, n_values, n_seeds, why, name="")
    p = None if f is None else f_upper_p(f, *df)
    return OneWayAnova(len(arrays), n_values, between, within, *df, f, p, eta2, omega2, why)


def _sums_of_squares(samples: list[np.ndarray]) -> tuple[float, float, bool]:
    """Return the sums of squares between and within samples, and whether there is any variation within."""
    near = _middle(samples)
    centred = [_centred(sample - near) for sample in samples]
    sizes, means = [len(sample) for sample in samples], [mean for mean, _ in centred]
    overall = fsum(n * mean for n, mean in zip(sizes, means, strict=True)) / sum(sizes)
    between = fsum(n * (mean - overall) ** 2 for n, mean in zip(sizes, means, strict=True))
    residuals = np.concatenate([deviations for _, deviations in centred])
    scale = max(float(np.abs(sample).max()) for sample in samples)
    return between, fsum(residuals**2), not _is_rounding(residuals, scale)


def _why_no_f(df: tuple[int, int], spread: bool) -> str | None:
    if df[0] < 1:
        return "fewer than 2 samples"
    if df[1] < 1:
        return "no sample has 2 values"
    return None if spread else _NO_SPREAD


@dataclass(frozen=True)
class WelchAnova(Tabular):
    """Welch's analysis of variance: independent samples, each with its own variance.

    ``f``, ``df2`` and ``p`` are None when undefined; ``why`` then says why.
    """

    n_groups: int
    n_values: int
    df1: int
    df2: float | None
    f: float | None
    p: float | None
    why: str | None

    def __str__(self) -> str:
        return f_text(self.f, self.df1, self.df2 or 0.0, self.p, self.why)


def welch_anova(samples: Sequence[np.ndarray]) -> WelchAnova:
    """Test whether independent samples have one mean, each sample with its own variance.

    F follows its distribution only nearly. At level .05 with normal samples of 3 and equal variances it rejects about
    .036 of the time for two samples and .073 for six (:mod:`lmexp.statistics.calibration`).

    Args:
        samples: 1-D arrays without gaps, of any lengths.

    Raises:
        ValueError: a value is missing or infinite.

    Source: Welch (1951), equations as in R's ``oneway.test``.
    """
    described = describe(samples)
    k, n_values = len(described), sum(sample.n for sample in described)
    why = _why_unweighted(described)
    if why:
        return WelchAnova(k, n_values, k - 1, None, None, None, why)
    weights, centre, means = _weighted(described)
    shares = (1 - weights / weights.sum()) ** 2 / [sample.n - 1 for sample in described]
    spread = float(shares.sum()) / (k * k - 1)
    f = float(weights @ (means - centre) ** 2) / (k - 1) / (1 + 2 * (k - 2) * spread)
    df2 = 1 / (3 * spread)
    return WelchAnova(k, n_values, k - 1, df2, f, f_upper_p(f, k - 1, df2), None)


def _why_unweighted(described: list[Sample]) -> str | None:
    if len(described) < 2:
        return "fewer than 2 samples"
    return next((sample.why for sample in described if sample.why), None)


def _weighted(described: list[Sample]) -> tuple[np.ndarray, float, np.ndarray]:
    """Return the samples' weights (1 over squared error), their weighted mean and their means."""
    weights = np.array([1 / float(sample.squared_error or np.nan) for sample in described])
    means = np.array([float(sample.mean or 0.0) for sample in described])
    return weights, float(weights @ means / weights.sum()), means


@dataclass(frozen=True)
class AlexanderGovern(Tabular):
    """Alexander and Govern's test: ``statistic`` is about chi-square with ``df``; None when undefined, ``why`` says."""

    n_groups: int
    df: int
    statistic: float | None
    p: float | None
    why: str | None

    def __str__(self) -> str:
        if self.statistic is None:
            return f"A undefined: {self.why}"
        return f"A({self.df}) = {self.statistic:.4g}, {p_text(self.p)}"


def alexander_govern(samples: Sequence[np.ndarray]) -> AlexanderGovern:
    """Test as :func:`welch_anova` does, by another approximation: a check beside it.

    Args:
        samples: 1-D arrays without gaps, of any lengths.

    Raises:
        ValueError: a value is missing or infinite.

    Source: Alexander and Govern (1994); the normal approximation of t is Hill's (1970).
    """
    described = describe(samples)
    df, why = len(described) - 1, _why_unweighted(described)
    if why:
        return AlexanderGovern(len(described), df, None, None, why)
    weights, centre, means = _weighted(described)
    t = (means - centre) * np.sqrt(weights)
    statistic = fsum(_normal_score(one, sample.n - 1) ** 2 for one, sample in zip(t, described, strict=True))
    return AlexanderGovern(len(described), df, statistic, float(special.chdtrc(df, statistic)), None)


def _normal_score(t: float, df: int) -> float:
    """Return about the standard normal deviate with the same tail as Student's t."""
    a, b = df - 0.5, 48 * (df - 0.5) ** 2
    c = sqrt(a * log(1 + t * t / df))
    numerator = 4 * c**7 + 33 * c**5 + 240 * c**3 + 855 * c
    return c + (c**3 + 3 * c) / b - numerator / (10 * b * b + 8 * b * c**4 + 1000 * b)
