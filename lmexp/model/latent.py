"""Multi-head latent attention: keys and values of all heads are made from one narrow latent, and only that is cached.

Source: DeepSeek-AI 2024, "DeepSeek-V2" (arXiv 2405.04434), section 2.1 and its appendix on the full formulas.
"""

import mlx.core as mx
import mlx.nn as nn

from lmexp.model.cache import RowsCache
from lmexp.model.causal import attend_causally
from lmexp.model.count import matrix_size
from lmexp.model.mask import visible_rows
from lmexp.model.norm import RMSNorm
from lmexp.model.position import Rotation
from lmexp.model.spec import ModelSpec


class LatentAttention(nn.Module):
    """Attention whose cache holds ``kv_rank + rope_width`` numbers per token, however many heads there are.

    A token is compressed to a normed latent c and one rotated key k that all heads share. Head h has the unrotated
    key U_h c (``key_up``) and the value V_h c (``value_up``); its score is q . U_h c + r . k, where q and r are the
    unrotated and the rotated part of its query. Two forms give the same numbers:

    * expanded: keys and values of all heads are made and attended to, as in training;
    * absorbed: q . U_h c = (q U_h) . c, so queries move into the latent space, the latents themselves are mixed, and
      V_h follows after: nothing as wide as the heads is ever made for a cached token.

    Rotated pairs are (i, i + rope_width / 2), as everywhere here; DeepSeek's published weights interleave them, so
    whoever converts those permutes the rows of the rotated parts. Of a query's n_heads x (head_dim + rope_width)
    numbers each head's unrotated ones come first; ``latent_down`` makes the latent first, then the shared key.
    Up-projections have no bias (absorbing one would leave a term for each head).
    """

    def __init__(self, spec: ModelSpec):
        super().__init__()
        latent, heads = spec.mla, spec.n_heads
        self.spec = spec
        self.value_width = spec.head_dim if latent.value_width is None else latent.value_width
        self.rotation = Rotation(latent.rope_width, spec.rope, local=False)
        query_width = heads * (spec.head_dim + latent.rope_width)
        if latent.query_rank is None:
            self.query = nn.Linear(spec.d_model, query_width, bias=spec.bias)
        else:
            self.query_down = nn.Linear(spec.d_model, latent.query_rank, bias=spec.bias)
            self.query_norm = RMSNorm(latent.query_rank, eps=spec.norm_epsilon)
            self.query_up = nn.Linear(latent.query_rank, query_width, bias=False)
        self.latent_down = nn.Linear(spec.d_model, latent.kv_rank + latent.rope_width, bias=spec.bias)
        self.latent_norm = RMSNorm(latent.kv_rank, eps=spec.norm_epsilon)
        self.key_up = nn.Linear(latent.kv_rank, heads * spec.head_dim, bias=False)
        self.value_up = nn.Linear(latent.kv_rank, heads * self.value_width, bias=False)
        self.output = nn.Linear(heads * self.value_width, spec.d_model, bias=spec.bias)

    def make_cache(self, capacity: int) -> RowsCache:
        """Return an empty cache with room for ``capacity`` tokens, each (latent, rotated key) in one row.

        Together in one array they are the keys of the absorbed form as they stand, and its values are a slice.
        """
        return RowsCache(capacity)

    def __call__(self, x: mx.array, cache: RowsCache | None) -> mx.array:
        """Attend to this token and those before it; ``x`` and the result: (batch, time, d_model)."""
        position = 0 if cache is None else cache.position
        queries, rows = self._queries(x, position), self._rows(x, position)
        if cache is None:
            return self._joined(self._expanded(queries, rows, visible_rows(x.shape[1], x.shape[1], None, position)))
        [rows] = cache.update(rows)
        n_new, n_all = x.shape[1], rows.shape[2]
        form = self._absorbed if self._absorbing_is_cheaper(n_new, n_all) else self._expanded
        return self._joined(form(queries, rows, visible_rows(n_new, n_all, None, position)))

    def forward_flops(self, context_length: int) -> float:
        """Return the floating-point operations for one token of a full context, forward, in the expanded form."""
        score_and_mix = self.spec.head_dim + self.spec.mla.rope_width + self.value_width
        return 2.0 * matrix_size(self) + 2.0 * context_length * self.spec.n_heads * score_and_mix

    @property
    def _scale(self) -> float:
        given = self.spec.attention_scale
        return (self.spec.head_dim + self.spec.mla.rope_width) ** -0.5 if given is None else given

    def _queries(self, x: mx.array, position: int | mx.array) -> mx.array:
        """Return (batch, heads, time, head_dim + rope_width), the last part rotated."""
        batch, time, _ = x.shape
        is_direct = self.spec.mla.query_rank is None
        flat = self.query(x) if is_direct else self.query_up(self.query_norm(self.query_down(x)))
        heads = flat.reshape(batch, time, self.spec.n_heads, -1).transpose(0, 2, 1, 3)
        plain, turned = mx.split(heads, [self.spec.head_dim], axis=-1)
        return mx.concatenate([plain, self.rotation(turned, position)], axis=-1)

    def _rows(self, x: mx.array, position: int | mx.array) -> mx.array:
        """Return what is remembered of each token, (batch, 1, time, kv_rank + rope_width)."""
        latent, key = mx.split(self.latent_down(x)[:, None], [self.spec.mla.kv_rank], axis=-1)
        return mx.concatenate([self.latent_norm(latent), self.rotation(key, position)], axis=-1)

    def _expanded(self, queries: mx.array, rows: mx.array, mask: mx.array | str | None) -> mx.array:
        """Attend head by head: queries (batch, heads, time, width) in, (batch, heads, time, value_width) out."""
        batch, heads, n_all = rows.shape[0], self.spec.n_heads, rows.shape[2]
        latent, key = mx.split(rows, [self.spec.mla.kv_rank], axis=-1)
        plain, values = (
            up(latent[:, 0]).reshape(batch, n_all, heads, -1).transpose(0, 2, 1, 3)
            for up in (self.key_up, self.value_up)
        )
        shared = mx.broadcast_to(key, (batch, heads, n_all, self.spec.mla.rope_width))
        keys = mx.concatenate([plain, shared], axis=-1)
        if isinstance(mask, str):
            return attend_causally(queries, keys, values, self._scale)
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=self._scale, mask=mask)

    def _absorbed(self, queries: mx.array, rows: mx.array, mask: mx.array | str | None) -> mx.array:
        """Attend in the latent space; shapes as in the expanded form."""
        heads, rank = self.spec.n_heads, self.spec.mla.kv_rank
        plain, turned = mx.split(queries, [self.spec.head_dim], axis=-1)
        inside = mx.concatenate([plain @ self.key_up.weight.reshape(heads, -1, rank), turned], axis=-1)
        mixed = self._mixed_latents(inside, rows, mask)
        return mixed @ self.value_up.weight.reshape(heads, -1, rank).swapaxes(-1, -2)

    def _mixed_latents(self, queries: mx.array, rows: mx.array, mask: mx.array | str | None) -> mx.array:
        """Return (batch, heads, time, kv_rank).

        All heads read the same keys, so for a single token they can stand in the place of time: one product reads the
        cache once, where attention by heads would read it once for each. The rotated keys are mixed along and left
        out of the result: to take them out of the rows first would copy the whole cache.
        """
        is_single = queries.shape[2] == 1
        if is_single:
            queries = queries.swapaxes(1, 2)
        mixed = mx.fast.scaled_dot_product_attention(queries, rows, rows, scale=self._scale, mask=mask)
        mixed = mixed[..., : self.spec.mla.kv_rank]
        return mixed.swapaxes(1, 2) if is_single else mixed

    def _absorbing_is_cheaper(self, n_new: int, n_all: int) -> bool:
        """Compare the multiplications of a head: up-projecting all rows, or the new queries and wider products."""
        latent, widths = self.spec.mla, self.spec.head_dim + self.value_width
        expanded = n_all * latent.kv_rank * widths + n_new * n_all * (widths + latent.rope_width)
        absorbed = n_new * latent.kv_rank * widths + n_new * n_all * (2 * latent.kv_rank + latent.rope_width)
        return absorbed < expanded

    def _joined(self, heads: mx.array) -> mx.array:
        batch, _, time, _ = heads.shape
        return self.output(heads.transpose(0, 2, 1, 3).reshape(batch, time, -1))
