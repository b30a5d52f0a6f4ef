"""What a layer remembers between decoding steps, so that a new token costs one row instead of the whole text.

Every kind of cache obeys one protocol, so that the decoder knows no architecture. Each mixer makes its own.
"""

from collections.abc import Sequence
from typing import Protocol, Self, cast

import mlx.core as mx


class Cache(Protocol):
    """What one layer remembers of the tokens that it has read, for every row of a batch.

    Rows of different lengths stand in one batch after :meth:`merge`: their latest tokens stand side by side.
    """

    @property
    def position(self) -> "int | mx.array":
        """Position of the next token: one number, or (batch,) int32 where rows have different lengths."""

    def arrays(self) -> list[mx.array]:
        """Return what is stored (nothing before the first token): evaluate it to cut the graph that led to it."""

    def copy(self) -> Self:
        """Return a cache of the same content that goes on by itself. Nothing is copied until one of them is written."""

    def take(self, rows: mx.array) -> None:
        """Keep these rows, (n_rows,) int32, in this order; a row may be taken more than once, or not at all.

        Padding that all of them share goes too, so that the longest row kept has as much room as if it stood alone.
        """

    def rewind(self, n_tokens: int) -> None:
        """Forget the latest tokens.

        Raises:
            ValueError: more than it holds, or a kind of memory that cannot go back (see ``can_rewind``).
        """

    def can_rewind(self, n_tokens: int) -> bool:
        """Tell whether that many of the latest tokens can be forgotten."""

    def skip(self, n_tokens: int) -> None:
        """Count so many tokens as read that were not; not before the first token.

        What is remembered of them means nothing: this serves to measure what a step after a long text costs.
        """

    @classmethod
    def merge(cls, caches: Sequence[Self]) -> Self:
        """Put caches of any lengths, each of one row or more, into one batch, in this order."""


