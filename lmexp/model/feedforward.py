"""The feed-forward of a block: two matrices, or three with a gate.

The activations are written out rather than taken from ``mlx.nn``, whose own are always compiled: here an uncompiled run
is uncompiled throughout (which compile_coverage measures), and needs no C++ compiler.
"""

import math
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from lmexp.model.count import matrix_size
from lmexp.model.spec import GATED, ModelSpec

_GELU_SLOPE = 2 * math.sqrt(2 / math.pi)


def gelu(x: mx.array) -> mx.array:
    """GELU in GPT-2's form, 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks and Gimpel 2016).

    Written through the sigmoid, since 0.5 (1 + tanh z) = sigmoid(2 z): the same function at half the time on a CPU.
    """
    return x * mx.sigmoid(_GELU_SLOPE * (x + 0.044715 * (x * x * x)))


def silu(x: mx.array) -> mx.array:
    """Return x sigmoid(x), the gate of SwiGLU."""
    return x * mx.sigmoid(x)


def relu_squared(x: mx.array) -> mx.array:
    """Return max(x, 0)^2 (So et al. 2021, "Primer")."""
    return mx.square(mx.maximum(x, 0))


class FeedForward(nn.Module):
    """``down(activation(up(x)))``."""

    def __init__(self, spec: ModelSpec, activation: Callable[[mx.array], mx.array]):
        super().__init__()
        self._activation = activation
        self.up = nn.Linear(spec.d_model, spec.hidden_width, bias=spec.bias)
        self.down = nn.Linear(spec.hidden_width, spec.d_model, bias=spec.bias)

    def __call__(self, x: mx.array) -> mx.array:
        """Map (batch, time, d_model) to the same shape, each token by itself."""
        return self.down(self._activation(self.up(x)))

    def with_load(self, x: mx.array) -> tuple[mx.array, None]:
        """Return the output and None: it has no experts whose load could be told."""
        return self(x), None

    def forward_flops(self) -> float:
        """Return the floating-point operations for one token, forward."""
        return 2.0 * matrix_size(self)


class GatedFeedForward(nn.Module):
    """``down(activation(gate(x)) * up(x))``: SwiGLU, GeGLU (Shazeer 2020). ``up`` and ``down`` are FeedForward's."""

    def __init__(self, spec: ModelSpec, activation: Callable[[mx.array], mx.array]):
        super().__init__()
        self._activation = activation
        self.gate = nn.Linear(spec.d_model, spec.hidden_width, bias=spec.bias)
        self.up = nn.Linear(spec.d_model, spec.hidden_width, bias=spec.bias)
        self.down = nn.Linear(spec.hidden_width, spec.d_model, bias=spec.bias)

    def __call__(self, x: mx.array) -> mx.array:
        """Map (batch, time, d_model) to the same shape, each token by itself."""
        return self.down(self._activation(self.gate(x)) * self.up(x))

    def with_load(self, x: mx.array) -> tuple[mx.array, None]:
        """Return the output and None: it has no experts whose load could be told."""
        return self(x), None

    def forward_flops(self) -> float:
        """Return the floating-point operations for one token, forward."""
        return 2.0 * matrix_size(self)


ACTIVATIONS = {"gelu": gelu, "relu2": relu_squared, "swiglu": silu, "geglu": gelu}


def make_dense(spec: ModelSpec) -> FeedForward | GatedFeedForward:
    """Build a feed-forward that every token passes whole."""
    kind = GatedFeedForward if spec.ffn in GATED else FeedForward
    return kind(spec, ACTIVATIONS[spec.ffn])
