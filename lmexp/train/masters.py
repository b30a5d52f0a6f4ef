"""The float32 weights that an optimizer changes, and how they lie in memory.

The model computes with copies of them in the compute dtype. Where launching a kernel costs more than its arithmetic, as
on a GPU, they lie in two long vectors instead of one array per parameter: an elementwise optimizer and the norm of the
gradient are then a handful of kernels instead of some hundred.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import accumulate
from math import prod
from typing import Any, Protocol, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from lmexp.model import cuda
from lmexp.model.joined import Joined
from lmexp.train.end_to_end import end_to_end
from lmexp.train.optimizer import ELEMENTWISE, decayed

_ALIGNED = 64  # numbers; pieces of this multiple keep the alignment that matrix kernels like


class Masters(Protocol):
    """Weights in some layout, in shares that can be updated side by side; a gradient has the same layout."""

    state: Any

    def shares(self) -> list[Any]:
        """Return the float32 weights, as the optimizer of each share sees them."""

    def weights(self, dtype: mx.Dtype) -> Any:
        """Return the weights in this dtype, by whatever names: what a step differentiates by."""

    def lent(self, weights: Any) -> AbstractContextManager[None]:
        """Let the model compute with these weights for a while."""

    def gathered(self, gradient: Any) -> list[Any]:
        """Bring a gradient by the names of ``weights`` into this layout, in float32."""

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

    @contextmanager
    def lent(self, weights: Any) -> Iterator[None]:
        """Let the model compute with these weights for a while."""
        with _restored(self._model):
            self._model.update(weights)
            yield

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

    The matrices of linear maps lie transposed, (inputs, outputs): their gradients come out of the backward pass like
    that. On a CUDA device the maps that the model joins (`lmexp.model.joined`) lie side by side, as one matrix, and so
    do their biases.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._joined = _joined_maps(model) if cuda.is_default() else {}
        linear = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)}
        found = _flat(model.trainable_parameters())
        units = _units(found, linear, self._joined)
        self._groups = {
            "matrices": _Group([unit for unit in units if unit.is_matrix]),
            "vectors": _Group([unit for unit in units if not unit.is_matrix]),
        }
        self.state = {
            name: mx.concatenate([unit.packed(found).reshape(-1) for unit in group.units] or [mx.zeros(0)])
            for name, group in self._groups.items()
        }

    def shares(self) -> list[Any]:
        """Return the float32 weights, as the optimizer sees them: one share."""
        return [dict(self.state)]

    def weights(self, dtype: mx.Dtype) -> Any:
        """Return the weights in this dtype: one array for each unit, by its name."""
        pieces = [group.cut(self.state[name].astype(dtype)) for name, group in self._groups.items()]
        return {unit: array for piece in pieces for unit, array in piece.items()}

    @contextmanager
    def lent(self, weights: Any) -> Iterator[None]:
        """Let the model compute with these weights for a while."""
        with _restored(self._model):
            self._model.update(self._by_path(weights))
            for paths, joined in self._joined.items():
                joined.lend(weights[_named(paths, "weight")], weights.get(_named(paths, "bias")))
            try:
                yield
            finally:
                for joined in self._joined.values():
                    joined.take_back()

    def gathered(self, gradient: Any) -> list[Any]:
        """Bring a gradient by the units' names into two vectors, in float32."""
        return [
            {name: end_to_end([gradient[unit.name] for unit in group.units]) for name, group in self._groups.items()}
        ]

    def decayed(self, share: Any, kept: mx.array) -> Any:
        """Return a share with every matrix multiplied by ``kept``, a little below 1."""
        return share | {"matrices": share["matrices"] * kept}

    def update(self, share: Any) -> None:
        """Take new weights of a share."""
        self.state.update(share)

    def show(self) -> None:
        """Give the model the weights as they are now: not in every step, which some 200 views would hold up."""
        self._model.update(self._by_path(self.weights(mx.float32)))

    def _by_path(self, weights: dict[str, mx.array]) -> Any:
        units = [unit for group in self._groups.values() for unit in group.units]
        return tree_unflatten([piece for unit in units for piece in unit.unpacked(weights[unit.name])])


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Give the model the weights back that it has now."""
    before = model.trainable_parameters()
    try:
        yield
    finally:
        model.update(before)


def _joined_maps(model: nn.Module) -> dict[tuple[str, ...], Joined]:
    """Return what the modules of a model join, by the paths of the maps."""
    paths = {id(module): path for path, module in model.named_modules()}
    found = [each for _, module in model.named_modules() for each in vars(module).values()]
    return {tuple(paths[id(each)] for each in joined.maps): joined for joined in found if isinstance(joined, Joined)}


def _named(paths: Sequence[str], part: str) -> str:
    return "+".join(f"{path}.{part}" for path in paths)


class _Unit:
    """One parameter, or several side by side along their outputs."""

    def __init__(self, paths: Sequence[str], shapes: Sequence[tuple[int, ...]], is_linear: bool):
        self.name, self.is_matrix = "+".join(paths), len(shapes[0]) >= 2
        self._paths, self._shapes, self._is_linear = paths, shapes, is_linear
        self._ends = list(accumulate(shape[0] for shape in shapes))
        self.shape = (self._ends[-1], *shapes[0][1:])[:: -1 if is_linear else 1]

    @property
    def size(self) -> int:
        return prod(self.shape)

    def packed(self, arrays: dict[str, mx.array]) -> mx.array:
        """Return the parameters as they lie in memory; ``arrays`` has them by their paths."""
        whole = mx.concatenate([arrays[path] for path in self._paths])
        return whole.T if self._is_linear else whole

    def unpacked(self, array: mx.array) -> list[tuple[str, mx.array]]:
        """Return each parameter with its path, as views."""
        parts = mx.split(array.T if self._is_linear else array, self._ends[:-1])
        return list(zip(self._paths, parts, strict=True))


def _units(found: dict[str, mx.array], linear: set[str], joined: Iterable[tuple[str, ...]]) -> list[_Unit]:
    together = [[f"{path}.{part}" for path in paths] for paths in joined for part in ("weight", "bias")]
    together = [paths for paths in together if paths[0] in found]
    alone = set(found) - {path for paths in together for path in paths}
    return [
        _Unit(paths, [found[path].shape for path in paths], paths[0] in linear)
        for paths in (*together, *([path] for path in sorted(alone)))
    ]


class _Group:
    """Units that lie end to end: those of even sizes first, so that they stay aligned."""

    def __init__(self, units: list[_Unit]):
        self.units = sorted(units, key=lambda unit: (unit.size % _ALIGNED != 0, unit.name))
        self._ends = list(accumulate(unit.size for unit in self.units))

    def cut(self, vector: mx.array) -> dict[str, mx.array]:
        """Return each unit by its name, as a view."""
        starts = (0, *self._ends)
        return {
            unit.name: mx.as_strided(vector, unit.shape, offset=start)
            for unit, start in zip(self.units, starts, strict=False)
        }
