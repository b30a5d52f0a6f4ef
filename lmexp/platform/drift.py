"""A fixed piece of work before and after each run: if its rate fell, the machine slowed down, not the model."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from lmexp.platform.device import default_device, untouched_peak

_SECONDS = 1.0
_SEED = 20261101


@dataclass(frozen=True)
class _Size:
    """How large one unit of work is: some milliseconds on its device, so that launching it does not count."""

    matrix: int  # width of the square matrices
    floats: int  # read once and written once


# Rates are compared on one machine only, so a GPU may have a unit of its own.
_SIZES = {"cpu": _Size(512, 1 << 21), "gpu": _Size(4096, 1 << 25)}


def probe(now: Callable[[], float] = time.perf_counter) -> float:
    """Measure for about a second how fast the default device multiplies matrices and moves memory.

    The work is drawn from a key of its own, so MLX's random state is as before; so is `peak_memory_bytes`.

    Args:
        now: the time in seconds.

    Returns:
        Units of work per second; higher is faster, and comparable on one machine only. A unit is one float32 product of
        two square matrices (512 wide on CPU, 4096 on GPU) and one pass over an array (2**21 floats, 2**25 on GPU).
    """
    with untouched_peak():
        work = _units(_SIZES[default_device()])
        next(work)  # the first unit pays for allocation and kernels
        return _rate(work, now)


def _rate(work: Iterator[None], now: Callable[[], float]) -> float:
    """Take whole units until a second has passed."""
    started, units, elapsed = now(), 0, 0.0
    while elapsed < _SECONDS:
        next(work)
        units += 1
        elapsed = now() - started
    return units / elapsed


def _units(size: _Size) -> Iterator[None]:
    """Do one unit of work, to its end, at each step."""
    left, right, stream = (mx.random.key(_SEED + index) for index in range(3))
    a = mx.random.normal((size.matrix, size.matrix), key=left)
    b = mx.random.normal((size.matrix, size.matrix), key=right)
    x = mx.random.uniform(shape=(size.floats,), key=stream)
    mx.eval(a, b, x)
    while True:
        mx.eval(a @ b, x * 0.5)
        yield
