"""Kernels of our own on a CUDA device: one for what MLX would do in several, each a pass over memory and a hand-out.

Whatever has such a kernel has a formula too, which every other device computes and the tests hold the kernel to.

Measured on an H200 (bfloat16, compiled): a step of llama_small on 64 x 256 tokens hands out 236 kernels in place of
418, with 430 operations of MLX's in all in place of 1,100, and takes 3.5 to 3.7 ms in place of 4.6 (3.4 with its tokens
fetched ahead).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import mlx.core as mx

PACK = 8  # numbers that a thread takes at once: 16 bytes of bfloat16
_THREADS = 256  # of a block
_WARP = 32  # threads

# What the bodies share. MLX puts a body into a function whose arguments are its arrays, named as here.
HEADER = r"""
template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack { T numbers[N]; };

template <typename T, int N>
__device__ inline bool begins_pack(const T* place) {
  return reinterpret_cast<unsigned long long>(place) % alignof(Pack<T, N>) == 0;
}

// N numbers that lie side by side, computed with in float32; the place is aligned to all of them, or to 16 bytes.
template <typename T, int N>
__device__ inline void load(const T* from, float (&to)[N]) {
  const auto pack = *reinterpret_cast<const Pack<T, N>*>(from);
#pragma unroll
  for (int i = 0; i < N; i++) to[i] = static_cast<float>(pack.numbers[i]);
}

template <typename T, int N>
__device__ inline void store(T* to, const float (&from)[N]) {
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; i++) pack.numbers[i] = static_cast<T>(from[i]);
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// The same from numbers that may begin anywhere, or lie apart.
template <typename T, int N>
__device__ inline void load_anywhere(const T* from, float (&to)[N], long long step = 1) {
  if (step == 1 && begins_pack<T, N>(from)) return load(from, to);
#pragma unroll
  for (int i = 0; i < N; i++) to[i] = static_cast<float>(from[i * step]);
}

// The sum over the threads of a row of the block (all with one threadIdx.y), told to each; a row is whole warps.
__device__ inline float row_sum(float x, float* scratch) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffff, x, step);
  const int warps = blockDim.x / 32;
  if (warps == 1) return x;
  float* sums = scratch + threadIdx.y * warps;
  __syncthreads();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  float total = 0;
  for (int warp = 0; warp < warps; warp++) total += sums[warp];
  return total;
}
"""


def is_default() -> bool:
    """Tell whether MLX computes on a CUDA device."""
    return mx.default_device() == mx.gpu and not mx.metal.is_available()


class Launch(NamedTuple):
    """How many blocks there are, and threads in each, along x and y."""

    blocks: tuple[int, int]
    threads: tuple[int, int]


class Kernel:
    """A kernel by its CUDA source, compiled when it is first called.

    Args:
        name: one for each source.
        inputs, outputs: the names of its arrays in the source. An input is row-contiguous (copied if it is not), unless
            the source asks for its strides.
        source: the body of the function; it may use ``HEADER``, and ``NAME_shape`` and ``NAME_strides`` of an input.
        functions: what else it may use.
    """

    def __init__(self, name: str, inputs: Sequence[str], outputs: Sequence[str], source: str, functions: str = ""):
        self.name, self.inputs, self.outputs, self.source = name, list(inputs), list(outputs), source
        self.header = HEADER + functions

    def __call__(
        self,
        inputs: Sequence[mx.array],
        outputs: Sequence[tuple[Sequence[int], mx.Dtype]],
        launch: Launch,
        **constants: bool | int | mx.Dtype,
    ) -> list[mx.array]:
        """Return the outputs, of the shapes and dtypes given.

        Args:
            inputs: as named.
            outputs: shape and dtype of each.
            launch: how many threads.
            constants: names that the source may use: numbers, and dtypes as types. Together they say what is compiled:
                the dtypes of the inputs must follow from them.
        """
        found: list[mx.array] = self._function(
            inputs=list(inputs),
            template=list(constants.items()),
            grid=(launch.blocks[0] * launch.threads[0], launch.blocks[1] * launch.threads[1], 1),
            threadgroup=(*launch.threads, 1),
            output_shapes=[tuple(shape) for shape, _ in outputs],
            output_dtypes=[dtype for _, dtype in outputs],
        )
        return found

    @cached_property
    def _function(self) -> Any:
        return mx.fast.cuda_kernel(
            name=f"lmexp_{self.name}",
            input_names=self.inputs,
            output_names=self.outputs,
            source=self.source,
            header=self.header,
            ensure_row_contiguous="_strides" not in self.source,
        )


def flat(x: mx.array) -> mx.array:
    """Return (..., width) as (rows, width) on a CUDA device, where products take fewer views of that; elsewhere x."""
    return shaped(x, (x.size // x.shape[-1], x.shape[-1])) if is_default() else x


def shaped(x: mx.array, shape: tuple[int, ...]) -> mx.array:
    """Return x in that shape: itself, if it has it, since even a view costs the host a little, and parts what fuses."""
    return x if x.shape == shape else x.reshape(shape)


def over_rows(n_rows: int, width: int, pack: int) -> Launch:
    """Return the launch for rows of so many numbers, of which a thread takes ``pack``.

    Rows are along the blocks' x and the threads' y; what a row is made of along the blocks' y and the threads' x.
    """
    rows_of_a_block = _THREADS // _WARP
    blocks = -(-n_rows // rows_of_a_block), -(-width // (pack * _WARP))
    return Launch(blocks, (_WARP, rows_of_a_block))


def threads_of_a_row(width: int) -> int:
    """Return how many threads take a row of so many numbers, ``PACK`` each: whole warps."""
    return -(-width // (PACK * _WARP)) * _WARP


def column_sums(rows: mx.array, dtype: mx.Dtype) -> mx.array:
    """Return the sum of float32 rows, (rows, width) to (width,), as ``dtype``: MLX's own takes three kernels."""
    n_rows, width = rows.shape
    launch = Launch((-(-width // _WARP), 1), (_WARP, _WARP))
    return _COLUMN_SUMS([rows], [((width,), dtype)], launch, T=dtype, ROWS=n_rows, WIDTH=width)[0]


# A block takes 32 columns; its 32 rows of threads share the rows.
_COLUMN_SUMS = Kernel(
    "column_sums",
    ["rows"],
    ["sums"],
    r"""
  __shared__ float found[32][33];
  const int column = blockIdx.x * 32 + threadIdx.x;
  float total = 0;
  if (column < WIDTH)
    for (int row = threadIdx.y; row < ROWS; row += 32) total += rows[static_cast<long long>(row) * WIDTH + column];
  found[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y == 0 && column < WIDTH) {
    total = 0;
    for (int part = 0; part < 32; part++) total += found[part][threadIdx.x];
    sums[column] = static_cast<T>(total);
  }
""",
)
