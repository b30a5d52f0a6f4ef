"""The probability distributions that the analysis needs and that ``scipy.special`` lacks or gets wrong.

Only ``scipy.special`` is imported: ``scipy.stats`` and ``scipy.optimize`` would add a second to every report, and their
noncentral t returns NaN in places (``nct.cdf(-4.303, 2, 8)``). The integrals here are Gauss-Legendre sums, so every
run gives the same digits; the quasi-random integration of ``scipy.stats.multivariate_t`` varies in the fourth.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from itertools import pairwise

import numpy as np
from scipy import special

_NEGLIGIBLE = 1e-17  # probability cut off at each end of an integral: below one unit in the last place of the result
_REACH = 8.5  # standard deviations beyond which the normal tail is negligible in the same sense
_LARGE = 1e7  # noncentralities from here on are beyond the series of ``special.ncfdtr``, which ends in NaN


def t_quantile(probability: float, df: float) -> float:
    """Return the quantile of Student's t."""
    return float(special.stdtrit(df, probability))


def t_two_sided_p(t: float, df: float) -> float:
    """Return P(|T| >= |t|) for Student's t."""
    return float(2 * special.stdtr(df, -abs(t)))


def f_upper_p(f: float, df1: float, df2: float) -> float:
    """Return P(F >= f)."""
    return float(special.fdtrc(df1, df2, f))


def noncentral_t_cdf(t: float, df: float, noncentrality: float) -> float:
    """Return P(T <= t) for T = (Z + noncentrality) / S, S = sqrt(chi2(df) / df).

    Computed as the integral of Phi(t s - noncentrality) over the density of S, to about 1e-12.
    """
    if t == 0:
        return float(special.ndtr(-noncentrality))
    middle, width = noncentrality / t, _REACH / abs(t)  # Phi's step lies here
    scale, weight = _scale_grid(df, (middle - width, middle, middle + width))
    return float(np.clip(weight @ special.ndtr(t * scale - noncentrality), 0.0, 1.0))


def noncentral_t_limits(t: float, df: float, confidence: float) -> tuple[float, float]:
    """Return the noncentralities for which ``t`` lies at the upper and at the lower end of its central interval.

    This is the interval of the noncentrality by inversion (Steiger and Fouladi 1997).
    """
    tail = (1 - confidence) / 2

    def limit(p: float) -> float:
        return _falling_root(lambda noncentrality: noncentral_t_cdf(t, df, noncentrality) - p, start=t)

    return limit(1 - tail), limit(tail)


def noncentral_f_cdf(f: float, df1: float, df2: float, noncentrality: float) -> float:
    """Return P(F <= f) for the noncentral F.

    For a large noncentrality the root of the noncentral chi-square above the line is normal around
    sqrt(noncentrality + df1 - 1) with variance 1, to a relative error of 1 / noncentrality: a noncentral t.
    """
    if noncentrality < _LARGE:
        return float(special.ncfdtr(df1, df2, noncentrality, f))
    return noncentral_t_cdf(float(np.sqrt(df1 * f)), df2, float(np.sqrt(noncentrality + df1 - 1)))


def noncentral_f_limits(f: float, df1: float, df2: float, confidence: float) -> tuple[float, float]:
    """Return the interval of the noncentrality of F by inversion (Steiger 2004); the least limit is 0."""
    tail = (1 - confidence) / 2
    return _noncentral_f_limit(f, df1, df2, 1 - tail), _noncentral_f_limit(f, df1, df2, tail)


def _noncentral_f_limit(f: float, df1: float, df2: float, p: float) -> float:
    if special.fdtr(df1, df2, f) <= p:  # F would be this small often enough without any noncentrality
        return 0.0
    return _falling_root(lambda noncentrality: noncentral_f_cdf(f, df1, df2, noncentrality) - p, df1 * f, floor=0.0)


def dunnett_cdf(bound: float, n_comparisons: int, df: float) -> float:
    """Return P(max |T_j| <= bound) for the differences of ``n_comparisons`` arms from one control.

    All arms have equally many values, so every pair of differences correlates by 1/2 (Dunnett 1955). With the control's
    deviation z and the scale s fixed the differences are independent, which leaves a double integral: good to about
    1e-13 for a dozen arms, 1e-9 for sixty.
    """
    half_width = np.sqrt(2) * bound
    scale, scale_weight = _scale_grid(df, (1.5 * _REACH / max(half_width, 1e-9),))
    z, z_weight = _panel(-_REACH, _REACH, 128)
    reach = half_width * scale[:, None]
    inside = special.ndtr(z + reach) - special.ndtr(z - reach)
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    return float(np.clip(scale_weight @ (inside**n_comparisons @ (density * z_weight)), 0.0, 1.0))


@lru_cache(maxsize=1024)
def dunnett_critical(alpha: float, n_comparisons: int, df: float) -> float:
    """Return the two-sided critical value of Dunnett's test (family-wise error ``alpha``)."""
    start = t_quantile(1 - alpha / 2, df)
    return _falling_root(lambda c: (1 - alpha) - dunnett_cdf(c, n_comparisons, df), start, floor=0.0)


