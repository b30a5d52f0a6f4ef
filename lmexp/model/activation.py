"""The nonlinearities of a feed-forward, with gradients written out.

MLX merges equal expressions: a gradient that reads the forward pass's sigmoid keeps it in memory, and neither pass can
then be fused into one kernel, in place of which MLX runs its plain ones, one operation at a time. So the gradient here
computes its sigmoid again, by another formula. Nothing is taken from ``mlx.nn``, whose own activations are always
compiled: an uncompiled run is uncompiled throughout (which compile_coverage measures), and needs no C++ compiler.
"""

import math
from collections.abc import Callable

import mlx.core as mx

from lmexp.model.gradient import with_gradient

_GELU_SLOPE, _GELU_CUBE = 2 * math.sqrt(2 / math.pi), 0.044715


class Activation:
    """An elementwise function f, alone or as the gate of another input."""

    def __init__(
        self, value: Callable[[mx.array], mx.array], value_and_slope: Callable[[mx.array], tuple[mx.array, mx.array]]
    ):
        """Make it from f(x), and from f(x) and f'(x) in float32 as the gradient computes them."""
        self._value, self._value_and_slope = value, value_and_slope

    def __call__(self, x: mx.array) -> mx.array:
        """Return f(x)."""
        y: mx.array = with_gradient(self._value, self._gradient)(x)
        return y

    def gate(self, x: mx.array, gated: mx.array) -> mx.array:
        """Return f(x) times another input of the same shape."""
        y: mx.array = with_gradient(lambda x, gated: self._value(x) * gated, self._gate_gradient)(x, gated)
        return y

    def _gradient(self, x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        return (cotangent * self._value_and_slope(x.astype(mx.float32))[1]).astype(x.dtype)

    def _gate_gradient(
        self, inputs: tuple[mx.array, mx.array], cotangent: mx.array, _: mx.array
    ) -> tuple[mx.array, mx.array]:
        x, gated = inputs
        of_x, slope = self._value_and_slope(x.astype(mx.float32))
        return (cotangent * gated * slope).astype(x.dtype), (cotangent * of_x).astype(gated.dtype)


def _sigmoid(x: mx.array) -> mx.array:
    return 1 / (1 + mx.exp(-x))


def _gelu_inner(x: mx.array) -> mx.array:
    return _GELU_SLOPE * (x + _GELU_CUBE * (x * x * x))


def _gelu_and_slope(x: mx.array) -> tuple[mx.array, mx.array]:
    s = _sigmoid(_gelu_inner(x))
    return x * s, s + x * s * (1 - s) * (_GELU_SLOPE * (1 + 3 * _GELU_CUBE * (x * x)))


def _silu_and_slope(x: mx.array) -> tuple[mx.array, mx.array]:
    s = _sigmoid(x)
    return x * s, s * (1 + x * (1 - s))


def _relu_squared_and_slope(x: mx.array) -> tuple[mx.array, mx.array]:
    positive = mx.maximum(x, 0)
    return positive * positive, 2 * positive


# GPT-2's form of GELU, 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks and Gimpel 2016), through the
# sigmoid, since 0.5 (1 + tanh z) = sigmoid(2 z): the same function at half the time on a CPU.
gelu = Activation(lambda x: x * mx.sigmoid(_gelu_inner(x)), _gelu_and_slope)

# x sigmoid(x), the gate of SwiGLU.
silu = Activation(lambda x: x * mx.sigmoid(x), _silu_and_slope)

# max(x, 0)^2 (So et al. 2021, "Primer").
relu_squared = Activation(lambda x: mx.square(mx.maximum(x, 0)), _relu_squared_and_slope)

# By the name of the feed-forward that uses it.
ACTIVATIONS = {"gelu": gelu, "relu2": relu_squared, "swiglu": silu, "geglu": gelu}
