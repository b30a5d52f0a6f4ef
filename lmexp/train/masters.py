"""The float32 weights that an optimizer changes, and how they lie in memory.

The model computes with copies of them in the compute dtype. Where launching a kernel costs more than its arithmetic, as
on a GPU, they lie in two long vectors instead of one array per parameter: an elementwise optimizer and the norm of the
gradient are then a handful of kernels instead of some hundred.
"""

from itertools import accumulate
from typing import Any, Protocol, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from lmexp.train.optimizer import ELEMENTWISE, decayed

_ALIGNED = 64  # numbers; pieces of this multiple keep the alignment that matrix kernels like


class Masters(Protocol):
    """Weights in some layout, in shares that can be updated side by side; a gradient has the same layout."""

    state: Any

    def shares(self) -> list[Any]:
        """Return the float32 weights, as the optimizer of each share sees them."""

    def weights(self, dtype: mx.Dtype) -> Any:
        """Return the weights by the model's own names, in this dtype."""

    def gathered(self, gradient: Any) -> list[Any]:
        """Bring a gradient by the model's own names into this layout, in float32."""

    def decayed(self, share: Any, kept: mx.array) -> Any:
        """Return a share with every matrix multiplied by ``kept``, a little below 1."""

    def update(self, share: Any) -> None:
        """Take new weights of a share."""

    def show(self) -> None:
        """Give the model the weights as they are now: before anything but a step reads it."""


def make_masters(model: nn.Module, optimizer: str, n_shares: int) -> Masters:
    """Choose the layout for an optimizer on the default device; ``n_shares`` is how many streams it has."""
    return Packed(model) if packs(optimizer) else Separate(model, n_shares)


def packs(optimizer: str) -> bool:
    """Tell whether two long vectors are faster than many arrays, and mean the same to this optimizer.

    Measured on an H200 (llama_small, 64 x 256 tokens, bfloat16): 673 kernels a step become 473, and 2.5 million tokens
    a second 3.3 to 3.7. On a CPU one array per parameter stays in the caches: long vectors are slower there.
    """
    return mx.default_device() == mx.gpu and optimizer in ELEMENTWISE


class Separate:
    """One array per parameter: the model's own. Each share is a part of the tree, about as large as the others."""

    def __init__(self, model: nn.Module, n_shares: int):
        self._model = model
        self.state: dict[str, mx.array] = {}  # nothing beside the model's
        self._paths: list[list[str]] = [[] for _ in range(n_shares)]
        sizes = [0] * n_shares
        for path, array in sorted(_flat(model.trainable_parameters()).items(), key=lambda item: -item[1].size):
            smallest = sizes.index(min(sizes))
            self._paths[smallest].append(path)
            sizes[smallest] += array.size

    def shares(self) -> list[Any]:
        """Return the float32 weights, as the optimizer of each share sees them."""
        return self._shared(_flat(self._model.trainable_parameters()))

    def weights(self, dtype: mx.Dtype) -> Any:
        """Return the weights by the model's own names, in this dtype."""
        return tree_map(lambda weight: weight.astype(dtype), self._model.trainable_parameters())

    def gathered(self, gradient: Any) -> list[Any]:
        """Bring a gradient by the model's own names into this layout, in float32."""
        return self._shared({path: array.astype(mx.float32) for path, array in _flat(gradient).items()})

    def decayed(self, share: Any, kept: mx.array) -> Any:
        """Return a share with every matrix multiplied by ``kept``, a little below 1."""
        return tree_map(lambda weight: decayed(weight, kept), share)

    def update(self, share: Any) -> None:
        """Take new weights of a share."""
        self._model.update(share)

    def show(self) -> None:
        """Give the model the weights as they are now, which it has: they are its own."""

    def _shared(self, arrays: dict[str, mx.array]) -> list[Any]:
        return [tree_unflatten([(path, arrays[path]) for path in sorted(paths)]) for paths in self._paths]


def _flat(tree: Any) -> dict[str, mx.array]:
    return dict(cast(list[tuple[str, mx.array]], tree_flatten(tree)))


class Packed:
    """Two vectors: all matrices end to end, and all vectors. The model's arrays are views of them.

    The matrices of linear maps lie transposed, (in, out): their gradients come out of the backward pass like that.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        linear = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)}
        found = _flat(model.trainable_parameters())
        self._groups = {
            "matrices": _Group([item for item in found.items() if item[1].ndim >= 2], linear),
            "vectors": _Group([item for item in found.items() if item[1].ndim < 2], linear),
        }
        self.state = self._pack(found)

    def shares(self) -> list[Any]:
        """Return the float32 weights, as the optimizer sees them: one share."""
        return [dict(self.state)]

    def weights(self, dtype: mx.Dtype) -> Any:
        """Return the weights by the model's own names, in this dtype."""
        pieces = [
            piece for name, group in self._groups.items() for piece in group.unpacked(self.state[name].astype(dtype))
        ]
        return tree_unflatten(pieces)

    def gathered(self, gradient: Any) -> list[Any]:
        """Bring a gradient by the model's own names into this layout, in float32."""
        return [{name: vector.astype(mx.float32) for name, vector in self._pack(_flat(gradient)).items()}]

    def decayed(self, share: Any, kept: mx.array) -> Any:
        """Return a share with every matrix multiplied by ``kept``, a little below 1."""
        return share | {"matrices": share["matrices"] * kept}

    def update(self, share: Any) -> None:
        """Take new weights of a share."""
        self.state.update(share)

    def show(self) -> None:
        """Give the model the weights as they are now: not in every step, which some 200 views would hold up."""
        self._model.update(self.weights(mx.float32))

    def _pack(self, arrays: dict[str, mx.array]) -> dict[str, mx.array]:
        return {name: group.packed(arrays) for name, group in self._groups.items()}


class _Group:
    """Arrays that lie end to end: those of even sizes first, so that they stay aligned."""

    def __init__(self, items: list[tuple[str, mx.array]], linear: set[str]):
        items = sorted(items, key=lambda item: (item[1].size % _ALIGNED != 0, item[0]))
        self._shapes = {path: array.shape for path, array in items}
        self._transposed = linear
        self._cuts = list(accumulate(array.size for _, array in items))[:-1]

    def packed(self, arrays: dict[str, mx.array]) -> mx.array:
        parts = [arrays[path].T if path in self._transposed else arrays[path] for path in self._shapes]
        return mx.concatenate([part.reshape(-1) for part in parts] or [mx.zeros(0)])

    def unpacked(self, vector: mx.array) -> list[tuple[str, mx.array]]:
        pieces = mx.split(vector, self._cuts)
        return [(path, self._shaped(path, piece)) for path, piece in zip(self._shapes, pieces, strict=False)]

    def _shaped(self, path: str, piece: mx.array) -> mx.array:
        shape = self._shapes[path]
        return piece.reshape(shape[::-1]).T if path in self._transposed else piece.reshape(shape)
