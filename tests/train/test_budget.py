"""Laws of the clock, with a fake source of time: no law here depends on the machine."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmexp.errors import UserError
from lmexp.train.budget import SYNC_SECONDS, BudgetSpec, Clock


def budget(**amounts):
    fields = {"seconds": None, "steps": None, "tokens": None, "flops": None, "charge_compile": False, "evaluations": 1}
    return BudgetSpec(**{**fields, **amounts})


class Device:
    """A device that works off dispatched steps in order, and a clock on the wall that shows it."""

    def __init__(self, durations):
        self.durations = iter(durations)
        self.wall = 100.0
        self.finished_at = 100.0
        self.reads = 0
        self.step_durations = []

    def now(self):
        self.reads += 1
        return self.wall

    def dispatch(self):
        duration = next(self.durations)
        self.step_durations.append(duration)
        self.finished_at = max(self.finished_at, self.wall) + duration

    def synchronise(self):
        self.wall = max(self.wall, self.finished_at)


def spend(clock, device, step_seconds, pause_seconds=0.0, charged_seconds=0.0):
    """Train as the loop does, pausing after every synchronisation."""
    clock.start(step_seconds, charged_seconds)
    progress = []
    while clock.fits_another_step:
        progress.append(clock.progress)
        device.dispatch()
        clock.dispatch()
        if clock.sync_due:
            device.synchronise()
            clock.sync()
            with clock.paused():
                device.wall += pause_seconds
    return progress


def clock_for(spec, device, tokens_per_step=6, flops_per_step=50.0):
    return Clock(spec, tokens_per_step, flops_per_step, device.now)


@pytest.mark.parametrize("step_seconds", [0.0007, 0.013, 0.35, 1.9])
def test_steady_steps_use_the_budget_to_within_one_step_and_never_more(step_seconds):
    device = Device([step_seconds] * 100_000)
    clock = clock_for(budget(seconds=5.0), device)
    spend(clock, device, step_seconds)
    assert clock.seconds == pytest.approx(sum(device.step_durations))
    # One step short is the most a steady device may be; rounding of the sums is far below a microsecond.
    assert 5.0 - step_seconds - 1e-6 <= clock.seconds <= 5.0 + 1e-6


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), mean=st.floats(0.002, 0.8), noise=st.floats(0.0, 0.9), guess=st.floats(0.2, 5.0))
def test_a_noisy_device_never_overruns_by_more_than_the_step_under_way(seed, mean, noise, guess):
    rng = random.Random(seed)
    device = Device(iter(lambda: mean * (1 + noise * rng.uniform(-1, 1)), None))
    clock = clock_for(budget(seconds=5.0), device)
    spend(clock, device, mean * guess)
    assert clock.seconds <= 5.0 + max(device.step_durations, default=0.0)
    # Early stop: a step was refused because one as slow as the slowest of the latest might not have fitted.
    assert clock.seconds + mean * max(1 + noise, guess) >= 5.0 - 1e-9


@pytest.mark.parametrize("slowdown", [2, 5, 8])
@pytest.mark.parametrize("onset", [0.05, 0.3, 0.9, 2.0])
def test_a_device_that_suddenly_slows_down_overruns_by_one_step_at_most(slowdown, onset):
    fast = 0.001
    device = Device(iter(lambda: fast * (slowdown if device.finished_at - 100.0 >= 5.0 - onset else 1), None))
    clock = clock_for(budget(seconds=5.0), device)
    spend(clock, device, fast)
    assert clock.seconds <= 5.0 + fast * slowdown


def test_progress_between_syncs_counts_what_is_under_way():
    device = Device([0.01] * 100)
    clock = clock_for(budget(seconds=10.0), device)
    clock.start(0.01)
    for _ in range(5):
        clock.dispatch()
    assert clock.progress == pytest.approx(0.05 / 10.0)
    assert clock.tokens == 0  # not done yet


def test_a_pause_is_never_charged():
    device, rushed = Device([0.05] * 1000), Device([0.05] * 1000)
    paused, plain = clock_for(budget(seconds=2.03), device), clock_for(budget(seconds=2.03), rushed)
    spend(paused, device, 0.05, pause_seconds=7.0)
    spend(plain, rushed, 0.05)
    assert paused.steps == plain.steps
    assert paused.seconds == pytest.approx(plain.seconds)


def test_time_is_read_only_at_start_syncs_and_ends_of_pauses():
    device = Device([0.01] * 10_000)
    clock = clock_for(budget(seconds=30.0), device)
    clock.start(0.01)
    for _ in range(7):
        clock.dispatch()
        device.dispatch()
        assert clock.progress <= 1
        assert clock.fits_another_step
    assert device.reads == 1
    assert not clock.sync_due  # 70 ms are under way
    for _ in range(3):
        clock.dispatch()
    assert clock.sync_due  # 100 ms are
    device.synchronise()
    clock.sync()
    assert device.reads == 2


def test_syncs_come_about_every_hundred_milliseconds_until_the_end_is_near():
    device = Device([0.001] * 100_000)
    clock = clock_for(budget(seconds=10.0), device)
    spend(clock, device, 0.001)
    # The first 9.2 s hold 92 spans of 0.1 s; then each span is an eighth of what is left (0.8 s to 8 ms: about 35), and
    # the last 8 ms are synchronised every step. Each span reads the time twice.
    assert 2 * (90 + 30) <= device.reads <= 2 * (94 + 55)
    assert SYNC_SECONDS == 0.1


@pytest.mark.parametrize(
    ("amounts", "steps"),
    [({"steps": 11}, 11), ({"tokens": 6 * 9 + 5}, 9), ({"flops": 50.0 * 8 + 49.0}, 8)],
)
def test_budgets_of_work_are_spent_exactly_and_never_overrun(amounts, steps):
    device = Device([0.3, 0.001] * 500)
    clock = clock_for(budget(**amounts), device)
    spend(clock, device, 0.1)
    assert clock.steps == steps
    assert clock.tokens == 6 * steps


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_progress_stays_in_the_unit_interval_and_starts_at_zero(seed):
    rng = random.Random(seed)
    device = Device(iter(lambda: rng.uniform(0.001, 0.2), None))
    progress = spend(clock_for(budget(seconds=3.0), device), device, 0.05)
    assert progress[0] == 0.0
    assert all(0.0 <= value <= 1.0 for value in progress)


def test_progress_in_steps_is_exact():
    device = Device([0.01] * 100)
    assert spend(clock_for(budget(steps=4), device), device, 0.01) == [0.0, 0.25, 0.5, 0.75]


def test_charged_compilation_shortens_training():
    device = Device([0.1] * 1000)
    clock = clock_for(budget(seconds=5.0), device)
    spend(clock, device, 0.1, charged_seconds=3.0)
    assert clock.seconds == pytest.approx(5.0, abs=0.1)
    assert clock.stepping_seconds == pytest.approx(2.0, abs=0.1)
    assert clock.steps == 20


def test_pausing_with_work_under_way_is_refused():
    device = Device([0.01] * 10)
    clock = clock_for(budget(seconds=1.0), device)
    clock.start(0.01)
    clock.dispatch()
    with pytest.raises(RuntimeError, match="after a sync"), clock.paused():
        pass


@pytest.mark.parametrize(
    ("amounts", "words"),
    [
        ({"seconds": 0.0}, "above 0"),
        ({"seconds": -3.0}, "above 0"),
        ({"seconds": float("nan")}, "above 0"),
        ({"seconds": float("inf")}, "above 0"),
        ({}, "not none"),
        ({"seconds": 3.0, "steps": 4}, "budget=steps"),
        ({"steps": 4, "evaluations": 0}, "at least 1"),
    ],
)
def test_impossible_budgets_are_refused(amounts, words):
    with pytest.raises(UserError, match=words):
        budget(**amounts)
