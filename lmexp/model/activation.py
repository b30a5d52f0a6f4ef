"""The nonlinearities of a feed-forward, with gradients written out so that mx.compile fuses both passes.

What two results need, MLX computes once and keeps in memory, and equal expressions are one to it. A gradient that reads
the forward pass's sigmoid would therefore keep it from then on, and neither pass could be fused. So the gradient
computes a sigmoid of its own. Nothing is taken from ``mlx.nn``, whose activations are always compiled: an uncompiled
run is uncompiled throughout (which compile_coverage measures), and needs no C++ compiler.
"""

import math
from collections.abc import Callable

import mlx.core as mx

from lmexp.model.gate import GateOfHalves
from lmexp.model.gradient import with_gradient

_GELU_SLOPE, _GELU_CUBE = 2 * math.sqrt(2 / math.pi), 0.044715


class Activation:
    """An elementwise function f, alone or as the gate of another input."""

    def __init__(
        self,
        value: Callable[[mx.array], mx.array],
        value_and_slope: Callable[[mx.array], tuple[mx.array, mx.array]],
        gate_of_halves: GateOfHalves | None = None,
    ):
        """Make it from f(x), from f(x) and f'(x) as the gradient computes them, and from its kernel as a gate."""
        self._value, self._value_and_slope, self._gate_of_halves = value, value_and_slope, gate_of_halves

    def __call__(self, x: mx.array) -> mx.array:
        """Return f(x)."""
        y: mx.array = with_gradient(self._value, self._gradient)(x)
        return y

    def gate(self, x: mx.array, gated: mx.array) -> mx.array:
        """Return f(x) times another input of the same shape."""
        y: mx.array = with_gradient(lambda x, gated: self._value(x) * gated, self._gate_gradient)(x, gated)
        return y

    def gate_of_halves(self, halves: mx.array) -> mx.array:
        """Return f of the first half times the second, on a CUDA device: (..., 2 width) to (..., width)."""
        assert self._gate_of_halves is not None  # every activation that is a gate has it
        return self._gate_of_halves(halves)

    def _gradient(self, x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        return (cotangent * self._value_and_slope(x.astype(mx.float32))[1]).astype(x.dtype)

    def _gate_gradient(
        self, inputs: tuple[mx.array, mx.array], cotangent: mx.array, _: mx.array
    ) -> tuple[mx.array, mx.array]:
        x, gated = inputs
        for_slope, for_value = _by_two_names(x)
        to_x = cotangent * gated * self._value_and_slope(for_slope)[1]
        to_gated = cotangent * self._value_and_slope(for_value)[0]
        return to_x.astype(x.dtype), to_gated.astype(gated.dtype)


def _by_two_names(x: mx.array) -> tuple[mx.array, mx.array]:
    """Return x in float32 twice: on a GPU as two expressions, so that nothing computed from them is shared.

    There a sigmoid costs nothing beside the memory that it would be kept in (64 x 256 tokens of llama_small on an H200:
    109 us a layer shared, 66 twice); on a CPU it is what costs.
    """
    if mx.default_device() == mx.gpu:
        return (x + 0.0).astype(mx.float32), (x - 0.0).astype(mx.float32)
    return x.astype(mx.float32), x.astype(mx.float32)


def _swish(
    z: Callable[[mx.array], mx.array], slope_of_z: Callable[[mx.array], mx.array | float], gate_of_halves: GateOfHalves
) -> Activation:
    """Return f(x) = x sigmoid(z(x)), with f' = s (1 + (1 - s) x z'(x)) where s is the sigmoid."""

    def value_and_slope(x: mx.array) -> tuple[mx.array, mx.array]:
        s = _sigmoid_apart(z(x))
        return x * s, s * (1 + (1 - s) * (x * slope_of_z(x)))

    return Activation(lambda x: x * mx.sigmoid(z(x)), value_and_slope, gate_of_halves)


def _sigmoid_apart(z: mx.array) -> mx.array:
    """Return sigmoid(z) apart from the forward pass's: on a CPU, where `_by_two_names` gives x itself, as a formula."""
    return mx.sigmoid(z) if mx.default_device() == mx.gpu else 1 / (1 + mx.exp(-z))


# x sigmoid(x), the gate of SwiGLU.
silu = _swish(lambda x: x, lambda x: 1.0, GateOfHalves("silu", "x", "1.0f"))

# GPT-2's form of GELU, 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks and Gimpel 2016), through the
# sigmoid, since 0.5 (1 + tanh z) = sigmoid(2 z): the same function at half the time on a CPU.
gelu = _swish(
    lambda x: x * (_GELU_SLOPE + _GELU_SLOPE * _GELU_CUBE * (x * x)),
    lambda x: _GELU_SLOPE + 3 * _GELU_SLOPE * _GELU_CUBE * (x * x),
    GateOfHalves(
        "gelu",
        f"{_GELU_SLOPE:.9g}f * x * (1 + {_GELU_CUBE:.9g}f * x * x)",
        f"{_GELU_SLOPE:.9g}f * (1 + 3 * {_GELU_CUBE:.9g}f * x * x)",
    ),
)

# max(x, 0)^2 (So et al. 2021, "Primer").
relu_squared = Activation(
    lambda x: mx.square(mx.maximum(x, 0)), lambda x: (mx.square(mx.maximum(x, 0)), 2 * mx.maximum(x, 0))
)

# By the name of the feed-forward that uses it.
ACTIVATIONS = {"gelu": gelu, "relu2": relu_squared, "swiglu": silu, "geglu": gelu}
