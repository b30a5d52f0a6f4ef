"""Laws of the loop, with a made-up device and clock: what is charged, when it is evaluated, what is logged."""

import itertools

import pytest

from lmexp.train.budget import BudgetSpec, Clock
from lmexp.train.loop import DivergedError, Log, train
from lmexp.train.step import StepResult

STEP_SECONDS, EVALUATION_SECONDS = 0.03, 40.0


class World:
    """A device that needs time for its steps, a wall clock, and a stepper that works on them."""

    def __init__(self, losses=None, expert_loads=None):
        self.wall = self.busy_until = 0.0
        self.losses = losses or itertools.repeat(2.0)
        self.expert_loads = expert_loads or itertools.repeat(None)
        self.rates = []

    def tokens(self, batch):
        return ("tokens", batch)

    def step(self, index, tokens, lr, following):
        assert tokens == ("tokens", index), "each batch once, in order"
        assert following == ("tokens", index + 1)
        self.busy_until = max(self.busy_until, self.wall) + STEP_SECONDS
        self.rates.append(lr)
        return StepResult(next(self.losses), 0.5, next(self.expert_loads))

    def wait(self, *results):
        self.wall = max(self.wall, self.busy_until)

    def evaluate(self):
        assert self.wall >= self.busy_until, "evaluated weights that were not there yet"
        self.wall += EVALUATION_SECONDS
        return 3.0 - len(self.rates) / 1000


def trained(world, **amounts):
    fields = {"seconds": None, "steps": None, "tokens": None, "flops": None, "charge_compile": False, "evaluations": 4}
    clock = Clock(BudgetSpec(**{**fields, **amounts}), 10, 1.0, lambda: world.wall)
    log = Log(lambda clock, log: None)
    clock.start(STEP_SECONDS)
    train(world, range(10**6), clock, lambda progress: 1 - progress, world.evaluate, log)
    return clock, log


def test_evaluation_is_not_charged_and_every_step_is_waited_for():
    world = World()
    clock, _ = trained(world, seconds=6.0)
    assert clock.seconds == pytest.approx(len(world.rates) * STEP_SECONDS)
    assert 6.0 - STEP_SECONDS - 1e-9 <= clock.seconds <= 6.0 + 1e-9
    assert world.wall == pytest.approx(clock.seconds + 4 * EVALUATION_SECONDS)


def test_evaluations_come_at_equal_fractions_of_a_time_budget():
    _, log = trained(World(), seconds=6.0)
    scored = [point["progress"] for point in log.points if point.get("val_bpb") is not None]
    # Within the 100 ms between two syncs (1.7% of the budget).
    assert scored == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.02)


def test_evaluations_come_at_exact_steps_of_a_budget_of_steps():
    _, log = trained(World(), steps=40)
    assert [point["step"] for point in log.points if point.get("val_bpb") is not None] == [10, 20, 30, 40]
    assert [point["step"] for point in log.points] == list(range(1, 41))


def test_the_rate_follows_progress():
    world = World()
    trained(world, steps=8)
    assert world.rates == [1 - k / 8 for k in range(8)]


def test_the_load_of_experts_is_a_mean_since_the_last_log_point_and_null_without_experts():
    _, log = trained(World(expert_loads=itertools.cycle([1.0, 4.0])), steps=400)
    # Two steps each (further on, rounding of progress makes some of them one step or three).
    assert [point["expert_load_max_over_mean"] for point in log.points[:20]] == [2.5] * 20
    _, log = trained(World(), steps=4)
    assert [point["expert_load_max_over_mean"] for point in log.points] == [None] * 4


def test_log_points_say_what_happened():
    losses = [5.0, 4.0, 3.0, 2.0]
    clock, log = trained(World(iter(losses)), steps=4)
    assert [point["train_loss_nats"] for point in log.points] == losses
    assert [point["tokens"] for point in log.points] == [10, 20, 30, 40]
    assert [point["tokens_per_second"] for point in log.points] == pytest.approx([10 / STEP_SECONDS] * 4)
    assert [point["lr"] for point in log.points] == [1.0, 0.75, 0.5, 0.25]
    assert log.best["step"] == 4
    assert clock.synced_steps == 4


def test_log_points_are_about_two_hundred():
    _, log = trained(World(), seconds=300.0)
    assert 190 <= len(log.points) <= 210


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_training_with_its_log_point(bad):
    world = World(iter([2.0, 2.0, bad, 2.0]))
    log = Log(lambda clock, log: None)
    clock = Clock(BudgetSpec(None, 100, None, None, False, 1), 10, 1.0, lambda: world.wall)
    clock.start(STEP_SECONDS)
    with pytest.raises(DivergedError, match="first 3 steps"):
        train(world, range(100), clock, lambda progress: 1.0, world.evaluate, log)
    assert log.points[-1]["step"] == 3
    assert log.best is None


def test_a_score_that_is_not_finite_is_never_the_best():
    world = World()
    world.evaluate = lambda: float("nan")
    log = Log(lambda clock, log: None)
    clock = Clock(BudgetSpec(None, 10, None, None, False, 2), 10, 1.0, lambda: world.wall)
    clock.start(STEP_SECONDS)
    with pytest.raises(DivergedError, match="validation"):
        train(world, range(100), clock, lambda progress: 1.0, world.evaluate, log)
    assert log.best is None
