"""How a model knows the order of its tokens: added to the embedding, rotating queries and keys, or off their scores."""

import functools
import math
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from lmexp.model.gradient import with_gradient
from lmexp.model.mask import as_array, distances
from lmexp.model.parts import RopeSpec
from lmexp.model.spec import INITIAL_DEVIATION

_HAS_KERNEL = mx.metal.is_available()  # where MLX's own rotation is one good kernel, forward and backward
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


class Rotation:
    """Rotary positions for queries and keys (RoPE; Su et al. 2021), stretched as ``RopeSpec.scaling`` says.

    Pairs are (i, i + width / 2), as in LLaMA's published weights: a fixed permutation of the paper's pairs.

    Args:
        width: how much of each head is rotated, from its front; even.
        spec: base and scaling.
        local: whether it serves a ``local`` layer, which has its own base and is never stretched.
    """

    def __init__(self, width: int, spec: RopeSpec, local: bool):
        self.width = width
        self.base = spec.local_base if local and spec.local_base is not None else spec.base
        stretched = not local and spec.scaling != "none"
        self.temperature = _temperature(spec) if stretched else 1.0
        scaled = spec if stretched else replace(spec, scaling="none")
        self._frequencies = tuple(frequencies(width, self.base, scaled))
        # A stretched rotation lists its wavelengths (over 2 pi), as mx.fast.rope takes them.
        self._wavelengths = mx.array([1 / f for f in self._frequencies]) if stretched else None

    def __call__(self, heads: mx.array, position: int | mx.array) -> mx.array:
        """Rotate (batch, heads, time, head_dim) by the positions from ``position`` on; (batch,) where rows differ."""
        is_text = isinstance(position, int) and position == 0 and heads.shape[2] > 1
        return self._text(heads) if is_text and not _HAS_KERNEL else self._kernel(heads, position)

    def table(self, time: int) -> mx.array:
        """Return the cosines of a text's pairs, then their sines: (time, 1, 2, width / 2) float32."""
        return _tables(self._frequencies, time, self.temperature, 1)[0]

    def _text(self, heads: mx.array) -> mx.array:
        """Rotate from position 0 on, written out so that ``mx.compile`` makes one kernel of it, and of its gradient.

        Measured on an H200, forward and backward, 64 x 256 tokens, bfloat16: 206 us in place of 664 in 6 layers, and no
        copies that transpose heads, since memory keeps the order (batch, time, heads, head_dim) of the projections.
        """

        def turned(heads: mx.array, direction: int) -> mx.array:
            of_first, of_second = _tables(self._frequencies, heads.shape[2], self.temperature, direction)
            rows = heads.swapaxes(1, 2)
            pairs = rows[..., : self.width].reshape(*rows.shape[:3], 2, -1)
            pairs = (pairs[..., :1, :] * of_first + pairs[..., 1:, :] * of_second).astype(rows.dtype)
            rotated = pairs.reshape(*rows.shape[:3], self.width)
            if self.width < rows.shape[-1]:
                rotated = mx.concatenate([rotated, rows[..., self.width :]], axis=-1)
            return rotated.swapaxes(1, 2)

        # A rotation's transpose is the rotation back.
        rotate = with_gradient(lambda x: turned(x, 1), lambda _, cotangent, __: turned(cotangent, -1))
        result: mx.array = rotate(heads)
        return result

    def _kernel(self, heads: mx.array, position: int | mx.array) -> mx.array:
        turned = mx.fast.rope(
            heads,
            self.width,
            traditional=False,
            base=None if self._wavelengths is not None else self.base,
            scale=1.0,
            offset=position,
            freqs=self._wavelengths,
        )
        return turned if self.temperature == 1 else self._tempered(turned)

    def _tempered(self, turned: mx.array) -> mx.array:
        """Multiply what was rotated, and nothing else."""
        if self.width == turned.shape[-1]:
            return turned * self.temperature
        rotated, rest = mx.split(turned, [self.width], axis=-1)
        return mx.concatenate([rotated * self.temperature, rest], axis=-1)


