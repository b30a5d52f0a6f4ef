"""Which tokens a token sees: the one place that knows of causality, windows and the padding of merged caches."""

import mlx.core as mx


def visible_rows(time: int, n_rows: int, window: int | None, position: int | mx.array) -> mx.array | str | None:
    """Return the mask for ``mx.fast.scaled_dot_product_attention``: an array only where one is needed.

    The last query stands beside the last row, so the same holds for a chunk that follows cached tokens.

    Args:
        time: queries.
        n_rows: keys, in the order of the text.
        window: rows that a query sees, its own included; None means all before it.
        position: tokens before the first query; (batch,) in a merged cache, where shorter texts stand behind padding.

    Returns:
        None (all is seen), "causal", or (1 or batch, 1, time, n_rows) booleans.
    """
    if isinstance(position, int) and (window is None or n_rows <= window):
        return "causal" if time > 1 else None
    away = distances(time, n_rows)
    seen = away >= 0
    if window is not None:
        seen = seen & (away < window)
    if isinstance(position, int):
        return seen[None, None]
    n_before = position[:, None] + mx.arange(time)  # (batch, time): padding is farther away than the text is long
    return (seen & (away <= n_before[..., None]))[:, None]


def distances(time: int, n_rows: int) -> mx.array:
    """Return (time, n_rows): how many tokens before the query each row stands; below 0 after it."""
    return mx.arange(n_rows - time, n_rows)[:, None] - mx.arange(n_rows)


def as_array(mask: mx.array | str | None, time: int, n_rows: int) -> mx.array | None:
    """Write a mask of :func:`visible_rows` out, for those who cannot read "causal"; None stays None."""
    return (distances(time, n_rows) >= 0)[None, None] if isinstance(mask, str) else mask
