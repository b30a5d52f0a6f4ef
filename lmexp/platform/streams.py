"""Where a process computes: one stream on a GPU; on a CPU one for each core, each with a part of a batch."""

import functools

import mlx.core as mx

from lmexp.platform.cores import compute_cores

_MOST_STREAMS = 8  # a part of a batch must stay worth a matrix product


@functools.cache
def compute_streams() -> tuple[mx.Stream, ...]:
    """Return the streams among which a batch can be split; the first is MLX's default.

    A CPU stream of MLX has one thread: all but matrix products runs on one core, and those wait for each other's
    threads. So the parts of a batch go to streams of their own, and a product keeps to the core that it is on (see
    `lmexp.platform.prepare`).
    """
    default = mx.default_stream(mx.default_device())
    n_streams = min(compute_cores(), _MOST_STREAMS) if mx.default_device() == mx.cpu else 1
    return (default, *(mx.new_stream(mx.cpu) for _ in range(n_streams - 1)))
