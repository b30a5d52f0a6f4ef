"""The plainest way to time a training loop, for everything that lmexp's own loop is compared with."""

import time
from collections.abc import Callable

from lmexp.train.budget import SYNC_SECONDS

_WARM_UP_STEPS = 5  # PyTorch's recorded graphs replay from the third step on


def tokens_per_second(
    step: Callable[[int], object],
    wait: Callable[[], object],
    tokens_per_step: int,
    seconds: float,
    now: Callable[[], float] = time.perf_counter,
) -> float:
    """Take steps until the time is over, and return their rate.

    Steps are dispatched ahead of the device and waited for as often as lmexp's own clock does: a loop that waits after
    every step would look slower than it needs to be.

    Args:
        step: hands a step, counted from 0, to the device.
        wait: waits until the device has finished all of them.
        tokens_per_step: in a batch.
        seconds: how long to measure, after warming up.
        now: the time in seconds.
    """
    taken = 0
    step_seconds = float("inf")
    for taken in range(1, _WARM_UP_STEPS + 1):
        started = now()
        step(taken - 1)
        wait()
        step_seconds = min(step_seconds, now() - started)
    ahead = max(1, int(SYNC_SECONDS / step_seconds))
    started, steps = now(), 0
    while now() - started < seconds:
        for _ in range(ahead):
            step(taken + steps)
            steps += 1
        wait()
    return steps * tokens_per_step / (now() - started)
