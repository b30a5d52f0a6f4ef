"""The rows of a table that tokens name, and their gradient: the sum over all uses of a row."""

import mlx.core as mx

from lmexp.model import cuda
from lmexp.model.gradient import with_gradient

_MOST_ROWS = 1024  # of a table whose gradient is a product: it has a column of a matrix of zeros and ones for each


def looked_up(table: mx.array, tokens: mx.array) -> mx.array:
    """Return (..., width): the rows of ``table``, (rows, width), that ``tokens`` (...), whole numbers from 0, name.

    The gradient adds up in float32: in bfloat16 a sum stops growing at some 256 terms.
    """
    has_kernel = cuda.is_default() and table.shape[1] % cuda.PACK == 0
    if table.dtype == mx.float32 and not has_kernel:
        return table[tokens]
    ids = tokens.reshape(-1)
    rows = _by_kernel if has_kernel else _by_formula
    is_product = cuda.is_default() and table.shape[0] <= _MOST_ROWS
    add_up = _as_product if is_product else _one_by_one
    found = with_gradient(lambda table: rows(table, ids), lambda table, to_rows, _: add_up(table, ids, to_rows))(table)
    return found.reshape(*tokens.shape, table.shape[1])


def _by_formula(table: mx.array, ids: mx.array) -> mx.array:
    return table[ids]


def _by_kernel(table: mx.array, ids: mx.array) -> mx.array:
    width = table.shape[1]
    launch = cuda.over_rows(ids.size, width, cuda.PACK)
    output = (ids.size, width), table.dtype
    return _LOOK_UP([table, ids], [output], launch, T=table.dtype, ID=ids.dtype, WIDTH=width)[0]


def _one_by_one(table: mx.array, ids: mx.array, to_rows: mx.array) -> mx.array:
    return mx.zeros(table.shape).at[ids].add(to_rows).astype(table.dtype)


def _as_product(table: mx.array, ids: mx.array, to_rows: mx.array) -> mx.array:
    """Multiply by ones: added up one by one, tokens of one id wait for each other."""
    is_used = (mx.arange(table.shape[0])[:, None] == ids).astype(to_rows.dtype)
    return is_used @ to_rows


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
