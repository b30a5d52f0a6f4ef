"""Where each of our parameters comes from: one or more arrays of a published file, and what is done to them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx


class Source(NamedTuple):
    """One of our parameters in terms of published ones.

    Attributes:
        names: as in the published file.
        build: from the arrays of those names to ours.
    """

    names: tuple[str, ...]
    build: Callable[..., mx.array]

    def without(self, prefix: str) -> "Source":
        """Return the same for a file whose names lack a prefix."""
        return Source(tuple(name.removeprefix(prefix) for name in self.names), self.build)


Sources = dict[str, Source]


def same(name: str) -> Source:
    """Take an array as it is."""
    return Source((name,), lambda array: array)


def changed(name: str, change: Callable[[mx.array], mx.array]) -> Source:
    """Take an array and change it."""
    return Source((name,), change)


def gain(name: str) -> Source:
    """Take the gain of a norm that is published as its difference from 1 (Gemma's)."""
    return changed(name, lambda array: array + 1)


def stacked(names: Iterable[str]) -> Source:
    """Put the matrices of all experts into one array, (experts, outputs, inputs)."""
    return Source(tuple(names), lambda *arrays: mx.stack(list(arrays)))


def renamed(names: Mapping[str, str], parts: Sequence[str], ours: str = "", theirs: str = "") -> Sources:
    """Turn a table of modules into sources of their arrays.

    Args:
        names: our module to theirs.
        parts: the arrays that each has, such as ``weight`` and ``bias``.
        ours: what stands before our names.
        theirs: what stands before theirs.
    """
    return {f"{ours}{our}.{part}": same(f"{theirs}{their}.{part}") for our, their in names.items() for part in parts}


def part_of_each(fused: mx.array, n_heads: int, widths: list[int], index: int) -> mx.array:
    """Take one part of every head's rows: (n_heads x sum of widths, inputs) to (n_heads x widths[index], inputs)."""
    heads = fused.reshape(n_heads, sum(widths), -1)
    start = sum(widths[:index])
    return heads[:, start : start + widths[index]].reshape(n_heads * widths[index], -1)
