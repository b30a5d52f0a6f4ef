"""Arrays laid end to end in one float32 vector: on a CUDA device by one kernel, where MLX has one for each array."""

from collections.abc import Sequence
from functools import lru_cache

import mlx.core as mx
import numpy as np

from lmexp.model import cuda

_THREADS = 256  # of a block
_MOST_PIECES = 400  # a kernel's arguments have room for some 500 addresses
_MOST_NUMBERS = 2**31 - 1  # it counts them in 32 bits


def end_to_end(arrays: Sequence[mx.array]) -> mx.array:
    """Return all numbers of the arrays, one array after the other, in float32."""
    if not arrays:
        return mx.zeros(0)
    sizes = tuple(array.size for array in arrays)
    if not cuda.is_default() or len(arrays) > _MOST_PIECES or sum(sizes) > _MOST_NUMBERS:
        return mx.concatenate([array.reshape(-1) for array in arrays]).astype(mx.float32)
    places, output = _places(sizes), ((sum(sizes),), mx.float32)
    launch = cuda.Launch((len(places), 1), (_THREADS, 1))
    return _kernel(len(arrays))([*arrays, places], [output], launch, T=arrays[0].dtype)[0]


@lru_cache(maxsize=8)
def _places(sizes: tuple[int, ...]) -> mx.array:
    """Return of each block the piece it takes from, its first number there, the piece's size, and where it goes."""
    step = cuda.PACK * _THREADS
    starts = np.cumsum([0, *sizes])
    blocks = [
        (piece, first, size, starts[piece] + first)
        for piece, size in enumerate(sizes)
        for first in range(0, size, step)
    ]
    return mx.array(np.array(blocks, dtype=np.int32))


@lru_cache(maxsize=8)
def _kernel(n_pieces: int) -> cuda.Kernel:
    pieces = [f"piece_{index}" for index in range(n_pieces)]
    # Not an array of addresses: each thread would keep one of its own, and write more addresses than numbers.
    cases = "\n".join(f"    case {index}: from = {piece}; break;" for index, piece in enumerate(pieces))
    source = _SOURCE.replace("CASES", cases)
    return cuda.Kernel(f"end_to_end_{n_pieces}", [*pieces, "places"], ["vector"], source)


_SOURCE = r"""
  const int* place = places + blockIdx.x * 4;
  const T* from = nullptr;
  switch (place[0]) {
CASES
  }
  const int first = place[1] + threadIdx.x * 8, size = place[2];
  from += first;
  float* to = vector + place[3] + threadIdx.x * 8;
  if (first + 8 <= size && begins_pack<T, 8>(from) && begins_pack<float, 8>(to)) {
    float numbers[8];
    load(from, numbers);
    store(to, numbers);
  } else {
    for (int i = 0; i < min(size - first, 8); i++) to[i] = static_cast<float>(from[i]);
  }
"""
