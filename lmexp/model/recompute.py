"""Gradient checkpointing: the backward pass computes a layer again rather than keep what was inside it."""

from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from lmexp.model.block import Block
from lmexp.model.gradient import with_gradient


def recomputed(layer: Block, x: mx.array, keys: mx.array | None) -> tuple[mx.array, mx.array | None]:
    """Return ``layer.with_load(x, None, keys)``; of all that it computes, only ``x`` is kept for the gradient.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", section 4.1.

    Args:
        layer: in training mode.
        x: the residual stream, (batch, time, d_model).
        keys: of dropout, (batch, 2, 2): the masks are drawn again as well, and are the same; None: nothing is dropped.
    """
    given = cast(list[tuple[str, mx.array]], tree_flatten(layer.trainable_parameters()))
    names = [name for name, _ in given]

    def with_load(x: mx.array, *weights: mx.array) -> tuple[mx.array, mx.array | None]:
        layer.update(tree_unflatten(list(zip(names, weights, strict=True))))
        try:
            return layer.with_load(x, None, keys)
        finally:
            layer.update(tree_unflatten(given))

    def forward(x: mx.array, *weights: mx.array) -> list[mx.array]:
        return [array for array in with_load(x, *weights) if array is not None]

    def gradient(primals: Any, cotangents: Any, _: Any) -> Any:
        # MLX takes what is independent in an order of its own, and all layers might be in memory at once: a layer is
        # computed again when the gradient of its output is there, and the layer below when this one's are all done.
        again = mx.depends(list(primals), [cotangents[0]])
        of_x, *of_weights = mx.vjp(lambda *inputs: with_load(*inputs)[0], again, [cotangents[0]])[1]
        return (*mx.depends([of_x], of_weights), *of_weights)

    y, *load = with_gradient(forward, gradient)(x, *(weight for _, weight in given))
    return y, load[0] if load else None
