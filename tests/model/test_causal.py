"""Causal attention in blocks is causal attention."""

import mlx.core as mx
import numpy as np
import pytest
from as_on_a_gpu import MlxOnAGpu

from lmexp.model import causal
from lmexp.model.causal import attend_causally

BATCH, HEADS, KV_HEADS, WIDTH, VALUE_WIDTH, SCALE = 2, 6, 3, 4, 5, 0.4


def inputs(time, n_rows):
    keys = mx.random.split(mx.random.key(7), 4)
    shapes = [
        (HEADS, time, WIDTH),
        (KV_HEADS, n_rows, WIDTH),
        (KV_HEADS, n_rows, VALUE_WIDTH),
        (HEADS, time, VALUE_WIDTH),
    ]
    return [3 * mx.random.normal((BATCH, *shape), key=key) for shape, key in zip(shapes, keys, strict=True)]


def written_out(queries, keys, values):
    """Attend token by token, in float64."""
    queries, keys, values = (np.array(array, np.float64) for array in (queries, keys, values))
    n_before, mixed = keys.shape[2] - queries.shape[2], np.zeros((*queries.shape[:3], values.shape[-1]))
    for row, head, place in np.ndindex(queries.shape[:3]):
        shared, n_seen = head // (HEADS // KV_HEADS), n_before + place + 1
        scores = SCALE * keys[row, shared, :n_seen] @ queries[row, head, place]
        weights = np.exp(scores - scores.max())
        mixed[row, head, place] = weights / weights.sum() @ values[row, shared, :n_seen]
    return mixed


# One block, a block that is full, one token more, several; with and without rows before.
@pytest.mark.parametrize("device", [mx, MlxOnAGpu()], ids=["here", "gpu"])
@pytest.mark.parametrize(("time", "n_rows"), [(1, 1), (7, 7), (8, 8), (9, 9), (21, 21), (1, 12), (10, 13)])
def test_it_is_attention_to_every_row_up_to_its_own(monkeypatch, device, time, n_rows):
    monkeypatch.setattr(causal, "_BLOCK_QUERIES", 8)
    monkeypatch.setattr(causal, "mx", device)
    queries, keys, values, _ = inputs(time, n_rows)
    # Sums of a dozen float32 products of order 10.
    np.testing.assert_allclose(
        attend_causally(queries, keys, values, SCALE), written_out(queries, keys, values), atol=2e-5
    )


@pytest.mark.parametrize(("time", "n_rows"), [(7, 7), (21, 21), (10, 13)])
@pytest.mark.parametrize("compiled", [False, True])
def test_its_gradient_is_that_of_mlx(monkeypatch, compiled, time, n_rows):
    monkeypatch.setattr(causal, "_BLOCK_QUERIES", 8)
    *given, cotangent = inputs(time, n_rows)

    def by_mlx(queries, keys, values):
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=SCALE, mask="causal")

    def by_blocks(queries, keys, values):
        return attend_causally(queries, keys, values, SCALE)

    def gradients(function):
        return mx.vjp(function, given, [cotangent])[1]

    wrapped = mx.compile(lambda: gradients(by_blocks)) if compiled else lambda: gradients(by_blocks)
    for ours, theirs in zip(wrapped(), gradients(by_mlx), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)  # sums of 21 products of order 100


def test_large_scores_do_not_overflow():
    queries, keys, values, _ = inputs(5, 5)
    mixed = attend_causally(1000 * queries, 1000 * keys, values, SCALE)
    assert mx.isfinite(mixed).all().item()
    assert mx.array_equal(mixed[:, :, 0], mx.repeat(values, HEADS // KV_HEADS, axis=1)[:, :, 0]).item()


def test_bfloat16_stays_bfloat16():
    queries, keys, values, _ = (array.astype(mx.bfloat16) for array in inputs(9, 9))
    mixed = attend_causally(queries, keys, values, SCALE)
    assert mixed.dtype == mx.bfloat16
    expected = written_out(*(array.astype(mx.float32) for array in (queries, keys, values)))
    np.testing.assert_allclose(mixed.astype(mx.float32), expected, atol=0.15)  # 8 bits of values of order 10
