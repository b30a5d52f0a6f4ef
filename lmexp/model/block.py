"""One layer of the model: a mixer of tokens and a feed-forward, each added to the residual stream."""

from functools import partial
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from lmexp.model import cuda
from lmexp.model.attention import Attention
from lmexp.model.cache import Cache
from lmexp.model.delta import DeltaNet
from lmexp.model.dropout import dropped
from lmexp.model.experts import make_feedforward
from lmexp.model.latent import LatentAttention
from lmexp.model.norm import LayerNorm, RMSNorm
from lmexp.model.residual import added_and_normed
from lmexp.model.spec import ModelSpec


class Mixer(Protocol):
    """What passes information between tokens; it knows its own cache."""

    def __call__(self, x: mx.array, cache: Cache | None) -> mx.array:
        """Map (batch, time, d_model) to the same shape; no token sees a later one. The tokens follow those in cache."""

    def make_cache(self, capacity: int) -> Cache:
        """Return an empty cache with room for ``capacity`` tokens."""

    def forward_flops(self, context_length: int) -> float:
        """Return the floating-point operations for one token of a full context, forward."""


def make_mixer(spec: ModelSpec, index: int) -> Mixer:
    """Build the mixer of layer ``index``."""
    kinds: dict[str, Any] = {  # each mixer reads the cache that it makes
        "delta": DeltaNet,
        "gqa": Attention,
        "local": partial(Attention, window=spec.window),
        "mla": LatentAttention,
    }
    return kinds[spec.mixers[index]](spec)


def make_norm(spec: ModelSpec) -> RMSNorm | LayerNorm:
    """Build a norm over d_model; both kinds are computed in float32 whatever the dtype."""
    if spec.norm == "rmsnorm":
        return RMSNorm(spec.d_model, eps=spec.norm_epsilon)
    return LayerNorm(spec.d_model, eps=spec.norm_epsilon, bias=spec.bias)


class Block(nn.Module):
    """``x + mixer(norm(x))``, then ``x + feedforward(norm(x))``; with norms ``around``, what is added is normed too."""

    def __init__(self, spec: ModelSpec, index: int):
        super().__init__()
        self.mixer_norm = make_norm(spec)
        self.mixer = make_mixer(spec, index)
        self.feedforward_norm = make_norm(spec)
        self.feedforward = make_feedforward(spec, index)
        self.norms_output = spec.norm_place == "around"
        if self.norms_output:
            self.mixer_output_norm = make_norm(spec)
            self.feedforward_output_norm = make_norm(spec)
        self._dropout = spec.dropout

    def __call__(self, x: mx.array, cache: Cache | None) -> mx.array:
        """Map the residual stream (batch, time, d_model) to itself."""
        return self.with_load(x, cache, None)[0]

    def with_load(self, x: mx.array, cache: Cache | None, keys: mx.array | None) -> tuple[mx.array, mx.array | None]:
        """Return the residual stream, and how many tokens each expert got: (n_experts,) int32, None without experts.

        Args:
            x: (batch, time, d_model).
            cache: of the tokens before them; None: there are none.
            keys: of dropout, (batch, 2, 2): on the mixer's branch, then the feed-forward's; None: nothing is dropped.
        """
        of_mixer, of_feedforward = (None, None) if keys is None else (keys[:, 0], keys[:, 1])
        rows, normed = added_and_normed(self.mixer_norm, cuda.flat(x))
        mixed = self.mixer(cuda.shaped(normed, x.shape), cache)
        mixed = dropped(self.mixer_output_norm(mixed) if self.norms_output else mixed, self._dropout, of_mixer)
        rows, normed = added_and_normed(self.feedforward_norm, rows, cuda.shaped(mixed, rows.shape))
        fed, load = self.feedforward.with_load(normed)
        fed = cuda.shaped(self.feedforward_output_norm(fed) if self.norms_output else fed, x.shape)
        return cuda.shaped(rows, x.shape) + dropped(fed, self._dropout, of_feedforward), load

    def forward_flops(self, context_length: int) -> float:
        """Return the floating-point operations for one token of a full context, forward."""
        return self.mixer.forward_flops(context_length) + self.feedforward.forward_flops()
