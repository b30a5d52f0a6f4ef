"""The one loop: dispatch steps ahead, synchronise on the clock's cadence, evaluate at fixed fractions of the budget."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from lmexp import platform
from lmexp.train.budget import Clock
from lmexp.train.step import Batch, Stepper, StepResult

# Log points per run: enough for a smooth curve, few enough that logging costs nothing.
LOG_POINTS = 200


class Batches(Protocol):
    """Random access to training batches, without end: the batch of step k is a function of the seed and k."""

    def __getitem__(self, step: int, /) -> Batch: ...


class DivergedError(Exception):
    """The training loss became infinite or not a number."""


def train(
    stepper: Stepper,
    batches: Batches,
    clock: Clock,
    rate: Callable[[float], float],
    evaluate: Callable[[], float],
    log: "Log",
) -> None:
    """Train until the budget is used, then evaluate once more.

    Args:
        stepper: takes the steps.
        batches: what the steps learn from.
        clock: running; decides when to synchronise and when to stop.
        rate: the learning rate at a progress in [0, 1].
        evaluate: scores the weights as they are, in bits per byte; called while the clock is paused.
        log: keeps the log points, also when training ends by an exception.

    Raises:
        DivergedError: a loss that is not finite.
    """
    evaluations = _Evaluations(clock.budget.evaluations)
    under_way: list[StepResult] = []
    tokens = stepper.tokens(batches[0])
    while clock.fits_another_step:
        lr = rate(clock.progress)
        following = stepper.tokens(batches[clock.steps + 1])
        under_way.append(stepper.step(clock.steps, tokens, lr, following))
        tokens = following
        clock.dispatch()
        # A budget of work has its log points at the same steps whatever the speed: its rows can be repeated exactly.
        log_due = clock.progress_is_exact and log.due(clock.progress)
        if clock.sync_due or log_due or evaluations.due(clock.progress):
            stepper.wait(*under_way)
            clock.sync()
            with clock.paused():
                log.synchronised(clock, under_way, lr)
                if evaluations.passed(clock.progress):
                    log.evaluated(clock, evaluate())
            under_way.clear()
    with clock.paused():
        log.evaluated(clock, evaluate())


class _Evaluations:
    """Equal fractions of the budget, without the last: the end of the budget is evaluated by itself."""

    def __init__(self, count: int):
        self.fractions = [k / count for k in range(1, count)]

    def due(self, progress: float) -> bool:
        return bool(self.fractions) and progress >= self.fractions[0]

    def passed(self, progress: float) -> bool:
        """Return whether a fraction has been passed, and forget it."""
        due = self.due(progress)
        while self.due(progress):
            self.fractions.pop(0)
        return due


class Log:
    """The rows of ``steps.parquet``, and what is known of the run so far.

    Args:
        observe: called after every synchronisation and evaluation; for a progress bar.
    """

    def __init__(self, observe: Callable[[Clock, "Log"], None]):
        self.points: list[dict[str, Any]] = []
        self._observe = observe
        self._losses: list[float] = []
        self._expert_loads: list[float] = []
        self.train_loss_nats: float | None = None
        self.grad_norm: float | None = None
        self.lr: float | None = None

    def synchronised(self, clock: Clock, results: Sequence[StepResult], lr: float) -> None:
        """Take in the losses of finished steps, and keep a log point when enough of the budget has passed.

        Raises:
            DivergedError: a loss that is not finite; the log point that shows it is kept.
        """
        self._losses += [float(result.loss_nats) for result in results]
        loads = [result.expert_load_max_over_mean for result in results]
        self._expert_loads += [float(load) for load in loads if load is not None]
        self.grad_norm, self.lr = float(results[-1].grad_norm), lr
        finite = math.isfinite(sum(self._losses))
        if not finite or self.due(clock.progress):
            self._keep(clock)
        self._observe(clock, self)
        if not finite:
            raise DivergedError(f"the training loss stopped being finite within the first {clock.steps} steps")

    def due(self, progress: float) -> bool:
        """Whether enough of the budget has passed since the last log point."""
        last = self.points[-1]["progress"] if self.points else 0.0
        return int(progress * LOG_POINTS) > int(last * LOG_POINTS)

    def evaluated(self, clock: Clock, val_bpb: float) -> None:
        """Keep a score of the validation text, in bits per byte, at the steps done so far.

        Raises:
            DivergedError: a score that is not finite.
        """
        if not self.points or self.points[-1]["step"] != clock.synced_steps:
            self._keep(clock)
        self.points[-1]["val_bpb"] = val_bpb
        self._observe(clock, self)
        if not math.isfinite(val_bpb):
            raise DivergedError(f"the validation score is not finite after {clock.steps} steps")

    def _keep(self, clock: Clock) -> None:
        if self._losses:
            self.train_loss_nats = _mean(self._losses)
        before = self.points[-1] if self.points else {"tokens": 0, "seconds": clock.charged_seconds}
        seconds = clock.seconds - before["seconds"]
        self.points.append(
            {
                "step": clock.synced_steps,
                "tokens": clock.tokens,
                "seconds": clock.seconds,
                "progress": clock.progress,
                "lr": self.lr,
                "train_loss_nats": self.train_loss_nats if self._losses else None,
                "grad_norm": self.grad_norm,
                "expert_load_max_over_mean": _mean(self._expert_loads),
                "tokens_per_second": (clock.tokens - before["tokens"]) / seconds if seconds > 0 else None,
                "peak_memory_bytes": platform.peak_memory_bytes(),
            }
        )
        self._losses.clear()
        self._expert_loads.clear()

    @property
    def latest_val_bpb(self) -> float | None:
        """The latest validation score, in bits per byte."""
        return next((point["val_bpb"] for point in reversed(self.points) if point.get("val_bpb") is not None), None)

    @property
    def best(self) -> dict[str, Any] | None:
        """The log point with the best validation score so far."""
        scored = [point for point in self.points if math.isfinite(point.get("val_bpb", math.nan))]
        return min(scored, key=lambda point: point["val_bpb"], default=None)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
