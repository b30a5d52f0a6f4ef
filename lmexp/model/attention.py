"""Causal self-attention. MHA is GQA with as many key and value heads as query heads, so one class is both."""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from lmexp.model.band import attend_in_blocks
from lmexp.model.cache import RowsCache, WindowCache
from lmexp.model.causal import attend_causally
from lmexp.model.count import matrix_size
from lmexp.model.heads import Heads
from lmexp.model.joined import Joined, joins
from lmexp.model.mask import as_array, visible_rows
from lmexp.model.norm import RMSNorm
from lmexp.model.position import DistancePenalty, Rotation
from lmexp.model.spec import ModelSpec


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023): each key and value head serves n_heads / kv_heads query heads.

    Args:
        spec: the model; its heads, positions and switches.
        window: tokens that a token sees, its own included (Child et al. 2019); None means all before it.
    """

    def __init__(self, spec: ModelSpec, window: int | None = None):
        super().__init__()
        self.spec, self.window = spec, window
        self.scale = spec.head_dim**-0.5 if spec.attention_scale is None else spec.attention_scale
        width, kv_width = spec.n_heads * spec.head_dim, spec.kv_heads * spec.head_dim
        self.query = nn.Linear(spec.d_model, width, bias=spec.bias)
        self.key = nn.Linear(spec.d_model, kv_width, bias=spec.bias)
        self.value = nn.Linear(spec.d_model, kv_width, bias=spec.bias)
        if spec.qk_norm:
            self.query_norm = RMSNorm(spec.head_dim, eps=spec.norm_epsilon)
            self.key_norm = RMSNorm(spec.head_dim, eps=spec.norm_epsilon)
        if spec.position == "rope":
            self.rotation = Rotation(round(spec.head_dim * spec.rope.share), spec.rope, local=window is not None)
        if spec.position == "alibi":
            self.penalty = DistancePenalty(spec.n_heads)
        if spec.attention_gate:
            self.gate = nn.Linear(spec.d_model, width, bias=spec.bias)
        self.output = nn.Linear(width, spec.d_model, bias=spec.bias)
        self.joined = Joined(self.query, self.key, self.value, *([self.gate] if spec.attention_gate else []))
        self.joined_output = Joined(self.output)

    def make_cache(self, capacity: int) -> RowsCache:
        """Return an empty cache with room for ``capacity`` tokens."""
        return RowsCache(capacity) if self.window is None else WindowCache(capacity, self.window)

    def __call__(self, x: mx.array, cache: RowsCache | None) -> mx.array:
        """Attend to this token and those before it; ``x`` and the result: (batch, time, d_model)."""
        if cache is None and not (self.spec.qk_norm or self.spec.attention_gate) and joins(self, x):
            return self._by_few_kernels(x)
        position = 0 if cache is None else cache.position
        projected = self._projected(x)
        queries, keys, values = self._queries_keys_values(projected, position)
        if cache is not None:
            keys, values = cache.update(keys, values)
        mixed = self._mix(queries, keys, values, position)
        mixed = mixed.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1)
        if self.spec.attention_gate:
            mixed = mixed * mx.sigmoid(projected[3])
        return self.output(mixed)

    def forward_flops(self, context_length: int) -> float:
        """Return the floating-point operations for one token of a full context, forward."""
        seen = context_length if self.window is None else min(self.window, context_length)
        return 2.0 * matrix_size(self) + 4.0 * seen * self.spec.n_heads * self.spec.head_dim

    def _projected(self, x: mx.array) -> list[mx.array]:
        """Return queries, keys, values and, where the spec wants it, the gate; (batch, time, width of all heads)."""
        return self.joined.apart(self.joined(x)) if joins(self, x) else [each(x) for each in self.joined.maps]

    def _by_few_kernels(self, x: mx.array) -> mx.array:
        """As a call without a cache, where nothing but a rotation comes between the product and the mixing."""
        batch, time, width = x.shape
        rotation = self.rotation if self.spec.position == "rope" else None
        heads = Heads(self.spec.n_heads, self.spec.kv_heads, self.spec.head_dim)
        product = self.joined(x.reshape(batch * time, width))
        mixed = self._mix(*heads.cut(product, batch, time, rotation), position=0)
        return self.joined_output(mixed.transpose(0, 2, 1, 3).reshape(batch * time, -1)).reshape(x.shape)

    def _queries_keys_values(
        self, projected: Sequence[mx.array], position: int | mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Return (batch, heads, time, head_dim) each: normed, then rotated, where the spec says so."""
        queries = self._heads(projected[0], self.spec.n_heads)
        keys, values = (self._heads(each, self.spec.kv_heads) for each in projected[1:3])
        if self.spec.qk_norm:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        if self.spec.position == "rope":
            queries, keys = self._rotated(queries, keys, position)
        return queries, keys, values

    def _rotated(self, queries: mx.array, keys: mx.array, position: int | mx.array) -> tuple[mx.array, mx.array]:
        """Rotate both: a single token's in one call, which costs more to start than to carry out (5% of a step)."""
        if queries.shape[2] > 1:
            return self.rotation(queries, position), self.rotation(keys, position)
        both = self.rotation(mx.concatenate([queries, keys], axis=1), position)
        n_heads = queries.shape[1]
        return both[:, :n_heads], both[:, n_heads:]

    def _heads(self, x: mx.array, n_heads: int) -> mx.array:
        batch, time, _ = x.shape
        return x.reshape(batch, time, n_heads, self.spec.head_dim).transpose(0, 2, 1, 3)

    def _mix(self, queries: mx.array, keys: mx.array, values: mx.array, position: int | mx.array) -> mx.array:
        """Mix the values; (batch, heads, time, head_dim) each, and so is the result."""
        time, window = queries.shape[2], self.window
        is_whole_text = isinstance(position, int) and keys.shape[2] == time
        if window is not None and is_whole_text and time > 2 * window:
            return attend_in_blocks(self._attend, queries, keys, values, window)
        return self._attend(queries, keys, values, position)

    def _attend(self, queries: mx.array, keys: mx.array, values: mx.array, position: int | mx.array) -> mx.array:
        """As ``_mix``, whatever it costs. The softmax is float32 whatever the dtype."""
        time, n_rows = queries.shape[2], keys.shape[2]
        mask = visible_rows(time, n_rows, self.window, position)
        if self.spec.position == "alibi":
            mask = self.penalty(mask, time, n_rows, queries.dtype)
        cap = self.spec.attention_softcap
        if cap is not None:
            return capped_attention(queries, keys, values, self.scale, mask, cap)
        if time == 1 and mask is None and mx.default_device() == mx.cpu:
            return attend_from_one_token(queries, keys, values, self.scale)
        if isinstance(mask, str):
            return attend_causally(queries, keys, values, self.scale)
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=self.scale, mask=mask)


