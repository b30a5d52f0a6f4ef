"""Queries, keys and values from the one product that holds them, rotated, by a kernel of our own each way.

Without it a step cuts out and rotates each by itself, and copies their gradients side by side again piece by piece.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod

import mlx.core as mx

from lmexp.model import cuda
from lmexp.model.gradient import with_gradient
from lmexp.model.position import Rotation


@dataclass(frozen=True)
class Heads:
    """How heads lie in a row of the product: those of the queries, then of the keys, then of the values."""

    queries: int
    keys: int  # and as many of the values
    width: int

    def cut(
        self, product: mx.array, batch: int, time: int, rotation: Rotation | None
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Return queries, keys and values, (batch, heads, time, width) each, of texts from their first tokens on.

        Only on a CUDA device (`lmexp.model.cuda`).

        Args:
            product: (batch x time, (queries + 2 keys) width).
            batch, time: of the texts.
            rotation: of queries and keys; None leaves them as they are.
        """

        def parts(product: mx.array) -> list[mx.array]:
            rows = product.reshape(batch, time, -1, self.width)
            turned = rows if rotation is None else self._turned(rows, rotation)
            n_turned = self.queries + self.keys
            cut = turned[:, :, : self.queries], turned[:, :, self.queries : n_turned], rows[:, :, n_turned:]
            return [part.swapaxes(1, 2) for part in cut]

        def side_by_side(_: mx.array, cotangents: Sequence[mx.array], __: Sequence[mx.array]) -> mx.array:
            # A rotation's transpose is the rotation back.
            return self._run(_SIDE_BY_SIDE, cotangents, product.shape, time, rotation)

        queries, keys, values = with_gradient(parts, side_by_side)(product)
        return queries, keys, values

    def _turned(self, rows: mx.array, rotation: Rotation) -> mx.array:
        """Return queries and keys, (batch, time, heads, width)."""
        shape = (*rows.shape[:2], self.queries + self.keys, self.width)
        return self._run(_TURN, [rows], shape, rows.shape[1], rotation)

    def _run(
        self,
        kernel: cuda.Kernel,
        inputs: Sequence[mx.array],
        shape: tuple[int, ...],
        time: int,
        rotation: Rotation | None,
    ) -> mx.array:
        turned, dtype = 0 if rotation is None else rotation.width, inputs[0].dtype
        pack = gcd(self.width, turned // 2, cuda.PACK)
        n_tokens = inputs[0].shape[0] * time
        [found] = kernel(
            [*inputs, mx.zeros(1) if rotation is None else rotation.table(time)],
            [(shape, dtype)],
            cuda.over_rows(n_tokens, prod(shape) // n_tokens, pack),
            T=dtype,
            PACK=pack,
            QUERIES=self.queries,
            KEYS=self.keys,
            WIDTH=self.width,
            TURNED=turned,
        )
        return found


# A thread takes PACK numbers of a head, and those that make pairs with them.
_FUNCTIONS = r"""
// Rotates the numbers from `first` on of a head, whose first `turned` make pairs (i, i + turned / 2). Angles: the
// cosines of the pairs, then their sines. The direction is 1, or -1 to rotate back.
template <typename T, int N>
__device__ inline void turn(
    const T* head, long long step, int first, int turned, const float* angles, float direction, float (&to)[N]) {
  const int half = turned / 2;
  const bool is_second = first >= half, is_turned = first < turned;
  const T* here = head + first * step;
  const T* there = is_turned ? head + (is_second ? first - half : first + half) * step : here;
  float partner[N];
  if (step == 1 && begins_pack<T, N>(here) && begins_pack<T, N>(there)) {
    load(here, to);  // both are under way before either is waited for
    load(there, partner);
  } else {
    load_anywhere(here, to, step);
    load_anywhere(there, partner, step);
  }
  if (!is_turned) return;
  const float* cosines = angles + (is_second ? first - half : first);
  const float sign = is_second ? direction : -direction;
#pragma unroll
  for (int i = 0; i < N; i++) to[i] = to[i] * cosines[i] + sign * partner[i] * cosines[half + i];
}
"""

_PLACE = r"""
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * PACK;
  const int token = blockIdx.x * blockDim.y + threadIdx.y;
  const int head = column / WIDTH, first = column % WIDTH;
"""

_TURN = cuda.Kernel(
    "turn",
    ["rows", "table"],
    ["turned"],
    _PLACE
    + r"""
  const int time = rows_shape[1];
  constexpr int HEADS = QUERIES + KEYS;
  if (token >= rows_shape[0] * time || head >= HEADS) return;
  float numbers[PACK];
  const T* from = rows + (static_cast<long long>(token) * (HEADS + KEYS) + head) * WIDTH;
  turn(from, 1, first, TURNED, table + token % time * TURNED, 1.0f, numbers);
  store(turned + static_cast<long long>(token) * HEADS * WIDTH + column, numbers);
""",
    _FUNCTIONS,
)

_SIDE_BY_SIDE = cuda.Kernel(
    "side_by_side",
    ["queries", "keys", "values", "table"],
    ["product"],
    _PLACE
    + r"""
  const int time = queries_shape[2];
  if (token >= queries_shape[0] * time || head >= QUERIES + 2 * KEYS) return;
  const int b = token / time, t = token % time;
  const bool of_queries = head < QUERIES, of_values = head >= QUERIES + KEYS;
  const T* from = of_queries ? queries : of_values ? values : keys;
  const auto& steps = of_queries ? queries_strides : of_values ? values_strides : keys_strides;
  from += b * steps[0] + (head - (of_queries ? 0 : of_values ? QUERIES + KEYS : QUERIES)) * steps[1] + t * steps[2];
  float numbers[PACK];
  turn(from, steps[3], first, of_values ? 0 : TURNED, table + t * TURNED, -1.0f, numbers);
  store(product + static_cast<long long>(token) * (QUERIES + 2 * KEYS) * WIDTH + column, numbers);
""",
    _FUNCTIONS,
)
