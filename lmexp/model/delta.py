"""Gated DeltaNet as a mixer: what surrounds the delta rule.

Source: Yang, Kautz and Hatamizadeh 2024, "Gated Delta Networks" (arXiv 2412.06464), section 3.4, in the form of
Qwen3-Next.
"""

import mlx.core as mx
import mlx.nn as nn

from lmexp.model.activation import silu
from lmexp.model.cache import RecurrentCache
from lmexp.model.count import matrix_size
from lmexp.model.delta_rule import RuleInputs, apply_rule, rule_flops
from lmexp.model.norm import RMSNorm
from lmexp.model.spec import ModelSpec

_LENGTH_EPSILON = 1e-6  # added to the squared length of a query or key before it is divided by its length


class DeltaNet(nn.Module):
    """Gated DeltaNet as a mixer: neither its cost per token nor its cache grows with the text.

    Each key head serves ``value_heads / key_heads`` value heads, here called a group.
    """

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.key_heads, self.value_heads = spec.delta.heads(spec.n_heads)
        self.key_width, self.value_width = spec.delta.widths(spec.head_dim)
        keys, values = self.key_heads * self.key_width, self.value_heads * self.value_width
        self.query = nn.Linear(spec.d_model, keys, bias=spec.bias)
        self.key = nn.Linear(spec.d_model, keys, bias=spec.bias)
        self.value = nn.Linear(spec.d_model, values, bias=spec.bias)
        self.gate = nn.Linear(spec.d_model, values, bias=spec.bias)
        self.strength = nn.Linear(spec.d_model, self.value_heads, bias=spec.bias)
        self.time_step = nn.Linear(spec.d_model, self.value_heads, bias=spec.bias)
        self.time_step_offset = mx.zeros(self.value_heads)
        self.log_rate = mx.zeros(self.value_heads)
        # Of queries, keys and values, in the layout of MLX. No matrix: Muon leaves it to Adam.
        self.convolution = mx.zeros((2 * keys + values, spec.delta.convolution_width, 1))
        self.head_norm = RMSNorm(self.value_width, eps=spec.norm_epsilon)
        self.output = nn.Linear(values, spec.d_model, bias=spec.bias)

    def make_cache(self, capacity: int) -> RecurrentCache:
        """Return an empty cache, which has room for any number of tokens."""
        return RecurrentCache()

    def __call__(self, x: mx.array, cache: RecurrentCache | None) -> mx.array:
        """Mix each token with those before it; ``x`` and the result: (batch, time, d_model).

        From the convolution to the gate, it computes in float32 whatever the dtype.
        """
        batch, time, _ = x.shape
        recent, state = (cache.state if cache else None) or self._nothing_seen(batch, x.dtype)
        seen = mx.concatenate([recent, self._channels(x)], axis=1)
        queries, keys, values = self._heads(_convolved(seen.astype(mx.float32), self.convolution))
        inputs = RuleInputs(queries, keys, values, self._strengths(x), self._log_decays(x))
        mixed, state = apply_rule(inputs, state)
        if cache is not None:
            # Taken, not sliced: a slice would keep the channels of every token alive.
            cache.update(time, mx.take(seen, mx.arange(time, seen.shape[1]), axis=1), state)
        return self.output(self._gated(mixed, x))

    def forward_flops(self, context_length: int) -> float:
        """Return the floating-point operations for one token of a full context, forward.

        Each weight of a matrix and of the convolution takes 2; the rule takes the same at every length.
        """
        rule = rule_flops(self.key_heads, self.value_heads, self.key_width, self.value_width)
        return 2.0 * (matrix_size(self) + self.convolution.size) + rule

    def _nothing_seen(self, batch: int, dtype: mx.Dtype) -> list[mx.array]:
        """Return what stands before the first token: channels of (batch, width - 1, channels), and the state."""
        channels, width, _ = self.convolution.shape
        group = self.value_heads // self.key_heads
        state = mx.zeros((batch, self.key_heads, group, self.key_width, self.value_width))
        return [mx.zeros((batch, width - 1, channels), dtype), state]

    def _channels(self, x: mx.array) -> mx.array:
        return mx.concatenate([self.query(x), self.key(x), self.value(x)], axis=-1)

    def _heads(self, channels: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Split channels (batch, time, channels) into queries and keys of a set length, and values, by heads."""
        width = self.key_heads * self.key_width
        queries, keys, values = mx.split(channels, [width, 2 * width], axis=-1)
        return (
            _unit(self._by_head(queries, self.key_width)) * self.key_width**-0.5,
            _unit(self._by_head(keys, self.key_width)),
            self._by_head(values, self.value_width),
        )

    def _strengths(self, x: mx.array) -> mx.array:
        return self._by_head(mx.sigmoid(self.strength(x).astype(mx.float32)), 1).squeeze(-1)

    def _log_decays(self, x: mx.array) -> mx.array:
        """Return -rate x time step, both above 0: (batch, time, key_heads, group) float32."""
        time_steps = nn.softplus(self.time_step(x).astype(mx.float32) + self.time_step_offset)
        return self._by_head(-mx.exp(self.log_rate.astype(mx.float32)) * time_steps, 1).squeeze(-1)

    def _by_head(self, channels: mx.array, width: int) -> mx.array:
        """Turn (batch, time, channels) into (batch, time, key_heads, group, width)."""
        return channels.reshape(*channels.shape[:2], self.key_heads, -1, width)

    def _gated(self, mixed: mx.array, x: mx.array) -> mx.array:
        """Norm each head's output and gate it: (batch, time, key_heads, group, value_width) to (batch, time, width)."""
        gates = self.gate(x)
        mixed = self.head_norm(mixed).reshape(gates.shape)
        return silu.gate(gates.astype(mx.float32), mixed).astype(x.dtype)


def _convolved(seen: mx.array, weight: mx.array) -> mx.array:
    """Convolve each channel with its own row of ``weight`` (channels, width, 1), then SiLU.

    Args:
        seen: (batch, width - 1 + time, channels): the tokens, and those before them.

    Returns:
        (batch, time, channels). Written as shifted products: on a CPU, MLX's own convolution of single channels takes
        three times as long.
    """
    width = weight.shape[1]
    time = seen.shape[1] - width + 1
    convolved = seen[:, :time] * weight[:, 0, 0]
    for shift in range(1, width):
        convolved = convolved + seen[:, shift : shift + time] * weight[:, shift, 0]
    return silu(convolved)


def _unit(vectors: mx.array) -> mx.array:
    width = vectors.shape[-1]  # a root mean square is a length over sqrt(width)
    return mx.fast.rms_norm(vectors, None, _LENGTH_EPSILON / width) * width**-0.5