def attend_from_one_token(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """Attend to every key: what MLX's fused attention gives, which on a CPU is not fused and takes a quarter longer.

    The query heads that share a key head are the rows of one product; (batch, heads, 1, head_dim) each, in and out.
    """
    batch, kv_heads, _, head_dim = keys.shape
    grouped = (scale * queries).reshape(batch, kv_heads, -1, head_dim)
    weights = mx.softmax(grouped @ keys.swapaxes(-1, -2), axis=-1, precise=True)
    return (weights @ values).reshape(*queries.shape[:3], values.shape[-1])


def capped_attention(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array | str | None, cap: float
) -> mx.array:
    """Attend with scores s replaced by cap tanh(s / cap) (Gemma Team 2024, "Gemma 2", section 2).

    Arguments and result as ``mx.fast.scaled_dot_product_attention``, which cannot do that: here the scores of all
    queries are in memory at once, in float32.
    """
    groups = queries.shape[1] // keys.shape[1]
    scores = scale * mx.unflatten(queries, 1, (-1, groups)) @ keys[:, :, None].swapaxes(-1, -2)
    scores = _masked(cap * mx.tanh(scores.astype(mx.float32) / cap), mask)
    weights = mx.softmax(scores, axis=-1).astype(values.dtype)
    return (weights @ values[:, :, None]).flatten(1, 2)


def _masked(scores: mx.array, mask: mx.array | str | None) -> mx.array:
    """Apply a mask to scores by groups of heads, (batch, kv_heads, groups, time, n_rows)."""
    seen = as_array(mask, *scores.shape[-2:])
    if seen is None:
        return scores
    seen = mx.unflatten(seen, 1, scores.shape[1:3]) if seen.shape[1] > 1 else seen[:, None]
    return mx.where(seen, scores, -mx.inf) if seen.dtype == mx.bool_ else scores + seen
