"""Laws of the arithmetic of a benchmark, on invented figures: nothing here is timed."""

from io import StringIO

import pytest
from rich.console import Console

from lmexp.bench.harness import Side, in_turn
from lmexp.bench.pace import tokens_per_second
from lmexp.bench.summary import Launch, Spread, paired_ratios, spread, table, values_of


def launch(side, repeat, **figures):
    return Launch(side, repeat, "2026-01-01T00:00:00+00:00", figures)


def test_the_spread_is_the_median_and_the_extremes():
    assert spread([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0)
    assert spread([4.0, 1.0]) == Spread(2.5, 1.0, 4.0)


def test_a_ratio_is_taken_within_a_repeat_and_never_across():
    # The second repeat fell on a machine at half its speed: each ratio is 2 all the same.
    assert paired_ratios({0: 10.0, 1: 5.0}, {1: 2.5, 0: 5.0}) == [2.0, 2.0]


def test_a_repeat_that_one_side_lacks_gives_no_ratio():
    assert paired_ratios({0: 10.0, 1: 6.0}, {1: 2.0}) == [3.0]
    assert paired_ratios({0: 10.0}, {}) == []


def test_values_are_those_of_one_side_and_figure():
    launches = [launch("ours", 0, rate=3.0, share=0.5), launch("bare", 0, rate=2.0), launch("ours", 1, rate=4.0)]
    assert values_of(launches, "ours", "rate") == {0: 3.0, 1: 4.0}
    assert values_of(launches, "bare", "share") == {}


def test_the_table_shows_every_side_its_spread_and_our_ratio_to_it():
    launches = [
        launch("ours", 0, rate=3000.0, share=0.25),
        launch("bare", 0, rate=2000.0),
        launch("ours", 1, rate=1000.0, share=0.25),
        launch("bare", 1, rate=800.0),
        launch("ours", 2, rate=9000.0, share=0.25),
        launch("bare", 2, rate=4000.0),
    ]
    console = Console(file=StringIO(), width=100)
    console.print(table("What", launches, ["ours", "bare"], ["rate", "share"]))
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert "rate" in lines
    assert "ours 3,000 (1,000 to 9,000)" in lines
    # 1.5, 1.25 and 2.25: the ratio of the medians would be 1.5 too, but not its extremes.
    assert "bare 2,000 (800 to 4,000) 1.5 (1.25 to 2.25)" in lines
    assert "share 0.25" in lines  # alone under its figure


def test_every_repeat_launches_every_side_once_in_an_order_that_changes_and_repeats():
    sides = [Side(name, lambda repeat: {}) for name in ("ours", "bare", "torch")]
    orders = [[side.name for side in in_turn(sides, repeat)] for repeat in range(12)]
    assert all(sorted(order) == ["bare", "ours", "torch"] for order in orders)
    assert len({tuple(order) for order in orders}) > 2
    assert {order[0] for order in orders} == {"ours", "bare", "torch"}  # nobody is always first
    assert orders == [[side.name for side in in_turn(sides, repeat)] for repeat in range(12)]


class Machine:
    """A device on which every step takes as long as it is told, and whose time is read like a clock."""

    def __init__(self, step_seconds):
        self.now, self.step_seconds, self.waiting, self.steps, self.most_ahead = 0.0, step_seconds, 0, [], 0

    def step(self, index):
        self.steps.append(index)
        self.waiting += 1
        self.most_ahead = max(self.most_ahead, self.waiting)

    def wait(self):
        self.now += self.waiting * self.step_seconds
        self.waiting = 0


@pytest.mark.parametrize("step_seconds", [0.004, 0.3])
def test_a_plain_loop_is_timed_without_its_warm_up_and_dispatches_ahead(step_seconds):
    machine = Machine(step_seconds)
    rate = tokens_per_second(machine.step, machine.wait, 64, 2.0, now=lambda: machine.now)
    assert rate == pytest.approx(64 / step_seconds)  # the machine is exact: only rounding is left
    assert machine.steps == list(range(len(machine.steps)))  # every batch once, in order
    assert machine.most_ahead == max(1, int(0.1 / step_seconds))
    assert machine.waiting == 0
