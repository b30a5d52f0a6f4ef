"""A gradient of our own is computed where its function was."""

import mlx.core as mx

from lmexp.model.gradient import with_gradient


def test_a_gradient_runs_on_the_stream_of_its_function():
    stream, seen = mx.new_stream(mx.default_device()), []

    def gradient(x, cotangent, output):
        seen.append(mx.default_stream(mx.default_device()))
        return 2 * x * cotangent

    def loss_of(x):
        with mx.stream(stream):
            return with_gradient(mx.square, gradient)(x)

    assert mx.grad(loss_of)(mx.array(3.0)).item() == 6.0
    assert seen == [stream]
