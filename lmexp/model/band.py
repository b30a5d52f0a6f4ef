"""Attention to a window, block by block: a long text costs time x window, where a mask would leave time x time."""

from collections.abc import Callable

import mlx.core as mx

# (queries, keys, values, position) -> mixed values; all (batch, heads, time, width), position as in a merged cache.
Attend = Callable[[mx.array, mx.array, mx.array, mx.array], mx.array]


def attend_in_blocks(attend: Attend, queries: mx.array, keys: mx.array, values: mx.array, window: int) -> mx.array:
    """Cut a text into blocks of ``window`` tokens: what one sees stands in its own block or the one before.

    Each block is handed on as a row of the batch that has read so many tokens before, as in a merged cache: the block
    before the first is padding. Measured on 2 CPU cores, forward and backward, 8 heads of 32: 0.6 of the time with a
    mask at 512 tokens and a window of 128, 0.3 at 1,024; at twice the window nothing is gained.

    Args:
        attend: attends within the window.
        queries, keys, values: (batch, heads, time, width) of a whole text.
        window: tokens that a token sees, its own included.
    """
    batch, n_heads, time, width = queries.shape
    n_blocks = -(-time // window)
    rest = n_blocks * window - time
    positions = mx.tile(mx.arange(n_blocks) * window, [batch])
    mixed = attend(
        _blocks(_padded(queries, 0, rest), window),
        _with_the_block_before(keys, window, rest),
        _with_the_block_before(values, window, rest),
        positions,
    )
    joined = mixed.reshape(batch, n_blocks, n_heads, window, width).transpose(0, 2, 1, 3, 4)
    return joined.reshape(batch, n_heads, n_blocks * window, width)[:, :, :time]


def _with_the_block_before(rows: mx.array, window: int, rest: int) -> mx.array:
    """Return (batch x blocks, heads, 2 window, width)."""
    own = _blocks(_padded(rows, 0, rest), window)
    before = _blocks(_padded(rows, window, rest)[..., :-window, :], window)
    return mx.concatenate([before, own], axis=2)


def _padded(rows: mx.array, before: int, after: int) -> mx.array:
    return mx.pad(rows, [(0, 0), (0, 0), (before, after), (0, 0)])


def _blocks(rows: mx.array, size: int) -> mx.array:
    """Return (batch x blocks, heads, size, width), the blocks of each text side by side."""
    batch, heads, time, width = rows.shape
    cut = rows.reshape(batch, heads, time // size, size, width).transpose(0, 2, 1, 3, 4)
    return cut.reshape(-1, heads, size, width)
