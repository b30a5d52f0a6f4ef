"""Linear maps of one input as one product, where starting a product costs more than carrying it out.

Measured on an H200 (llama_small, 64 x 256 tokens, bfloat16, compiled; sides by turns): 3.12 million tokens a second
become 3.55; minutes later, when the same host was slower, 2.19 became 2.46. On a CPU it is the other way round: one
product for query, key and value gains nothing, one for gate and up takes a tenth longer, since what reads its halves
reads them in pieces.
"""

from itertools import accumulate
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from lmexp.model import cuda

_LEAST_TOKENS = 1024  # for fewer, putting the weights side by side takes more than a third of the product's time


class Joined:
    """Linear maps of one input, one or several.

    They stay what they are: parameters of the module that holds them, by their names. A training step can lend their
    weights as one matrix, and their biases as one vector.
    """

    def __init__(self, *maps: nn.Linear):
        self.maps = maps
        self._lent: _Lent | None = None

    def lend(self, matrix: mx.array, bias: mx.array | None) -> None:
        """Take what the maps' weights and biases are parts of: (inputs, all outputs) and (all outputs,).

        It serves as long as the maps have the weights that they have now.
        """
        self._lent = _Lent(matrix, bias, [each.weight for each in self.maps])

    def take_back(self) -> None:
        """Forget what was lent."""
        self._lent = None

    def __call__(self, x: mx.array) -> mx.array:
        """Return what the maps give, side by side: (..., inputs) to (..., the sum of their outputs)."""
        matrix, bias = self._weights()
        return x @ matrix if bias is None else mx.addmm(bias, x, matrix)

    def apart(self, y: mx.array) -> list[mx.array]:
        """Cut what a call gives into the results of the maps."""
        ends = list(accumulate(each.weight.shape[0] for each in self.maps))
        return list(mx.split(y, ends[:-1], axis=-1))

    def _weights(self) -> tuple[mx.array, mx.array | None]:
        lent = self._lent
        if lent and all(each.weight is part for each, part in zip(self.maps, lent.parts, strict=True)):
            return lent.matrix, lent.bias
        has_bias = "bias" in self.maps[0]
        return (
            mx.concatenate([each.weight for each in self.maps]).T,
            mx.concatenate([each.bias for each in self.maps]) if has_bias else None,
        )


class _Lent(NamedTuple):
    matrix: mx.array
    bias: mx.array | None
    parts: list[mx.array]


def joins(module: nn.Module, x: mx.array) -> bool:
    """Tell whether the maps of a module should be one product: when it learns, from many tokens, on a CUDA device.

    A forward pass alone saves fewer products than it needs copies of weights. Metal was not measured.
    """
    return cuda.is_default() and module.training and x.size // x.shape[-1] >= _LEAST_TOKENS
