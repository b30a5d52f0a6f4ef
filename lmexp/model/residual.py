"""A branch added to the residual stream, and the norm of the sum: on a CUDA device one kernel, and two backward."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from lmexp.model import cuda
from lmexp.model.gradient import with_gradient
from lmexp.model.norm import LayerNorm, RMSNorm

_THREADS = 256  # of a block, unless a row needs more
_MOST_THREADS = 1024  # that a block can have
_BLOCKS = 528  # of the gradient: four for each multiprocessor of an H200


def added_and_normed(
    norm: RMSNorm | LayerNorm, x: mx.array, branch: mx.array | None = None
) -> tuple[mx.array, mx.array]:
    """Return ``x + branch`` (or x, where there is none) and its norm.

    Args:
        norm: over the width.
        x, branch: (..., width); on a CUDA device (rows, width), as `lmexp.model.cuda.flat` makes it.
    """
    if not _has_kernel(x):
        total = x if branch is None else x + branch
        return total, norm(total)
    return _by_kernel(norm, x, branch)


def _has_kernel(x: mx.array) -> bool:
    width = x.shape[-1]
    return cuda.is_default() and width % cuda.PACK == 0 and cuda.threads_of_a_row(width) <= _MOST_THREADS


def _by_kernel(norm: RMSNorm | LayerNorm, x: mx.array, branch: mx.array | None) -> tuple[mx.array, mx.array]:
    is_centred, width = isinstance(norm, LayerNorm), x.shape[-1]
    threads_of_a_row = cuda.threads_of_a_row(width)
    rows_of_a_block = max(1, _THREADS // threads_of_a_row)
    threads = threads_of_a_row, rows_of_a_block
    # A constant of the kernel's: an array of one number may lie in the host's memory, and all blocks would wait for it.
    epsilon = int(np.float32(norm.eps).view(np.int32))
    constants: dict[str, Any] = {"T": x.dtype, "WIDTH": width, "CENTRED": is_centred, "EPSILON": epsilon}

    def forward(x: mx.array, gain: mx.array, *more: mx.array) -> list[mx.array]:
        bias, *branches = more if "bias" in norm else (gain, *more)
        total, normed = _FORWARD(
            [x, *(branches or [x]), gain, bias],
            [(x.shape if branches else (1,), x.dtype), (x.shape, x.dtype)],
            cuda.Launch((-(-len(x) // rows_of_a_block), 1), threads),
            HAS_BRANCH=bool(branches),
            HAS_BIAS="bias" in norm,
            **constants,
        )
        return [total if branches else x, normed]

    def gradient(primals: Sequence[mx.array], cotangents: Sequence[mx.array], outputs: Sequence[mx.array]) -> Any:
        gain, total, (to_total, to_normed) = primals[1], outputs[0], cotangents
        n_blocks = min(_BLOCKS, -(-len(total) // rows_of_a_block))
        to_x, partial = _GRADIENT(
            [total, gain, to_normed, to_total],
            [(total.shape, x.dtype), ((n_blocks, (2 if is_centred else 1) * width), mx.float32)],
            cuda.Launch((n_blocks, 1), threads),
            THREADS=threads[0] * threads[1],
            **constants,
        )
        sums = cuda.column_sums(partial, gain.dtype)
        of_parameters = [sums] if not is_centred else [sums[:width], sums[width:]][: 1 + ("bias" in norm)]
        return (to_x, *of_parameters, *[to_x] * (branch is not None))

    biases = [norm.bias] if "bias" in norm else []
    total, normed = with_gradient(forward, gradient)(x, norm.weight, *biases, *([] if branch is None else [branch]))
    return total, normed


# A block takes blockDim.y rows; a thread 8 numbers of one, or none where the row is not as long as the threads reach.
_FUNCTIONS = r"""
// Takes the mean away, where the norm is centred, and returns one over the root of the mean square.
__device__ inline float centre(
    float (&v)[8], bool is_centred, bool is_inside, int width, float epsilon, float* scratch) {
  if (is_centred) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) sum += v[i];
    const float mean = row_sum(sum, scratch) / width;
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = is_inside ? v[i] - mean : 0;
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) squares += v[i] * v[i];
  return rsqrtf(row_sum(squares, scratch) / width + epsilon);
}
"""

_FORWARD = cuda.Kernel(
    "norm",
    ["x", "branch", "gain", "bias"],
    ["sum", "normed"],
    r"""
  __shared__ float scratch[32];
  const int column = threadIdx.x * 8;
  const int row = blockIdx.x * blockDim.y + threadIdx.y;
  const bool is_inside = row < x_shape[0] && column < WIDTH;
  const long long at = static_cast<long long>(row) * WIDTH + column;
  float v[8] = {0, 0, 0, 0, 0, 0, 0, 0}, added[8], g[8], b[8];
  if (is_inside) {
    load(x + at, v);
    if (HAS_BRANCH) load(branch + at, added);
    load_anywhere(gain + column, g);
    if (HAS_BIAS) load_anywhere(bias + column, b);
    if (HAS_BRANCH) {
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = static_cast<float>(static_cast<T>(v[i] + added[i]));  // as it is kept
      store(sum + at, v);
    }
  }
  const float scale = centre(v, CENTRED, is_inside, WIDTH, __int_as_float(EPSILON), scratch);
  if (is_inside) {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = v[i] * scale * g[i] + (HAS_BIAS ? b[i] : 0);
    store(normed + at, v);
  }
