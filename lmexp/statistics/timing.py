"""How fast something runs: the replicate is the process launch, not the step.

Steps of one launch share its memory layout, its clock frequency and its neighbours, and follow each other closely, so
thousands of them are one observation of a launch. A launch is boiled down to the median of its steady part
(:func:`launch`), and arms are compared by the ratio of paired launches (:func:`ratio_of_launches`).

A launch is a series of windows, each the mean seconds per step of a few steps (``seconds_per_step: (windows,)``), with
the number of steps in each as its weight (``steps: (windows,)``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from lmexp.statistics.distributions import t_quantile
from lmexp.statistics.estimates import NO_ERROR, NO_SPREAD, Estimate, undefined

RULES = ("mser5", "change_point")
NO_STEADY_STATE = "no steady state"
TOO_SHORT = "fewer than 50 windows"
CONSTANT = "no variation between windows"
RATIO_METHOD = "paired log t"
_BATCH = 5  # windows in a batch
_FEWEST_BATCHES = 10
_LAST_BATCHES = 5  # MSER never looks at fewer: so few can be close to each other by chance
_SHORTEST_SEGMENT = 3  # batches between changes
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Cut:
    """Where the warm-up ends: the first ``n_cut`` of ``n_windows`` windows are to be left out.

    ``n_cut`` is None when the series has no steady state or is too short to tell, and ``undefined`` says which.
    """

    rule: str
    n_cut: int | None
    n_windows: int
    undefined: str | None

    def __str__(self) -> str:
        cut = f"no cut ({self.undefined})" if self.n_cut is None else f"first {self.n_cut} cut"
        return f"{self.rule}: {cut}, of {self.n_windows} windows"


@dataclass(frozen=True)
class Launch:
    """A launch's steady speed: the median seconds per step after the warm-up, and its approximate interval.

    ``n_effective`` is the number of independent windows that the steady part is worth. ``median`` is None when there is
    no steady state, ``low`` and ``high`` also when the steady part holds too little; ``undefined`` then says why.
    """

    rule: str
    median: float | None
    low: float | None
    high: float | None
    confidence: float
    n_windows: int
    n_cut: int | None
    n_effective: float | None
    undefined: str | None

    def __str__(self) -> str:
        if self.median is None:
            return f"undefined: {self.undefined} ({self.rule}, {self.n_windows} windows)"
        interval = f"undefined: {self.undefined}" if self.low is None else f"{self.low:.4g}, {self.high:.4g}"
        worth = "" if self.n_effective is None else f" worth {self.n_effective:.0f}"
        kept = f"{self.n_windows - (self.n_cut or 0)} of {self.n_windows} windows{worth}"
        return f"{self.median:.4g} s/step [{interval}] ({self.confidence:.0%}, {kept})"


def windows(step: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return seconds per step between log points, and the steps there: both (points - 1,).

    Args:
        step: (points,), steps done at each log point, rising.
        seconds: (points,), seconds that the steps up to there took, rising.

    Raises:
        ValueError: the two do not rise together, or have a gap.
    """
    steps, elapsed = np.diff(np.asarray(step, dtype=float)), np.diff(np.asarray(seconds, dtype=float))
    if steps.shape != elapsed.shape or not ((steps > 0).all() and (elapsed > 0).all()):
        raise ValueError("steps and seconds must rise from one log point to the next")
    return elapsed / steps, steps


def warm_up_cut(seconds_per_step: np.ndarray, rule: str, steps: np.ndarray | None = None) -> Cut:
    """Return where the warm-up ends, by a rule that the plan has fixed. At least 50 windows are needed.

    Both rules see batches of 5 successive windows, and both say "no steady state" when the cut would leave half of the
    batches or fewer. Windows after the last full batch are kept.

    - ``mser5`` (White 1997; White, Cobb and Spratt 2000): cut so that the variance of batch means, divided by their
      number, is least; the last 5 batches are never cut (Hoad, Robinson and Davies 2010). It finds no steady state in
      about 15% of perfectly steady series of 100 windows (6% of 200), and more often after a ramp or where single
      windows are very slow.
    - ``change_point``: cut at the last change of level of the batch medians, by least squares with a penalty for each
      change (optimal partitioning, Jackson et al. 2005). The penalty is 4 log(batches) error variances, twice Yao's
      (1988) so that moderate correlation between windows passes, and levels last 3 batches or more. It finds no steady
      state in 3% of steady series of 100 windows, in 5% where neighbours correlate by .5 and in 25% where by .8: there,
      longer windows help.

    Args:
        seconds_per_step: (windows,).
        rule: ``mser5`` or ``change_point``.
        steps: (windows,), steps in each window; equally many when left out.

    Raises:
        ValueError: the rule is unknown, or values are missing, infinite or not above 0.
    """
    weights = _check(seconds_per_step, steps)
    if rule not in RULES:
        raise ValueError(f"rule is one of {', '.join(RULES)}, not {rule!r}")
    n_windows, n_batches = len(weights), len(weights) // _BATCH
    if n_batches < _FEWEST_BATCHES:
        return Cut(rule, None, n_windows, TOO_SHORT)
    shape, used = (n_batches, _BATCH), n_batches * _BATCH
    values, weights = seconds_per_step[:used].reshape(shape), weights[:used].reshape(shape)
    n_cut = _mser(values, weights) if rule == "mser5" else _last_change(values, weights)
    if 2 * n_cut >= n_batches:
        return Cut(rule, None, n_windows, NO_STEADY_STATE)
    return Cut(rule, n_cut * _BATCH, n_windows, None)


