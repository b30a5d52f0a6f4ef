"""How a model knows the order of its tokens: added to the embedding, or rotating queries and keys."""

import math

import mlx.core as mx
import mlx.nn as nn

from lmexp.model.spec import INITIAL_DEVIATION, ModelSpec

_WAVELENGTH_BASE = 10_000.0  # of the sinusoids; Vaswani et al. 2017, section 3.5


class SinusoidalPosition(nn.Module):
    """Fixed sines and cosines, added to the embedding (Vaswani et al. 2017, section 3.5; sines first, then cosines).

    Their root mean square is that of a fresh embedding, so that neither drowns the other, and sinusoidal and learned
    positions start at the same size. Measured on gpt_small, 600 steps of 64 x 256 characters of tiny Shakespeare,
    validation nats: 1.74 so, 1.74 with learned positions; 2.55 at amplitude 1, where positions drown the tokens; 1.94
    at amplitude 1 with the paper's sqrt(d_model) on the embedding.
    """

    def __init__(self, context_length: int, d_model: int):
        super().__init__()
        # A sine's root mean square is 1 / sqrt(2). The underscore keeps the table out of the parameters.
        self._table = math.sqrt(2) * INITIAL_DEVIATION * sinusoids(context_length, d_model)

    def __call__(self, embedded: mx.array, position: int | mx.array) -> mx.array:
        """Add the rows from ``position`` on; ``embedded``: (batch, time, d_model), whose dtype is kept."""
        return embedded + _rows(self._table, position, embedded.shape[1]).astype(embedded.dtype)


class LearnedPosition(nn.Module):
    """One trained vector per position, added to the embedding."""

    def __init__(self, context_length: int, d_model: int):
        super().__init__()
        self.weight = mx.zeros((context_length, d_model))

    def __call__(self, embedded: mx.array, position: int | mx.array) -> mx.array:
        """Add the rows from ``position`` on; ``embedded``: (batch, time, d_model)."""
        return embedded + _rows(self.weight, position, embedded.shape[1])


def _rows(table: mx.array, position: int | mx.array, time: int) -> mx.array:
    """Return (time, d_model) rows from ``position`` on, or (batch, time, d_model) where rows of the batch differ."""
    if isinstance(position, int):
        return table[position : position + time]
    return table[position[:, None] + mx.arange(time)]


def sinusoids(context_length: int, d_model: int) -> mx.array:
    """Return the (context_length, d_model) float32 table: sines in the left half, cosines in the right."""
    exponents = mx.arange(0, d_model, 2) / d_model
    frequencies = mx.exp(-math.log(_WAVELENGTH_BASE) * exponents)
    angles = mx.arange(context_length)[:, None] * frequencies
    return mx.concatenate([mx.sin(angles), mx.cos(angles)], axis=-1)


def rotate(heads: mx.array, spec: ModelSpec, position: int | mx.array) -> mx.array:
    """Rotate queries or keys by their positions from ``position`` on (RoPE; Su et al. 2021).

    Pairs are (i, i + head_dim / 2), as in LLaMA's published weights: a fixed permutation of the paper's pairs.

    Args:
        heads: (batch, heads, time, head_dim).
        spec: gives ``rope``.
        position: of the first of the ``time`` tokens; (batch,) where rows differ.
    """
    width = heads.shape[-1]
    return mx.fast.rope(heads, width, traditional=False, base=spec.rope.base, scale=1.0, offset=position)
