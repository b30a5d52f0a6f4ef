"""Where a process computes: one stream on a GPU; on a CPU one for each core, each with a part of a batch."""

import functools

import mlx.core as mx

from lmexp.platform.cores import compute_cores

_MOST_STREAMS = 8  # a part of a batch must stay worth a matrix product
# Streams that wait for each other cost about 3 ms a step: below this much work each, one stream is the faster.
# Measured on two cores with two-layer models: two streams break even at 90 million operations, gain 1.5 at 200.
_LEAST_FLOPS_PER_STREAM = 50e6


def compute_streams(flops: float) -> tuple[mx.Stream, ...]:
    """Return the streams among which work of that many floating-point operations is best split.

    A CPU stream of MLX has one thread: all but matrix products runs on one core, and those wait for each other's
    threads. So the parts of a batch go to streams of their own, and a product keeps to the core that it is on (see
    `lmexp.platform.prepare`). The first stream is MLX's default.
    """
    return _streams()[: max(1, int(flops / _LEAST_FLOPS_PER_STREAM))]


@functools.cache
def _streams() -> tuple[mx.Stream, ...]:
    default = mx.default_stream(mx.default_device())
    n_streams = min(compute_cores(), _MOST_STREAMS) if mx.default_device() == mx.cpu else 1
    return (default, *(mx.new_stream(mx.cpu) for _ in range(n_streams - 1)))
