"""Causal self-attention. MHA is GQA with as many key and value heads as query heads, so one class is both."""

import mlx.core as mx
import mlx.nn as nn

from lmexp.model.cache import RowsCache
from lmexp.model.count import matrix_size
from lmexp.model.mask import visible_rows
from lmexp.model.position import Rotation
from lmexp.model.spec import ModelSpec


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023): each key and value head serves n_heads / kv_heads query heads."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        kv_width = spec.kv_heads * spec.head_dim
        self.spec = spec
        width = spec.n_heads * spec.head_dim
        self.query = nn.Linear(spec.d_model, width, bias=spec.bias)
        self.key = nn.Linear(spec.d_model, kv_width, bias=spec.bias)
        self.value = nn.Linear(spec.d_model, kv_width, bias=spec.bias)
        self.rotation = Rotation(round(spec.head_dim * spec.rope.share), spec.rope, local=False)
        self.output = nn.Linear(width, spec.d_model, bias=spec.bias)

    def make_cache(self, capacity: int) -> RowsCache:
        """Return an empty cache with room for ``capacity`` tokens."""
        return RowsCache(capacity)

    def __call__(self, x: mx.array, cache: RowsCache | None) -> mx.array:
        """Attend to this token and those before it; ``x`` and the result: (batch, time, d_model)."""
        position = 0 if cache is None else cache.position
        queries = self._heads(self.query(x), self.spec.n_heads)
        keys = self._heads(self.key(x), self.spec.kv_heads)
        values = self._heads(self.value(x), self.spec.kv_heads)
        if self.spec.position == "rope":
            queries, keys = self.rotation(queries, position), self.rotation(keys, position)
        if cache is not None:
            keys, values = cache.update(keys, values)
        return self.output(self._attend(queries, keys, values, position))

    def forward_flops(self, context_length: int) -> float:
        """Return the floating-point operations for one token of a full context, forward."""
        return 2.0 * matrix_size(self) + 4.0 * context_length * self.spec.n_heads * self.spec.head_dim

    def _heads(self, x: mx.array, n_heads: int) -> mx.array:
        batch, time, _ = x.shape
        return x.reshape(batch, time, n_heads, self.spec.head_dim).transpose(0, 2, 1, 3)

    def _attend(self, queries: mx.array, keys: mx.array, values: mx.array, position: int | mx.array) -> mx.array:
        """Mix the values: (batch, heads, time, head_dim) each, in; (batch, time, d_model) out.

        The softmax is float32 whatever the dtype.
        """
        batch, _, time, head_dim = queries.shape
        mask = visible_rows(time, keys.shape[2], None, position)
        mixed = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=head_dim**-0.5, mask=mask)
        return mixed.transpose(0, 2, 1, 3).reshape(batch, time, -1)
