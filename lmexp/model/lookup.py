"""The rows of a table that tokens name, and their gradient: the sum over all uses of a row."""

import mlx.core as mx

from lmexp.model import cuda
from lmexp.model.gradient import with_gradient

_MOST_ROWS = 1024  # of a table whose gradient is a product: it has a column of a matrix of zeros and ones for each


def looked_up(table: mx.array, tokens: mx.array) -> mx.array:
    """Return (..., width): the rows of ``table``, (rows, width), that ``tokens`` (...) name.

    The gradient adds up in float32: in bfloat16 a sum stops growing at some 256 terms.
    """
    has_kernel = cuda.is_default() and table.shape[1] % cuda.PACK == 0
    if table.dtype == mx.float32 and not has_kernel:
        return table[tokens]
    ids = tokens.reshape(-1)

    def gradient(table: mx.array, to_rows: mx.array, _: mx.array) -> mx.array:
        if table.shape[0] > _MOST_ROWS or not cuda.is_default():
            return mx.zeros(table.shape).at[ids].add(to_rows.astype(mx.float32)).astype(table.dtype)
        # Tokens of one id wait for each other where sums are kept in memory; a product of ones waits for nobody.
        is_used = (mx.arange(table.shape[0])[:, None] == ids).astype(to_rows.dtype)
        return is_used @ to_rows

    rows: mx.array = with_gradient(lambda table: _rows(table, ids) if has_kernel else table[ids], gradient)(table)
    return rows.reshape(*tokens.shape, -1)


def _rows(table: mx.array, ids: mx.array) -> mx.array:
    width = table.shape[1]
    launch = cuda.over_rows(ids.size, width, cuda.PACK)
    return _LOOK_UP([table, ids], [((ids.size, width), table.dtype)], launch, T=table.dtype, WIDTH=width)[0]


_LOOK_UP = cuda.Kernel(
    "look_up",
    ["table", "ids"],
    ["rows"],
    r"""
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
  const long long row = static_cast<long long>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= ids_shape[0] || column >= WIDTH) return;
  float numbers[8];
  load_anywhere(table + static_cast<long long>(ids[row]) * WIDTH + column, numbers);
  store(rows + row * WIDTH + column, numbers);
""",
)
