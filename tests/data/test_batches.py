import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmexp.data import Batches
from lmexp.errors import UserError

# Distinct sizes on every axis; every token is its own position, so that a window shows where it was cut.
N_TOKENS, CONTEXT_LENGTH, BATCH_SIZE = 103, 7, 3
WINDOWS = N_TOKENS // CONTEXT_LENGTH - 1
POSITIONS = np.arange(N_TOKENS, dtype=np.uint16)
BYTE_LENGTHS = np.arange(N_TOKENS, dtype=np.int32) % 5


def batches(seed: int = 0, batch_size: int = BATCH_SIZE, tokens: np.ndarray = POSITIONS) -> Batches:
    return Batches(tokens, BYTE_LENGTHS, batch_size, CONTEXT_LENGTH, seed)


def epoch(number: int, seed: int = 0) -> np.ndarray:
    """(windows, time): the targets of one epoch in the order in which they are taken."""
    single = batches(seed, batch_size=1)
    return np.concatenate([single[number * WINDOWS + place].targets for place in range(WINDOWS)])


def test_shapes_types_and_the_shift_by_one():
    batch = batches()[5]
    assert batch.inputs.shape == batch.targets.shape == (BATCH_SIZE, CONTEXT_LENGTH)
    assert batch.inputs.dtype == batch.targets.dtype == np.int32
    assert (batch.targets == batch.inputs + 1).all()
    assert (np.diff(batch.inputs, axis=1) == 1).all()


@pytest.mark.parametrize("number", [0, 1, 6])
def test_an_epoch_predicts_every_token_of_its_windows_exactly_once(number):
    targets = np.sort(epoch(number).ravel())
    first = targets[0]
    assert 1 <= first <= CONTEXT_LENGTH  # the first input is the token before it
    assert targets.tolist() == list(range(first, first + WINDOWS * CONTEXT_LENGTH))


def test_epochs_differ_in_order_and_in_where_they_cut():
    starts = [epoch(number)[:, 0] for number in range(200)]
    phases = {int(start.min()) - 1 for start in starts}
    assert phases == set(range(CONTEXT_LENGTH))  # 200 draws miss one of 7 with probability 3e-13
    orders = {tuple(np.argsort(start)) for start in starts}
    assert len(orders) == 200  # 13! orders: a repetition has probability 3e-6


@given(steps=st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_a_batch_does_not_depend_on_what_was_asked_before(steps):
    used = batches()
    for step in steps:
        fresh, again = batches()[step], used[step]
        assert (again.inputs == fresh.inputs).all()
        assert again.n_bytes == fresh.n_bytes


@pytest.mark.parametrize("batch_size", [1, 2, 5, WINDOWS, WINDOWS + 4, 3 * WINDOWS])
def test_the_stream_of_windows_does_not_depend_on_the_batch_size(batch_size):
    """So a batch may straddle two epochs, or hold several, and nothing is skipped or repeated."""
    stream = np.concatenate([epoch(number) for number in range(4)])
    n_steps = len(stream) // batch_size
    sized = batches(batch_size=batch_size)
    read = np.concatenate([sized[step].targets for step in range(n_steps)])
    assert (read == stream[: n_steps * batch_size]).all()


def test_seeds_are_independent_streams():
    assert not (epoch(0, seed=0) == epoch(0, seed=1)).all()
    assert (epoch(3, seed=1) == epoch(3, seed=1)).all()


@given(step=st.integers(0, 40))
def test_the_bytes_are_those_of_the_targets(step):
    batch = batches()[step]
    assert batch.n_bytes == sum(int(BYTE_LENGTHS[token]) for token in batch.targets.ravel())


def test_large_ids_survive_and_a_memory_map_is_read_as_it_is(tmp_path):
    ids = np.arange(65_536 - N_TOKENS, 65_536).astype(np.uint16)
    ids.tofile(tmp_path / "ids")
    mapped = np.memmap(tmp_path / "ids", np.uint16, mode="r")
    large = Batches(mapped, np.ones(65_536, np.int32), BATCH_SIZE, CONTEXT_LENGTH, seed=0)
    assert (large[2].inputs == batches()[2].inputs + 65_536 - N_TOKENS).all()
    assert type(large[2].inputs) is np.ndarray


def test_a_far_step_costs_no_more_than_a_near_one():
    """Random access: no walk over the epochs before. A billion steps of walking would not end in this test's life."""
    assert batches()[10**9].inputs.shape == (BATCH_SIZE, CONTEXT_LENGTH)


def test_what_a_seed_gives_never_changes():
    """Rows measured by one version are paired with those of the next: a change here breaks every comparison."""
    assert batches(seed=0)[0].inputs[:, 0].tolist() == [69, 13, 20]
    assert batches(seed=7)[100].inputs[:, 0].tolist() == [73, 52, 31]


def test_two_windows_of_text_are_the_least():
    enough = batches(tokens=POSITIONS[: 2 * CONTEXT_LENGTH])
    assert [enough[step].targets.shape for step in range(9)] == [(BATCH_SIZE, CONTEXT_LENGTH)] * 9
    with pytest.raises(UserError, match=r"13 tokens, but data\.context_length=7 needs 14"):
        batches(tokens=POSITIONS[: 2 * CONTEXT_LENGTH - 1])


def test_a_negative_step_is_refused():
    with pytest.raises(IndexError):
        batches()[-1]


def test_building_a_batch_takes_well_under_a_millisecond():
    """About 0.05 ms on a quiet core; the best of 50 must stay under 1 ms even on a busy one."""
    tokens = np.random.default_rng(0).integers(0, 2048, 1_500_000).astype(np.uint16)
    large = Batches(tokens, np.ones(2048, np.int32), 64, 256, seed=0)
    large[0]  # draws the epoch's order
    seconds = []
    for step in range(50):
        start = time.perf_counter()
        large[step]
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1e-3
