"""The drift probe: a rate of fixed work that disturbs nothing."""

import itertools

import mlx.core as mx
import pytest

from lmexp.platform import drift, peak_memory_bytes, probe, reset_peak_memory


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Units that take no time; two different sizes."""
    monkeypatch.setattr(drift, "_SIZES", dict.fromkeys(("cpu", "gpu"), drift._Size(matrix=16, floats=24)))


def clock(seconds_per_unit):
    """A clock that is read once before the first unit and once after each."""
    ticks = itertools.count()
    return lambda: 100 + next(ticks) * seconds_per_unit


@pytest.mark.parametrize("seconds_per_unit", [0.125, 0.25, 0.5, 1.0, 8.0])
def test_the_rate_is_units_per_second(seconds_per_unit):
    # Binary fractions, so that the quotient is exact. A unit longer than the bound still counts, once.
    assert probe(clock(seconds_per_unit)) == 1 / seconds_per_unit


def test_it_stops_after_a_second():
    done = []

    def work():
        while True:
            done.append(1)
            yield

    assert drift._rate(work(), clock(0.25)) == 4
    assert len(done) == 4


def test_a_clock_that_stands_still_for_the_first_units_does_no_harm():
    reads = iter([5.0, 5.0, 5.0, 6.0])
    assert drift._rate(itertools.repeat(None), lambda: next(reads)) == 3


def test_random_state_and_peak_memory_are_as_before():
    mx.random.seed(3)
    expected = mx.random.normal((3, 5)).tolist()
    reset_peak_memory()
    mx.eval(mx.ones((30, 10)))
    peak = peak_memory_bytes()
    mx.random.seed(3)
    probe(clock(0.25))
    assert peak_memory_bytes() == peak
    assert mx.random.normal((3, 5)).tolist() == expected


def test_a_real_probe_is_a_positive_rate(monkeypatch):
    monkeypatch.setattr(drift, "_SECONDS", 0.05)
    assert 1 < probe() < 1e9  # a unit of 16 x 16 takes more than a nanosecond and less than a second
