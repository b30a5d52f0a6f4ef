"""Functions whose gradient we write ourselves."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx


def with_gradient(function: Callable[..., Any], gradient: Callable[[Any, Any, Any], Any]) -> Any:
    """Return a function with a gradient of its own, to be called at once.

    MLX computes the gradient of its own operations on the stream that they were computed on, but would take the default
    stream for a gradient in Python: parts of a batch on several streams would wait for each other.

    Args:
        function: maps arrays to arrays.
        gradient: (inputs, gradients of the outputs, outputs) -> gradients of the inputs, as ``mx.custom_function`` has
            it.
    """
    stream = mx.default_stream(mx.default_device())

    def on_the_same_stream(inputs: Any, cotangents: Any, outputs: Any) -> Any:
        with mx.stream(stream):
            return gradient(inputs, cotangents, outputs)

    custom: Any = mx.custom_function(function)
    custom.vjp(on_the_same_stream)
    return custom