def _check(seconds_per_step: np.ndarray, steps: np.ndarray | None) -> np.ndarray:
    """Return the windows' weights, 1 on average, having looked at the series."""
    weights = np.ones(len(seconds_per_step)) if steps is None else np.asarray(steps, dtype=float)
    if weights.shape != np.shape(seconds_per_step):
        raise ValueError(f"{np.shape(seconds_per_step)} windows need as many step counts, not {weights.shape}")
    for values in (seconds_per_step, weights):
        if not (np.isfinite(values).all() and np.all(values > 0)):
            raise ValueError("seconds per step and steps must be finite and above 0")
    return weights / weights.mean() if len(weights) else weights


def _mser(values: np.ndarray, weights: np.ndarray) -> int:
    """Return the number of batches to cut. values, weights: (batches, 5)."""
    weight = weights.sum(axis=1)
    means = (values * weights).sum(axis=1) / weight
    cuts = range(len(means) - _LAST_BATCHES + 1)
    return int(np.argmin([_squares(means[cut:], weight[cut:]) / weight[cut:].sum() ** 2 for cut in cuts]))


def _squares(values: np.ndarray, weights: np.ndarray) -> float:
    mean = weights @ values / weights.sum()
    squares = float(weights @ (values - mean) ** 2)
    return squares if squares > weights.sum() * (_ROUNDING * mean) ** 2 else 0.0  # so that constants are all equal


def _last_change(values: np.ndarray, weights: np.ndarray) -> int:
    """Return the batch at which the last level begins, 0 when there is one level. values, weights: (batches, 5)."""
    medians, weight = _quantile(values, weights, 0.5), weights.mean(axis=1)
    n = len(medians)
    penalty = 4 * np.log(n) * _error_variance(medians)
    cost, begins = np.full(n + 1, np.inf), np.zeros(n + 1, dtype=int)
    cost[0] = 0.0
    for end in range(_SHORTEST_SEGMENT, n + 1):
        squares = _squares_back_from(medians[:end], weight[:end])[: end - _SHORTEST_SEGMENT + 1]
        totals = cost[: len(squares)] + squares + penalty
        begins[end], cost[end] = int(totals.argmin()), totals.min()
    return int(begins[n])


