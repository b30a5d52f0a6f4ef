"""The feed-forward of a block: two matrices, or three with a gate."""

import mlx.core as mx
import mlx.nn as nn

from lmexp.model.activation import ACTIVATIONS, Activation
from lmexp.model.count import matrix_size
from lmexp.model.joined import Joined, joins
from lmexp.model.spec import GATED, ModelSpec


class FeedForward(nn.Module):
    """``down(activation(up(x)))``."""

    def __init__(self, spec: ModelSpec, activation: Activation):
        super().__init__()
        self._activation = activation
        self.up = nn.Linear(spec.d_model, spec.hidden_width, bias=spec.bias)
        self.down = nn.Linear(spec.hidden_width, spec.d_model, bias=spec.bias)
        self.joined_up, self.joined_down = Joined(self.up), Joined(self.down)

    def __call__(self, x: mx.array) -> mx.array:
        """Map (..., d_model) to the same shape, each token by itself."""
        if joins(self, x):
            return self.joined_down(self._activation(self.joined_up(x)))
        return self.down(self._activation(self.up(x)))

    def with_load(self, x: mx.array) -> tuple[mx.array, None]:
        """Return the output and None: it has no experts whose load could be told."""
        return self(x), None

    def forward_flops(self) -> float:
        """Return the floating-point operations for one token, forward."""
        return 2.0 * matrix_size(self)


class GatedFeedForward(nn.Module):
    """``down(activation(gate(x)) * up(x))``: SwiGLU, GeGLU (Shazeer 2020). ``up`` and ``down`` are FeedForward's."""

    def __init__(self, spec: ModelSpec, activation: Activation):
        super().__init__()
        self._activation = activation
        self.gate = nn.Linear(spec.d_model, spec.hidden_width, bias=spec.bias)
        self.up = nn.Linear(spec.d_model, spec.hidden_width, bias=spec.bias)
        self.down = nn.Linear(spec.hidden_width, spec.d_model, bias=spec.bias)
        self.joined, self.joined_down = Joined(self.gate, self.up), Joined(self.down)

    def __call__(self, x: mx.array) -> mx.array:
        """Map (..., d_model) to the same shape, each token by itself."""
        if joins(self, x):
            return self.joined_down(self._activation.gate_of_halves(self.joined(x)))
        return self.down(self._activation.gate(self.gate(x), self.up(x)))

    def with_load(self, x: mx.array) -> tuple[mx.array, None]:
        """Return the output and None: it has no experts whose load could be told."""
        return self(x), None

    def forward_flops(self) -> float:
        """Return the floating-point operations for one token, forward."""
        return 2.0 * matrix_size(self)


def make_dense(spec: ModelSpec) -> FeedForward | GatedFeedForward:
    """Build a feed-forward that every token passes whole."""
    kind = GatedFeedForward if spec.ffn in GATED else FeedForward
    return kind(spec, ACTIVATIONS[spec.ffn])
