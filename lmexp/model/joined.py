"""Linear maps of one input as one product, where starting a product costs more than carrying it out.

Measured on an H200 (llama_small, 64 x 256 tokens, bfloat16, compiled; sides by turns): 3.12 million tokens a second
become 3.55; minutes later, when the same host was slower, 2.19 became 2.46. On a CPU it is the other way round: one
product for query, key and value gains nothing, one for gate and up takes a tenth longer, since what reads its halves
reads them in pieces.
"""

from itertools import accumulate

import mlx.core as mx
import mlx.nn as nn

_LEAST_TOKENS = 1024  # for fewer, putting the weights side by side takes more than a third of the product's time


def joins(module: nn.Module, x: mx.array) -> bool:
    """Tell whether the maps of a module should be one product: when it learns, from many tokens, on a CUDA device.

    A forward pass alone saves fewer products than it needs copies of weights. Metal was not measured.
    """
    is_cuda = mx.default_device() == mx.gpu and not mx.metal.is_available()
    return is_cuda and module.training and x.size // x.shape[-1] >= _LEAST_TOKENS


def joined(x: mx.array, *maps: nn.Linear) -> mx.array:
    """Return what the maps give, side by side: (..., inputs) to (..., the sum of their outputs)."""
    weight = mx.concatenate([each.weight for each in maps])
    if "bias" not in maps[0]:
        return x @ weight.T
    return mx.addmm(mx.concatenate([each.bias for each in maps]), x, weight.T)


def apart(y: mx.array, *maps: nn.Linear) -> list[mx.array]:
    """Cut what ``joined`` gives into the results of the maps."""
    ends = list(accumulate(each.weight.shape[0] for each in maps))
    return list(mx.split(y, ends[:-1], axis=-1))
