"""How fast this machine multiplies matrices at best: what a training step is measured against."""

import time
from collections.abc import Sequence

import mlx.core as mx

from lmexp import platform

# Widths of the square matrices that are tried, smaller ones on a CPU, where the largest takes a tenth of a second.
_WIDTHS = {"cpu": (1024, 1536, 2048), "gpu": (4096, 8192, 16384)}
_FEWEST = 3
_ALL = 1e18  # operations: worth every stream there is


def product_flops_per_second(dtype: mx.Dtype, seconds: float) -> float:
    """Return the best rate at which large square products of several sizes are computed, one on each stream at a time.

    Args:
        dtype: of both factors.
        seconds: to spend on each size, three products at least.
    """
    return max(_rate(width, dtype, seconds) for width in _WIDTHS[mx.default_device().type.name])


def _rate(width: int, dtype: mx.Dtype, seconds: float) -> float:
    streams = platform.compute_streams(_ALL)
    keys = mx.random.key(width), mx.random.key(width + 1)
    left, right = (mx.random.normal((width, width), key=key).astype(dtype) for key in keys)
    mx.eval(left, right, _products(left, right, streams))
    best, tried, started = float("inf"), 0, time.perf_counter()
    while tried < _FEWEST or time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        mx.eval(_products(left, right, streams))
        best = min(best, time.perf_counter() - begun)
        tried += 1
    return 2.0 * width**3 * len(streams) / best


def _products(left: mx.array, right: mx.array, streams: Sequence[mx.Stream]) -> list[mx.array]:
    return [mx.matmul(left, right, stream=stream) for stream in streams]