class RowsCache:
    """The rows of one layer for the tokens seen so far: keys and values, or whatever else has a row for each token.

    Room is taken for ``capacity`` tokens at once, at the first update; each further token is written in place.

    Args:
        capacity: tokens that it may hold.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.length = 0  # tokens in the longest row
        self.dropped = 0  # of them that are no longer stored: a window has moved on
        self.padding: mx.array | None = None  # (batch,) unused rows before each text; None: no row has any
        self._stored: list[mx.array] = []

    @property
    def position(self) -> int | mx.array:
        """Position of the next token: one number, or (batch,) int32 where rows have different lengths."""
        return self.length if self.padding is None else self.length - self.padding

    def update(self, *rows: mx.array) -> list[mx.array]:
        """Append the new tokens' rows and return all rows so far, or those that the new tokens see.

        Args:
            rows: each (batch, heads, time, width), with heads and width its own.

        Returns:
            For each of them (batch, heads, rows, width), up to the latest; those in a text's ``padding`` mean nothing.

        Raises:
            ValueError: when the new tokens do not fit into what is left of the capacity.
        """
        n_new = rows[0].shape[2]
        if self.length + n_new > self.capacity:
            raise ValueError(f"{n_new} tokens after {self.length} overflow a cache of {self.capacity}")
        if not self._stored:
            self._stored = [_room_for(array, self._room) for array in rows]
        return self._append(rows, n_new)

    def _append(self, rows: Sequence[mx.array], n_new: int) -> list[mx.array]:
        start, end = self._held, self._held + n_new
        for stored, array in zip(self._stored, rows, strict=True):
            stored[..., start:end, :] = array
        self.length += n_new
        return [stored[..., :end, :] for stored in self._stored]

    def arrays(self) -> list[mx.array]:
        """Return what is stored (nothing before the first token): evaluate it to cut the graph that led to it."""
        return [*self._stored, *([] if self.padding is None else [self.padding])]

    def copy(self) -> Self:
        """Return a cache of the same content that goes on by itself. Nothing is copied until one of them is written."""
        twin = self._empty(self.capacity)
        twin.length, twin.dropped, twin.padding = self.length, self.dropped, self.padding
        twin._stored = [stored[:] for stored in self._stored]
        return twin

    def take(self, rows: mx.array) -> None:
        """Keep these rows, (n_rows,) int32, in this order; a row may be taken more than once, or not at all.

        Padding that all of them share goes too, so that the longest row kept has as much room as if it stood alone.
        """
        self._stored = [stored[rows] for stored in self._stored]
        if self.padding is not None:
            self._set_padding(self.padding[rows])

    def _set_padding(self, padding: mx.array) -> None:
        """Keep the padding, less what all rows share."""
        shared = cast(int, padding.min().item())
        if shared:
            unstored = min(shared, self.dropped)
            pads = [(0, 0), (0, 0), (0, shared - unstored), (0, 0)]
            self._stored = [mx.pad(stored[..., shared - unstored :, :], pads) for stored in self._stored]
            self.length, self.dropped = self.length - shared, self.dropped - unstored
        self.padding = padding - shared if padding.max().item() != shared else None

    def rewind(self, n_tokens: int) -> None:
        """Forget the latest tokens.

        Raises:
            ValueError: more than every row holds.
        """
        if not self.can_rewind(n_tokens):
            raise ValueError(f"cannot forget {n_tokens} tokens of {self._shortest()}")
        self.length -= n_tokens

    def can_rewind(self, n_tokens: int) -> bool:
        """Tell whether that many of the latest tokens can be forgotten."""
        return 0 <= n_tokens <= self._shortest()

    def skip(self, n_tokens: int) -> None:
        """Count so many tokens as read that were not: their rows are zeros, or left from before."""
        self.length += n_tokens

    @classmethod
    def merge(cls, caches: Sequence[Self]) -> Self:
        """Put caches of any lengths, each of one row or more, into one batch, in this order.

        Raises:
            ValueError: one of them is still empty.
        """
        if not all(cache._stored for cache in caches):
            raise ValueError("only caches that hold tokens can be merged")
        merged = caches[0]._empty(max(cache.capacity for cache in caches))
        merged.length = max(cache.length for cache in caches)
        # Texts end side by side, so no more rows are of use than the shortest of those that have dropped some holds.
        merged.dropped = max([merged.length - cache._held for cache in caches if cache.dropped], default=0)
        parts = [cache._aligned(merged._held, merged._room) for cache in caches]
        merged._stored = [mx.concatenate(list(arrays)) for arrays in zip(*parts, strict=True)]
        merged._set_padding(mx.concatenate([merged.length - cache.length + cache._paddings() for cache in caches]))
        return merged

    @property
    def _room(self) -> int:
        """Rows that are stored at most."""
        return self.capacity

    @property
    def _held(self) -> int:
        """Rows that are stored now."""
        return self.length - self.dropped

    def _empty(self, capacity: int) -> Self:
        """Return an empty cache of the same kind."""
        return type(self)(capacity)

    def _shortest(self) -> int:
        """Return the tokens of the row that has fewest."""
        return self.length if self.padding is None else self.length - cast(int, self.padding.max().item())

    def _paddings(self) -> mx.array:
        return mx.zeros(self._stored[0].shape[0], mx.int32) if self.padding is None else self.padding

    def _aligned(self, held: int, room: int) -> list[mx.array]:
        """Return the latest ``held`` rows, or all there are, moved so that they end at ``held`` of ``room``."""
        kept = min(self._held, held)
        pads = [(0, 0), (0, 0), (held - kept, room - held), (0, 0)]
        return [mx.pad(stored[..., self._held - kept : self._held, :], pads) for stored in self._stored]


class WindowCache(RowsCache):
    """The rows of a layer that sees the last ``window`` tokens only: its arrays are as long as the window, about.

    Rows are appended in place until the room is full; then the latest move to its front. They stay in the order of the
    text, so that masks and merging are those of any cache.

    Args:
        capacity: tokens that it may read.
        window: tokens that one sees, its own included.
    """

    spare = 16  # rows kept beyond the window: so many of the latest tokens can be forgotten again (drafts are short)
    slack = 64  # further room: a move costs one row in so many, next to nothing beside attention to the window

    def __init__(self, capacity: int, window: int):
        super().__init__(capacity)
        self.window = window

    def can_rewind(self, n_tokens: int) -> bool:
        """Tell whether that many of the latest tokens can be forgotten: what the one before them saw must be stored."""
        is_stored = self.dropped == 0 or self._held - n_tokens >= self.window - 1
        return super().can_rewind(n_tokens) and is_stored

    def skip(self, n_tokens: int) -> None:
        """Count so many tokens as read that were not: their rows are zeros, or left from before."""
        super().skip(n_tokens)
        self.dropped = max(self.dropped, self.length - self._kept)

    def _append(self, rows: Sequence[mx.array], n_new: int) -> list[mx.array]:
        fits = self._held + n_new <= self._room
        held = super()._append(rows, n_new) if fits else self._move_on(rows, n_new)
        n_seen = min(self.window - 1 + n_new, held[0].shape[2])
        return [array[..., array.shape[2] - n_seen :, :] for array in held]

    def _move_on(self, rows: Sequence[mx.array], n_new: int) -> list[mx.array]:
        """Drop what is no longer seen, and return the kept rows with the new ones: a chunk may exceed the room."""
        start = max(0, self._held - self._kept)
        old = [stored[..., start : self._held, :] for stored in self._stored]
        held = [mx.concatenate([before, new], axis=2) for before, new in zip(old, rows, strict=True)]
        kept = min(self._kept, held[0].shape[2])
        pads = [(0, 0), (0, 0), (0, self._room - kept), (0, 0)]
        self._stored = [mx.pad(array[..., array.shape[2] - kept :, :], pads) for array in held]
        self.length += n_new
        self.dropped = self.length - kept
        return held

    @property
    def _kept(self) -> int:
        return self.window - 1 + self.spare

    @property
    def _room(self) -> int:
        return min(self.capacity, self._kept + self.slack)

    def _empty(self, capacity: int) -> Self:
        return type(self)(capacity, self.window)


class RecurrentCache:
    """The memory of one layer that sums up all tokens seen so far in arrays whose size does not grow.

    Attributes:
        position: of the next token; (batch,) int32 where rows have different lengths.
        state: arrays of the mixer's own making, rows of the batch on their first axis; empty before the first token.
    """

    def __init__(self) -> None:
        self.position: int | mx.array = 0
        self.state: list[mx.array] = []

    def update(self, n_tokens: int, *state: mx.array) -> None:
        """Replace the memory by what it became after so many more tokens."""
        self.position = self.position + n_tokens
        self.state = list(state)

    def arrays(self) -> list[mx.array]:
        """Return what is stored (nothing before the first token): evaluate it to cut the graph that led to it."""
        return [*self.state, *([] if isinstance(self.position, int) else [self.position])]

    def copy(self) -> Self:
        """Return a cache of the same content that goes on by itself; an update replaces arrays and writes into none."""
        twin = type(self)()
        twin.position, twin.state = self.position, list(self.state)
        return twin

    def take(self, rows: mx.array) -> None:
        """Keep these rows, (n_rows,) int32, in this order; a row may be taken more than once, or not at all."""
        self.state = [array[rows] for array in self.state]
        if not isinstance(self.position, int):
            self.position = self.position[rows]

    def rewind(self, n_tokens: int) -> None:
        """Do nothing for 0 tokens, the only number that such a memory can forget.

        Raises:
            ValueError: any other number.
        """
        if not self.can_rewind(n_tokens):
            raise ValueError(
                f"a recurrent memory cannot forget its latest {n_tokens} tokens: keep a copy to go back to"
            )

    def can_rewind(self, n_tokens: int) -> bool:
        """Tell whether that many of the latest tokens can be forgotten: none can be, one by one."""
        return n_tokens == 0

    def skip(self, n_tokens: int) -> None:
        """Count so many tokens as read that were not."""
        self.position = self.position + n_tokens

    @classmethod
    def merge(cls, caches: Sequence[Self]) -> Self:
        """Put caches of any lengths, each of one row or more, into one batch, in this order.

        Raises:
            ValueError: one of them is still empty.
        """
        if not all(cache.state for cache in caches):
            raise ValueError("only caches that hold tokens can be merged")
        merged = cls()
        merged.state = [mx.concatenate(list(arrays)) for arrays in zip(*(cache.state for cache in caches), strict=True)]
        positions = mx.concatenate([mx.broadcast_to(cache.position, cache.state[0].shape[:1]) for cache in caches])
        lowest, highest = cast(list[int], mx.stack([positions.min(), positions.max()]).tolist())
        merged.position = lowest if lowest == highest else positions
        return merged


def _room_for(rows: mx.array, capacity: int) -> mx.array:
    batch, heads, _, width = rows.shape
    return mx.zeros((batch, heads, capacity, width), dtype=rows.dtype)