@functools.lru_cache(maxsize=64)
def _tables(frequencies: tuple[float, ...], time: int, temperature: float, direction: int) -> tuple[mx.array, mx.array]:
    """Return what the first and the second number of each pair are multiplied by, (time, 1, 2, pairs) each.

    The axis of 2 is that of the result. Angles are float64, the tables float32.
    """
    angles = direction * np.arange(time)[:, None] * np.array(frequencies)
    cosines, sines = temperature * np.cos(angles), temperature * np.sin(angles)
    tables = np.stack([cosines, sines], axis=1), np.stack([-sines, cosines], axis=1)
    of_first, of_second = (mx.array(table[:, None].astype(np.float32)) for table in tables)
    return of_first, of_second


def frequencies(width: int, base: float, spec: RopeSpec) -> list[float]:
    """Return the width / 2 angles by which one token turns each pair, stretched as ``spec.scaling`` says.

    Of each frequency a share is kept and the rest divided by ``factor``. ``linear`` keeps none (Chen et al. 2023).
    ``llama3`` and ``yarn`` keep those that turn often: their share is a ramp over the turns in the original context
    (Llama 3.1's published code) or over the index of the pair (Peng et al. 2023, "YaRN", whose published code rounds
    the ends of the ramp outwards).
    """
    plain = [base ** (-2 * pair / width) for pair in range(width // 2)]
    kept = {"none": _keep_all, "linear": _keep_none, "llama3": _keep_by_turns, "yarn": _keep_by_index}[spec.scaling]
    shares = kept(plain, base, spec)
    return [f * (share + (1 - share) / spec.factor) for f, share in zip(plain, shares, strict=True)]


def _keep_all(plain: list[float], base: float, spec: RopeSpec) -> list[float]:
    return [1.0] * len(plain)


def _keep_none(plain: list[float], base: float, spec: RopeSpec) -> list[float]:
    return [0.0] * len(plain)


def _keep_by_turns(plain: list[float], base: float, spec: RopeSpec) -> list[float]:
    turns = [_original(spec) * frequency / math.tau for frequency in plain]
    return [_clipped((turn - spec.slow_turns) / (spec.fast_turns - spec.slow_turns)) for turn in turns]


def _keep_by_index(plain: list[float], base: float, spec: RopeSpec) -> list[float]:
    width = 2 * len(plain)
    fast = max(math.floor(_index_of(spec.fast_turns, width, base, spec)), 0)
    slow = min(math.ceil(_index_of(spec.slow_turns, width, base, spec)), width - 1)
    ramp = max(slow - fast, 0.001)  # the published code's guard against a ramp of no length
    return [1 - _clipped((pair - fast) / ramp) for pair in range(len(plain))]


def _index_of(turns: float, width: int, base: float, spec: RopeSpec) -> float:
    """Return the pair, as a real number, that turns so often in the original context."""
    return width * math.log(_original(spec) / (turns * math.tau)) / (2 * math.log(base))


def _original(spec: RopeSpec) -> int:
    assert spec.original_context is not None  # RopeSpec refuses these scalings without it
    return spec.original_context


def _clipped(share: float) -> float:
    return min(max(share, 0.0), 1.0)


def _temperature(spec: RopeSpec) -> float:
    if spec.temperature is not None:
        return spec.temperature
    return 0.1 * math.log(spec.factor) + 1 if spec.scaling == "yarn" else 1.0


class DistancePenalty:
    """Scores fall with distance, for each head by its own slope (ALiBi; Press et al. 2022): no other position is known.

    Args:
        n_heads: query heads.
    """

    def __init__(self, n_heads: int):
        self._slopes = mx.array(slopes(n_heads))[:, None, None]

    def __call__(self, mask: mx.array | str | None, time: int, n_rows: int, dtype: mx.Dtype) -> mx.array:
        """Return a mask of ``visible_rows`` as what is added to the scores: (1 or batch, heads, time, n_rows)."""
        penalties = -self._slopes * distances(time, n_rows)
        seen = as_array(mask, time, n_rows)
        return (penalties[None] if seen is None else mx.where(seen, penalties, -mx.inf)).astype(dtype)


def slopes(n_heads: int) -> list[float]:
    """Return each head's slope: 2^(-8 i / n) for i = 1 to n, where n is a power of two.

    Between powers of two, the slopes of the lower one and then every other one of the next (as in the published code).
    """
    lower = 2 ** (n_heads.bit_length() - 1)
    between = [_slope(index, 2 * lower) for index in range(1, 2 * lower, 2)]
    return [_slope(index, lower) for index in range(1, lower + 1)] + between[: n_heads - lower]


def _slope(index: int, n_heads: int) -> float:
    return 2.0 ** (-8 * index / n_heads)
