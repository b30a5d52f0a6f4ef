"""How fast this machine multiplies matrices at best: what a training step is measured against."""

import time
from collections.abc import Sequence

import mlx.core as mx

from lmexp import platform

# Widths of the square matrices that are tried, smaller ones on a CPU, where the largest takes a tenth of a second.
_WIDTHS = {"cpu": (1024, 1536, 2048), "gpu": (4096, 8192, 16384)}
_FEWEST = 3


def product_flops_per_second(dtype: mx.Dtype, seconds: float) -> float:
    """Return the best rate at which large square products of several sizes are computed, one on each core at a time.

    A GPU computes one at a time. A process that was prepared for training keeps each product on one core.

    Args:
        dtype: of both factors.
        seconds: to spend on each size, three products at least.
    """
    device = mx.default_device()
    n_products = platform.compute_cores() if device == mx.cpu else 1
    streams = [mx.new_stream(device) for _ in range(n_products)]
    return max(_rate(width, dtype, seconds, streams) for width in _WIDTHS[device.type.name])


def _rate(width: int, dtype: mx.Dtype, seconds: float, streams: Sequence[mx.Stream]) -> float:
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
