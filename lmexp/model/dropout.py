"""Dropout whose masks follow from keys: an example has the same on any stream, in any piece, and computed twice."""

import mlx.core as mx


def dropout_keys(seed: int, batch_size: int, n_places: int) -> mx.array:
    """Return the random keys of a step, (batch, places, 2) uint32: one for each example and each place in the model."""
    return mx.random.split(mx.random.key(seed), batch_size * n_places).reshape(batch_size, n_places, 2)


def dropped(x: mx.array, share: float, keys: mx.array | None) -> mx.array:
    """Set a share of the values to zero and divide the rest by what is kept (Srivastava et al. 2014).

    Args:
        x: (batch, time, width).
        share: the probability that a value becomes zero, below 1.
        keys: (batch, 2), a place's part of ``dropout_keys``; None, as in evaluation: ``x`` is returned as it is.
    """
    if keys is None or not share:
        return x
    is_kept = mx.vmap(lambda key: mx.random.bernoulli(1 - share, x.shape[1:], key=key))(keys)
    return mx.where(is_kept, x * (1 / (1 - share)), 0)