def _squares_back_from(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the squares about their mean of values[start:], for every start: as long as ``values``."""
    # Relative to the last value, so that a constant end has squares of exactly zero.
    back, weight = (values - values[-1])[::-1], weights[::-1]
    sums = np.cumsum(weight * back)
    squares = np.cumsum(weight * back * back) - sums * sums / np.cumsum(weight)
    return np.maximum(squares, 0.0)[::-1]


def _error_variance(values: np.ndarray) -> float:
    """Return the variance about slowly moving levels, from the median jump to the next value: few changes sway it."""
    deviation = float(np.median(np.abs(np.diff(values)))) / (special.ndtri(0.75) * np.sqrt(2))
    return max(deviation, _ROUNDING * float(np.median(values))) ** 2


def effective_size(values: np.ndarray) -> float | None:
    """Return how many independent values a correlated series is worth: n / (1 + 2 sum rho), at most n.

    The sum of autocorrelations ends where two neighbours together are no longer positive (the initial positive
    sequence of Geyer 1992). None when the values do not vary. Short series of slow processes look less correlated than
    they are: with 200 values that correlate by .9 the answer is about 40% too large on average.

    Args:
        values: (n,).
    """
    n = len(values)
    centred = values - values.mean() if n else values
    if n < 2 or np.abs(centred).max() <= _ROUNDING * np.abs(values).max():
        return None
    spectrum = np.fft.rfft(centred, 2 * n)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), 2 * n)[:n]
    pairs = (covariance[: n // 2 * 2] / covariance[0]).reshape(-1, 2).sum(axis=1)
    before_the_end = np.cumprod(pairs > 0)
    return n / max(1.0, 2 * float(pairs @ before_the_end) - 1)


def launch(seconds_per_step: np.ndarray, rule: str, confidence: float, steps: np.ndarray | None = None) -> Launch:
    """Return a launch's median seconds per step after its warm-up.

    The median weighs windows by their steps. Its interval runs between the quantiles 1/2 +- z / (2 sqrt(n_effective)),
    the large-sample form of the sign test's interval. ``n_effective`` is the smaller of the effective sizes of the
    windows and of which of them are above the median (all that a median depends on, and what slow outliers cannot
    hide), less what unequal weights cost (Kish 1965). Approximate: of 200 windows its 95% cover 96% when neighbours
    correlate by up to .5 and 92% when by .8. And it is about one launch only: other launches differ by more, so compare
    arms over launches.

    Args:
        seconds_per_step: (windows,).
        rule: ``mser5`` or ``change_point``, as :func:`warm_up_cut`.
        confidence: coverage of the interval.
        steps: (windows,), steps in each window; equally many when left out.

    Raises:
        ValueError: as :func:`warm_up_cut`.
    """
    cut = warm_up_cut(seconds_per_step, rule, steps)
    if cut.n_cut is None:
        return Launch(rule, None, None, None, confidence, cut.n_windows, None, None, cut.undefined)
    values, weights = seconds_per_step[cut.n_cut :], _check(seconds_per_step, steps)[cut.n_cut :]
    median, worth = float(_quantile(values, weights, 0.5)), _worth(values, weights)
    levels = None if worth is None else _median_levels(worth, confidence)
    if levels is None:
        why = CONSTANT if worth is None else f"windows worth only {worth:.1f} independent ones"
        return Launch(rule, median, None, None, confidence, cut.n_windows, cut.n_cut, worth, why)
    low, high = (float(_quantile(values, weights, level)) for level in levels)
    return Launch(rule, median, low, high, confidence, cut.n_windows, cut.n_cut, worth, None)


def _worth(values: np.ndarray, weights: np.ndarray) -> float | None:
    above = (values > _quantile(values, weights, 0.5)).astype(float)
    sizes = [size for size in (effective_size(values), effective_size(above)) if size is not None]
    kish = weights.sum() ** 2 / (weights @ weights) / len(weights)
    return float(min(sizes) * kish) if sizes else None


def _median_levels(worth: float, confidence: float) -> tuple[float, float] | None:
    """Return the quantiles between which the median lies, None where not even all values would reach."""
    if 0.5 ** (worth - 1) > 1 - confidence:  # the chance that all values lie on one side of the median
        return None
    reach = special.ndtri((1 + confidence) / 2) / (2 * np.sqrt(worth))
    return float(0.5 - reach), float(0.5 + reach)


def _quantile(values: np.ndarray, weights: np.ndarray, level: float) -> np.ndarray:
    """Return weighted quantiles: each value sits in the middle of its weight, and between values it is linear.

    Levels beyond the outermost values, be they outside 0 to 1, give those.

    values, weights: (..., n) -> (...).
    """
    order = np.argsort(values, axis=-1, kind="stable")
    values, weights = np.take_along_axis(values, order, -1), np.take_along_axis(weights, order, -1)
    places = (np.cumsum(weights, axis=-1) - weights / 2) / weights.sum(axis=-1, keepdims=True)
    above = np.clip((places < level).sum(axis=-1, keepdims=True), 1, values.shape[-1] - 1)
    (low, high), (left, right) = (
        (np.take_along_axis(array, above - 1, -1), np.take_along_axis(array, above, -1)) for array in (values, places)
    )
    return (low + (high - low) * np.clip((level - left) / (right - left), 0, 1))[..., 0]


def launch_medians(launches: Sequence[Launch]) -> np.ndarray:
    """Return the launches' medians: (launches,), NaN where there is none."""
    return np.array([np.nan if launch.median is None else launch.median for launch in launches])


def ratio_of_launches(top: np.ndarray, bottom: np.ndarray, confidence: float) -> Estimate:
    """Return the typical ratio top / bottom of paired launches, with the t interval of their log ratios.

    The ratio is that of geometric means. Of seconds per step, top / bottom = 2 says that top is half as fast.

    Args:
        top, bottom: (launches,), each above 0, NaN where a launch has none; paired: launch i of one ran beside launch i
            of the other.
        confidence: coverage of the interval.

    Returns:
        Undefined when any launch has no value: leaving it out is for a rule of the plan to say, since launches
        without a steady state are not a random choice.

    Raises:
        ValueError: a value is not above 0, or the two have not equally many.
    """
    if top.shape != bottom.shape or top.ndim != 1 or (top <= 0).any() or (bottom <= 0).any():
        raise ValueError(f"two equally long series above 0 are needed, not {top.shape} and {bottom.shape}")
    n, missing = len(top), np.flatnonzero(~np.isfinite(top) | ~np.isfinite(bottom))
    if len(missing):
        which = ", ".join(str(index + 1) for index in missing)
        return undefined(f"no steady value in launch {which} of {n}", confidence, n, RATIO_METHOD)
    logs = np.log(top) - np.log(bottom)
    value = float(np.exp(logs.mean())) if n else None
    if value is None or n < 2:
        return undefined("fewer than 2 launches", confidence, n, RATIO_METHOD, value)
    deviation = float(logs.std(ddof=1))
    if deviation <= _ROUNDING:
        why = NO_ERROR if np.ptp(np.log(top)) > _ROUNDING else NO_SPREAD
        return undefined(why, confidence, n, RATIO_METHOD, value)
    reach = t_quantile((1 + confidence) / 2, n - 1) * deviation / float(np.sqrt(n))
    limits = value * float(np.exp(-reach)), value * float(np.exp(reach))
    return Estimate(value, *limits, confidence, n, n - 1, RATIO_METHOD, None)