""",
    _FUNCTIONS,
)

# With y = (x - mean) scale and u = gain dy: dx = scale (u - mean(u) - y mean(u y)), the middle term if centred only.
_GRADIENT = cuda.Kernel(
    "norm_gradient",
    ["x", "gain", "to_normed", "to_sum"],
    ["to_x", "partial"],
    r"""
  __shared__ float scratch[32];
  __shared__ float found[THREADS * 8];
  const int column = threadIdx.x * 8;
  float g[8] = {0, 0, 0, 0, 0, 0, 0, 0}, to_gain[8] = {0, 0, 0, 0, 0, 0, 0, 0}, to_bias[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  if (column < WIDTH) load_anywhere(gain + column, g);
  // Every thread of a block takes part in every round: they add up rows together.
  for (int first = blockIdx.x * blockDim.y; first < x_shape[0]; first += gridDim.x * blockDim.y) {
    const int row = first + threadIdx.y;
    const bool is_inside = row < x_shape[0] && column < WIDTH;
    const long long at = static_cast<long long>(row) * WIDTH + column;
    float y[8] = {0, 0, 0, 0, 0, 0, 0, 0}, u[8] = {0, 0, 0, 0, 0, 0, 0, 0}, skipped[8];
    if (is_inside) {
      load(x + at, y);
      load(to_normed + at, u);
      load(to_sum + at, skipped);
    }
    const float scale = centre(y, CENTRED, is_inside, WIDTH, __int_as_float(EPSILON), scratch);
    float sum = 0, product = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      y[i] *= scale;
      to_gain[i] += u[i] * y[i];
      to_bias[i] += u[i];
      u[i] *= g[i];
      sum += u[i];
      product += u[i] * y[i];
    }
    const float along = row_sum(product, scratch) / WIDTH;
    const float mean = CENTRED ? row_sum(sum, scratch) / WIDTH : 0;
    if (is_inside) {
#pragma unroll
      for (int i = 0; i < 8; i++) u[i] = skipped[i] + scale * (u[i] - mean - y[i] * along);
      store(to_x + at, u);
    }
  }
  // What the rows of the block found for a column, the first of them adds up.
  constexpr int SUMS = CENTRED ? 2 : 1;
  for (int which = 0; which < SUMS; which++) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; i++)
      found[(threadIdx.y * blockDim.x + threadIdx.x) * 8 + i] = which == 0 ? to_gain[i] : to_bias[i];
    __syncthreads();
    if (threadIdx.y == 0 && column < WIDTH) {
      for (int i = 0; i < 8; i++) {
        float total = 0;
        for (int y = 0; y < blockDim.y; y++) total += found[(y * blockDim.x + threadIdx.x) * 8 + i];
        partial[(static_cast<long long>(blockIdx.x) * SUMS + which) * WIDTH + column + i] = total;
      }
    }
  }
""",
    _FUNCTIONS,
)
