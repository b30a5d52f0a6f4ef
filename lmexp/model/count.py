"""Sizes of a module's parameters."""

from typing import cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten


def named_parameters(module: nn.Module) -> list[tuple[str, mx.array]]:
    """Return every array of a module with its path, such as ``layers.0.mixer.query.weight``."""
    return cast(list[tuple[str, mx.array]], tree_flatten(module.parameters()))


def matrix_size(module: nn.Module) -> int:
    """Return how many numbers the matrices of a module hold: each is multiplied once for a token."""
    return sum(array.size for _, array in named_parameters(module) if array.ndim == 2)


def n_trained(module: nn.Module, without: tuple[str, ...] = ()) -> int:
    """Return how many numbers of a module are trained, less those whose path starts with one of ``without``.

    What is saved but not trained, such as the bias that balances experts, does not count.
    """
    trained = cast(list[tuple[str, mx.array]], tree_flatten(module.trainable_parameters()))
    return sum(array.size for path, array in trained if not path.startswith(without))
