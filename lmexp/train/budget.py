"""What a run may spend, and the clock that charges it.

The clock is a pure object: it is given its source of time, so that every law about it is tested with a fake one.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lmexp.errors import UserError

# How much work may be under way before the clock is synchronised with the device. Long enough that a GPU never waits
# for the host, short enough that the clock is never far behind.
SYNC_SECONDS = 0.1
# Near the end of a budget, at most this share of what is left may be under way: a device that suddenly runs up to eight
# times slower still overruns by one step at most.
_SHARE_UNDER_WAY = 1 / 8


@dataclass(frozen=True)
class BudgetSpec:
    """A budget in exactly one of seconds, optimizer steps, tokens or floating-point operations.

    ``charge_compile`` charges building, compiling and warming up to a budget of seconds. ``evaluations`` is how often
    the validation text is scored, at equal fractions of the budget, the last at its end.
    """

    seconds: float | None
    steps: int | None
    tokens: int | None
    flops: float | None
    charge_compile: bool
    evaluations: int

    def __post_init__(self) -> None:
        amounts = self._amounts()
        if len(amounts) != 1:
            named = " and ".join(f"budget.{unit}={amount:g}" for unit, amount in amounts.items()) or "none"
            raise UserError(
                f"A run has exactly one budget, not {named}: choose its unit with budget=seconds, budget=steps, "
                "budget=tokens or budget=flops, for instance budget=steps budget.steps=100, and clear the one that a "
                "plan sets with budget.seconds=null."
            )
        if not self.amount > 0 or self.amount == float("inf"):
            raise UserError(f"budget.{self.unit}={self.amount:g} must be above 0, for instance budget.{self.unit}=300.")
        if self.evaluations < 1:
            raise UserError(f"budget.evaluations={self.evaluations} must be at least 1: the one at the end.")

    def _amounts(self) -> dict[str, float]:
        every = {"seconds": self.seconds, "steps": self.steps, "tokens": self.tokens, "flops": self.flops}
        return {unit: amount for unit, amount in every.items() if amount is not None}

    @property
    def unit(self) -> str:
        """The unit that is limited: ``seconds``, ``steps``, ``tokens`` or ``flops``."""
        return next(iter(self._amounts()))

    @property
    def amount(self) -> float:
        """How much of the unit may be spent."""
        return next(iter(self._amounts().values()))


class Clock:
    """Charges training to a budget: the span from the first counted step to the sync after the last, without pauses.

    Steps are dispatched ahead of the device, so time is read only in :meth:`start`, :meth:`sync` and at the end of a
    pause, when nothing is under way. Between two syncs the clock *predicts*, from the latest measured steps.

    Laws (tested): a budget of seconds ends at most one step early and is overrun by less than one step, also when the
    device slows down up to eightfold; budgets of steps, tokens and FLOPs are never overrun; a pause is never charged.
    """

    def __init__(self, budget: BudgetSpec, tokens_per_step: int, flops_per_step: float, now: Callable[[], float]):
        per_step = {"steps": 1, "tokens": tokens_per_step, "flops": flops_per_step}
        self.budget, self.tokens_per_step, self._now = budget, tokens_per_step, now
        self._cost_per_step = per_step.get(budget.unit)  # None for seconds: their cost is measured, not known
        self.steps = 0
        self.synced_steps = 0
        self.seconds = 0.0
        self.charged_seconds = 0.0
        self._resumed_at: float | None = None
        self._latest_step_seconds: deque[float] = deque(maxlen=3)

    def start(self, step_seconds: float, charged_seconds: float = 0.0) -> None:
        """Start charging. ``step_seconds`` is a first guess, from the warm-up; ``charged_seconds`` is already spent."""
        self.seconds = self.charged_seconds = charged_seconds
        self._latest_step_seconds.append(step_seconds)
        self._resumed_at = self._now()

    def dispatch(self) -> None:
        """Note that one more step has been handed to the device."""
        self.steps += 1

    def sync(self) -> None:
        """Read the time. The caller has waited until the device finished every dispatched step."""
        if self._resumed_at is None:
            raise RuntimeError("the clock is not running")
        now = self._now()
        elapsed, self._resumed_at = now - self._resumed_at, now
        self.seconds += elapsed
        if self.steps > self.synced_steps:
            self._latest_step_seconds.append(elapsed / (self.steps - self.synced_steps))
        self.synced_steps = self.steps

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Charge nothing inside the block: evaluation, checkpoints, logging."""
        if self.steps != self.synced_steps:
            raise RuntimeError("pause only after a sync: work under way would not be charged")
        self._resumed_at = None
        yield
        self._resumed_at = self._now()

    @property
    def tokens(self) -> int:
        """Tokens trained on, up to the latest sync."""
        return self.synced_steps * self.tokens_per_step

    @property
    def stepping_seconds(self) -> float:
        """Seconds spent on steps: what is charged, less what was charged at the start."""
        return self.seconds - self.charged_seconds

    @property
    def fits_another_step(self) -> bool:
        """Whether one more step is expected to end within the budget."""
        if self._cost_per_step is None:
            # The mean must fit; and where steps are a good part of the budget, even the slowest of the latest steps
            # must fit within one per cent more, or a noisy machine would overrun by much every other time.
            left = self.budget.amount - self._expected_seconds
            return self._step_seconds <= left and max(self._latest_step_seconds) <= left + 0.01 * self.budget.amount
        return (self.steps + 1) * self._cost_per_step <= self.budget.amount

    @property
    def sync_due(self) -> bool:
        """Whether enough is under way that the time should be read, which is after every step when the end is near."""
        window = SYNC_SECONDS
        if self._cost_per_step is None:
            window = min(window, _SHARE_UNDER_WAY * (self.budget.amount - self.seconds))
        return (self.steps - self.synced_steps) * self._step_seconds >= window or not self.fits_another_step

    @property
    def progress(self) -> float:
        """The fraction of the budget used, in [0, 1]; between syncs, the fraction expected to be used."""
        if self._cost_per_step is None:
            return min(1.0, self._expected_seconds / self.budget.amount)
        return min(1.0, self.steps * self._cost_per_step / self.budget.amount)

    @property
    def progress_is_exact(self) -> bool:
        """Whether progress is known without reading the time: true for every unit but seconds."""
        return self._cost_per_step is not None

    @property
    def seconds_left(self) -> float | None:
        """Training seconds expected until the budget is used; None before the first sync."""
        used = self.progress
        return self._expected_seconds * (1 - used) / used if used > 0 and self.synced_steps else None

    @property
    def _step_seconds(self) -> float:
        return sum(self._latest_step_seconds) / len(self._latest_step_seconds)

    @property
    def _expected_seconds(self) -> float:
        return self.seconds + (self.steps - self.synced_steps) * self._step_seconds
