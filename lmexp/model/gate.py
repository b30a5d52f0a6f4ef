"""The gate of a feed-forward from the one product that holds gate and input, by a kernel of our own each way."""

from math import gcd, prod

import mlx.core as mx

from lmexp.model import cuda
from lmexp.model.gradient import with_gradient


class GateOfHalves:
    """f(x) times another input, where f(x) = x sigmoid(z(x)) and the two inputs are the halves of a row.

    Only on a CUDA device (`lmexp.model.cuda`).

    Args:
        name: of f.
        z, slope_of_z: z(x) and its derivative, in CUDA.
    """

    def __init__(self, name: str, z: str, slope_of_z: str):
        functions = _FUNCTIONS.replace("Z_OF_X", z).replace("SLOPE_OF_X", slope_of_z)
        self._value = cuda.Kernel(f"{name}_gate", ["halves"], ["gated"], _VALUE, functions)
        self._slopes = cuda.Kernel(f"{name}_gate_gradient", ["halves", "to_gated"], ["to_halves"], _SLOPES, functions)

    def __call__(self, halves: mx.array) -> mx.array:
        """Return f of the first half times the second: (..., 2 width) to (..., width)."""
        shape = (*halves.shape[:-1], halves.shape[-1] // 2)
        gated: mx.array = with_gradient(
            lambda halves: _run(self._value, [halves], shape, shape),
            lambda halves, to_gated, _: _run(self._slopes, [halves, to_gated], shape, halves.shape),
        )(halves)
        return gated


def _run(kernel: cuda.Kernel, inputs: list[mx.array], shape: tuple[int, ...], output: tuple[int, ...]) -> mx.array:
    pack = gcd(shape[-1], cuda.PACK)
    rows = prod(shape[:-1])
    [found] = kernel(
        [cuda.flat(each) for each in inputs],
        [(output, inputs[0].dtype)],
        cuda.over_rows(rows, shape[-1], pack),
        T=inputs[0].dtype,
        PACK=pack,
        WIDTH=shape[-1],
    )
    return found


_FUNCTIONS = r"""
__device__ inline float z_of(float x) { return Z_OF_X; }
__device__ inline float slope_of(float x) { return SLOPE_OF_X; }
__device__ inline float sigmoid_of(float z) { return __fdividef(1.0f, 1.0f + __expf(-z)); }
"""

# A thread takes PACK numbers of a row of results, and those that they come from.
_PLACE = r"""
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * PACK;
  const long long row = static_cast<long long>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= halves_shape[0] || column >= WIDTH) return;
  const long long left = row * 2 * WIDTH + column, right = left + WIDTH;
"""

_VALUE = (
    _PLACE
    + r"""
  float x[PACK], by[PACK];
  load(halves + left, x);
  load(halves + right, by);
#pragma unroll
  for (int i = 0; i < PACK; i++) x[i] *= sigmoid_of(z_of(x[i])) * by[i];
  store(gated + row * WIDTH + column, x);
"""
)

# With s = sigmoid(z(x)): f'(x) = s (1 + (1 - s) x z'(x)).
_SLOPES = (
    _PLACE
    + r"""
  float x[PACK], by[PACK], to[PACK];
  load(halves + left, x);
  load(halves + right, by);
  load(to_gated + row * WIDTH + column, to);
#pragma unroll
  for (int i = 0; i < PACK; i++) {
    const float s = sigmoid_of(z_of(x[i]));
    const float slope = s * (1 + (1 - s) * x[i] * slope_of(x[i]));
    const float value = x[i] * s;
    x[i] = to[i] * by[i] * slope;
    by[i] = to[i] * value;
  }
  store(to_halves + left, x);
  store(to_halves + right, by);
"""
)
