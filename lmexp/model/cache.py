"""What attention remembers between decoding steps, so that a new token costs one row instead of the whole text."""

import mlx.core as mx


class KeyValueCache:
    """The keys and values of one layer for the tokens seen so far.

    Room for ``capacity`` tokens is taken once, at the first update; each further token is written in place.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.offset = 0  # tokens seen so far
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append new rows and return all rows so far.

        Args:
            keys: (batch, kv_heads, time, head_dim), the new tokens'.
            values: the same shape.

        Returns:
            Keys and values, each (batch, kv_heads, tokens so far, head_dim).

        Raises:
            ValueError: when the new tokens do not fit into what is left of the capacity.
        """
        end = self.offset + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"{keys.shape[2]} tokens after {self.offset} overflow a cache of {self.capacity}")
        if self._keys is None or self._values is None:
            self._keys, self._values = self._room_for(keys), self._room_for(values)
        self._keys[..., self.offset : end, :] = keys
        self._values[..., self.offset : end, :] = values
        self.offset = end
        return self._keys[..., :end, :], self._values[..., :end, :]

    def arrays(self) -> list[mx.array]:
        """Return the stored arrays (none before the first update): evaluate them to cut the graph that led to them."""
        return [array for array in (self._keys, self._values) if array is not None]

    def _room_for(self, rows: mx.array) -> mx.array:
        batch, kv_heads, _, head_dim = rows.shape
        return mx.zeros((batch, kv_heads, self.capacity, head_dim), dtype=rows.dtype)