def studentized_range_cdf(bound: float, n_means: int, df: float) -> float:
    """Return P(range of ``n_means`` standard normals / S <= bound), S = sqrt(chi2(df) / df) (Tukey 1953).

    Given the largest of the normals, z, the others lie within the range below it independently; with the scale s that
    leaves a double integral, as good as :func:`dunnett_cdf`'s.
    """
    scale, scale_weight = _scale_grid(df, (1.5 * _REACH / max(bound, 1e-9),))
    z, z_weight = _panel(-_REACH, _REACH, 128)
    below = special.ndtr(z) - special.ndtr(z - bound * scale[:, None])
    density = n_means * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    return float(np.clip(scale_weight @ (below ** (n_means - 1) @ (density * z_weight)), 0.0, 1.0))


@lru_cache(maxsize=1024)
def studentized_range_critical(alpha: float, n_means: int, df: float) -> float:
    """Return the upper ``alpha`` point of the studentized range (Tukey's test, Games and Howell's)."""
    start = np.sqrt(2) * t_quantile(1 - alpha / 2, df)  # two means: the range is then sqrt(2) |t|
    return _falling_root(lambda q: (1 - alpha) - studentized_range_cdf(q, n_means, df), start, floor=0.0)


def _scale_grid(df: float, breaks: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return points of S = sqrt(chi2(df) / df) and weights that hold its density, with panels cut at ``breaks``.

    The points are Gauss-Legendre's in the fourth root of S: there the density is smooth at zero for every df from 1 on,
    whole or not, and no digit is lost. The weights are scaled to add up to 1, which spares large gamma functions.
    """
    low, high = _scale_range(df)
    edges = [low, *sorted(min(max(edge, low), high) for edge in breaks), high]
    panels = [_panel(left**0.25, right**0.25, 64) for left, right in pairwise(edges) if right > left]
    root = np.concatenate([points for points, _ in panels])
    width = np.concatenate([weights for _, weights in panels])
    log_density = (4 * df - 1) * np.log(root) - df * root**8 / 2  # (df - 1) log S, and 3 log root for the new variable
    weight = width * np.exp(log_density - log_density.max())
    return root**4, weight / weight.sum()


@cache
def _scale_range(df: float) -> tuple[float, float]:
    low = special.gammaincinv(df / 2, _NEGLIGIBLE)
    high = special.gammainccinv(df / 2, _NEGLIGIBLE)
    return float(np.sqrt(2 * low / df)), float(np.sqrt(2 * high / df))


@cache
def _legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(n)


def _panel(low: float, high: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    points, weights = _legendre(n)
    return low + (high - low) * (points + 1) / 2, weights * (high - low) / 2


def _falling_root(function: Callable[[float], float], start: float, floor: float = -np.inf) -> float:
    """Return the root of a falling function: widen a bracket around ``start``, then close it to twelve digits."""
    start, width = float(start), 1.0 + abs(float(start))
    low, high = max(floor, start - width), start + width
    while (at_low := function(low)) < 0 and low > floor:
        low, width = max(floor, low - width), 2 * width
    while (at_high := function(high)) > 0:
        high, width = high + width, 2 * width
    return _bracketed_root(function, (low, at_low), (high, at_high))


def _bracketed_root(function: Callable[[float], float], one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the root between two points ``(x, function(x))`` (Chandrupatla 1997).

    Inverse quadratic steps where the three last points promise that they help, bisection elsewhere: a handful of calls
    instead of the forty of bisection alone, and never many more.
    """
    (a, at_a), (b, at_b), part = one, other, 0.5  # the root is between a, the newest point, and b
    while True:
        x = a + part * (b - a)
        at_x = function(x)
        if (at_x > 0) == (at_a > 0):
            c, at_c = a, at_a
        else:
            c, at_c, b, at_b = b, at_b, a, at_a
        a, at_a = x, at_x
        least = (1e-12 * max(abs(a), abs(b)) + 1e-15) / abs(b - c)
        if at_a == 0 or least > 0.5:
            return a if abs(at_a) < abs(at_b) else b
        part = min(max(_next_part((a, at_a), (b, at_b), (c, at_c)), least), 1 - least)


def _next_part(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Return how far to go from a to b: by the inverse parabola through all three, or half way when it is no help."""
    xi, phi = (a[0] - b[0]) / (c[0] - b[0]), (a[1] - b[1]) / (c[1] - b[1])
    if not (phi**2 < xi and (1 - phi) ** 2 < 1 - xi):
        return 0.5
    towards_b = a[1] / (b[1] - a[1]) * c[1] / (b[1] - c[1])
    towards_c = (c[0] - a[0]) / (b[0] - a[0]) * a[1] / (c[1] - a[1]) * b[1] / (c[1] - b[1])
    return towards_b + towards_c
