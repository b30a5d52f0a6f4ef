"""Arrays laid end to end are all there, and nothing else is."""

import mlx.core as mx
import pytest

from lmexp.train import end_to_end as module
from lmexp.train.end_to_end import end_to_end

# Rounds of a block, full and not; pieces that begin and end where eight numbers at once would not.
SHAPES = [(64, 70), (3,), (5, 7), (1,), (2048,), (2049,), (16, 256)]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_arrays_lie_end_to_end(cuda_kernels, dtype):
    arrays = [mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype) for seed, shape in enumerate(SHAPES)]
    expected = mx.concatenate([array.reshape(-1) for array in arrays]).astype(mx.float32)
    assert mx.array_equal(end_to_end(arrays), expected)
    assert cuda_kernels == [f"end_to_end_{len(SHAPES)}"]


@pytest.mark.parametrize("limit", ["_MOST_PIECES", "_MOST_NUMBERS"])
def test_more_than_a_kernel_takes_is_copied_array_by_array(monkeypatch, cuda_kernels, limit):
    monkeypatch.setattr(module, limit, 3)
    assert end_to_end([mx.array([float(n)]) for n in range(4)]).tolist() == [0, 1, 2, 3]
    assert cuda_kernels == []


def test_no_arrays_are_an_empty_vector(cuda_kernels):
    assert end_to_end([]).shape == (0,)
