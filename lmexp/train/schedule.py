"""Learning rates as functions of progress in [0, 1]: a time budget has no known number of steps."""

import math
from dataclasses import dataclass

from lmexp.errors import UserError, unknown

SHAPES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class ScheduleSpec:
    """A linear warm-up, a plateau, then a decay of the given shape.

    Attributes:
        shape: how the rate falls: ``constant`` (not at all), ``linear`` or ``cosine``.
        warmup: fraction of the budget over which the rate rises from zero.
        decay_from: fraction of the budget at which the decay begins.
        final: the rate at the end, as a fraction of the peak.
    """

    shape: str
    warmup: float
    decay_from: float
    final: float

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise unknown("schedule.shape", self.shape, SHAPES)
        if not 0 <= self.warmup <= self.decay_from < 1:
            raise UserError(
                f"schedule.warmup={self.warmup:g} and schedule.decay_from={self.decay_from:g} are fractions of the "
                "budget: 0 <= warmup <= decay_from < 1, for instance schedule.warmup=0.02 schedule.decay_from=0.02."
            )
        if not 0 <= self.final <= 1:
            raise UserError(f"schedule.final={self.final:g} is a fraction of the peak rate; choose it in [0, 1].")

    def rate(self, progress: float) -> float:
        """Return the learning rate at this progress, as a fraction of the peak."""
        if progress < self.warmup:
            return progress / self.warmup
        fallen = max(0.0, (progress - self.decay_from) / (1 - self.decay_from))
        if self.shape == "constant":
            return 1.0
        remaining = 1 - fallen if self.shape == "linear" else (1 + math.cos(math.pi * fallen)) / 2
        return self.final + (1 - self.final) * remaining
