"""Laws of the learning rate as a function of progress."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmexp.errors import UserError
from lmexp.train.schedule import SHAPES, ScheduleSpec


def test_known_values_of_a_cosine_with_warm_up():
    spec = ScheduleSpec("cosine", warmup=0.2, decay_from=0.2, final=0.1)
    assert spec.rate(0.0) == 0.0
    assert spec.rate(0.05) == pytest.approx(0.25)
    assert spec.rate(0.2) == 1.0
    assert spec.rate(0.6) == pytest.approx(0.55)  # half way down: the mean of 1 and 0.1
    assert spec.rate(1.0) == pytest.approx(0.1)


def test_a_plateau_then_a_line():
    spec = ScheduleSpec("linear", warmup=0.1, decay_from=0.6, final=0.0)
    assert [spec.rate(p) for p in (0.1, 0.3, 0.6)] == [1.0, 1.0, 1.0]
    assert spec.rate(0.7) == pytest.approx(0.75)
    assert spec.rate(1.0) == 0.0


def test_constant_does_not_fall():
    assert ScheduleSpec("constant", 0.0, 0.0, 1.0).rate(0.9) == 1.0


@given(
    shape=st.sampled_from(SHAPES),
    warmup=st.floats(0, 0.5),
    extra=st.floats(0, 0.4),
    final=st.floats(0, 1),
    a=st.floats(0, 1),
    b=st.floats(0, 1),
)
def test_rates_stay_between_zero_and_the_peak_and_never_rise_after_warm_up(shape, warmup, extra, final, a, b):
    spec = ScheduleSpec(shape, warmup, warmup + extra, final)
    early, late = sorted((a, b))
    assert 0.0 <= spec.rate(early) <= 1.0
    if early >= warmup:
        assert spec.rate(late) <= spec.rate(early) + 1e-12  # rounding of one cosine


@pytest.mark.parametrize(
    "fields", [("cosin", 0, 0, 0), ("cosine", 0.5, 0.2, 0), ("cosine", 0, 1.0, 0), ("linear", 0, 0, 2)]
)
def test_impossible_schedules_are_refused(fields):
    with pytest.raises(UserError, match="schedule"):
        ScheduleSpec(*fields)
