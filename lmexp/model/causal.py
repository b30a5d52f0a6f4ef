"""Causal attention to a whole text: MLX's fused kernel where there is one, blocks of queries on a CPU."""

import functools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import mlx.core as mx

from lmexp.model.gradient import with_gradient

_BLOCK_QUERIES = 64


def attend_causally(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """Mix the values that each query sees: all rows up to its own; the last query stands beside the last row.

    MLX has no fused attention on a CPU: it computes all scores, the masked half too, and passes over them several times
    with a scalar exponential. In blocks, rows after the block are skipped, and what is left can be fused by
    ``mx.compile``. Measured on one core, forward and backward, 12 heads of 32, 256 tokens: 0.73 of the time of one
    block; blocks of 32 and of 128 took 1.1 times the time of 64.

    Args:
        queries: (batch, heads, time, width).
        keys: (batch, kv_heads, n_rows, width); each of its heads serves heads / kv_heads query heads.
        values: (batch, kv_heads, n_rows, value_width).
        scale: multiplies the scores. The softmax is float32 whatever the dtype.

    Returns:
        (batch, heads, time, value_width).
    """
    if mx.default_device() != mx.cpu:
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask="causal")
    time, n_before = queries.shape[2], keys.shape[2] - queries.shape[2]
    cuts = list(range(_BLOCK_QUERIES, time, _BLOCK_QUERIES))
    ends = [n_before + cut for cut in (*cuts, time)]
    # Products need rows that lie end to end: better copied once than by each block.
    keys, values = mx.contiguous(keys), mx.contiguous(values)
    blocks = zip(mx.split(queries, cuts, axis=2), _prefixes(keys, ends), _prefixes(values, ends), strict=True)
    # Put together token by token, as the product after attention wants them: one copy in place of two.
    by_token = [_attend_block(scale * block, seen, mixed).swapaxes(1, 2) for block, seen, mixed in blocks]
    return mx.concatenate(by_token, axis=1).swapaxes(1, 2)


def _prefixes(rows: mx.array, ends: Sequence[int]) -> list[mx.array]:
    """Return the first rows of (batch, heads, n_rows, width) up to each end, the last of which is n_rows.

    MLX's gradient of each would be as long as ``rows``, filled up with zeros; this adds up what there is, which makes a
    step of llama_small on 16 x 256 tokens 2% faster.
    """

    def gradient(_: mx.array, cotangents: Sequence[mx.array], __: Any) -> mx.array:
        pieces = [
            functools.reduce(mx.add, (longer[:, :, start:end] for longer in cotangents[index:]))
            for index, (start, end) in enumerate(pairwise((0, *ends)))
        ]
        return mx.concatenate(pieces, axis=2)

    found: list[mx.array] = with_gradient(lambda rows: [rows[:, :, :end] for end in ends], gradient)(rows)
    return found


def _attend_block(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """Attend from the last tokens of a text; the softmax's sum divides the result, which is narrower than the weights.

    The query heads that share a key head are the columns of one product. Keys lie along the rows of the scores: MLX
    takes the largest of a row number by number, of columns many at once, which makes a step of llama_small on 16 x 256
    tokens 2 to 3% faster.
    """
    batch, heads, time, width = queries.shape
    kv_heads, n_rows = keys.shape[1:3]
    scores = keys @ queries.reshape(batch, kv_heads, -1, width).swapaxes(-1, -2)
    scores = scores.reshape(batch, kv_heads, n_rows, -1, time).astype(mx.float32)
    seen = mx.arange(n_rows)[:, None, None] <= mx.arange(n_rows - time, n_rows)
    scores = mx.where(seen, scores, -mx.inf)
    weights = mx.exp(scores - mx.stop_gradient(scores.max(axis=2, keepdims=True)))
    total = weights.sum(axis=2).reshape(batch, heads, time, 1)
    weights = weights.astype(values.dtype).reshape(batch, kv_heads, n_rows, -1)
    mixed = weights.swapaxes(-1, -2) @ values
    return mixed.reshape(batch, heads, time, -1) / total.astype(values.dtype)
