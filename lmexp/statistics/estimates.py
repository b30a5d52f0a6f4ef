"""An estimate with its interval: what every statistic here returns, and what every verdict reads."""

from collections.abc import Callable
from dataclasses import dataclass, replace

NO_SPREAD = "no variation between seeds"
NO_ERROR = "the arms differ by the same amount at every seed, which leaves no error to judge by"
TOO_FEW = "fewer than 2 complete seeds"


@dataclass(frozen=True)
class Estimate:
    """A point estimate and its interval.

    ``low`` and ``high`` are None when the interval is undefined, ``value`` when the estimate itself is; ``undefined``
    then says why. Nothing undefined is ever 0.
    """

    value: float | None
    low: float | None
    high: float | None
    confidence: float
    n_seeds: int
    df: float | None
    method: str
    undefined: str | None

    @property
    def has_interval(self) -> bool:
        """Whether both limits are known."""
        return self.low is not None and self.high is not None

    def mapped(self, function: Callable[[float], float]) -> "Estimate":
        """Return the estimate under a rising function of the measure (a change of unit, for instance)."""
        value, low, high = (None if v is None else function(v) for v in (self.value, self.low, self.high))
        return replace(self, value=value, low=low, high=high)

    def __str__(self) -> str:
        value = "undefined" if self.value is None else f"{self.value:.4g}"
        interval = f"[{self.low:.4g}, {self.high:.4g}]" if self.has_interval else f"[undefined: {self.undefined}]"
        return f"{value} {interval} ({self.confidence:.0%} {self.method}, n={self.n_seeds})"


def undefined(
    reason: str, confidence: float, n_seeds: int, method: str, value: float | None = None, df: float | None = None
) -> Estimate:
    """Return an estimate without an interval, and perhaps without a value, that says why."""
    return Estimate(value, None, None, confidence, n_seeds, df, method, reason)
