"""The one cross-entropy against MLX's own and against the textbook, with gradients."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from lmexp.model.likelihood import token_nats

LOGITS = np.random.default_rng(0).normal(0, 3, (2, 5, 17)).astype(np.float32)
TARGETS = np.random.default_rng(1).integers(0, 17, (2, 5))


@pytest.mark.parametrize("shift", [0.0, 300.0, -300.0])
@pytest.mark.parametrize("compiled", [False, True])
def test_it_is_minus_the_log_of_the_softmax(compiled, shift):
    function = mx.compile(token_nats) if compiled else token_nats
    exact = (LOGITS + np.float32(shift)).astype(np.float64)
    expected = np.log(np.exp(exact - exact.max(-1, keepdims=True)).sum(-1)) + exact.max(-1)
    expected -= np.take_along_axis(exact, TARGETS[..., None], -1)[..., 0]
    # float32 keeps 7 digits of logits of up to 10.
    assert np.allclose(np.array(function(mx.array(LOGITS) + shift, mx.array(TARGETS))), expected, atol=5e-6)


def test_its_gradient_is_that_of_mlx():
    logits, targets = mx.array(LOGITS), mx.array(TARGETS)
    ours = mx.grad(lambda x: token_nats(x, targets).sum())(logits)
    theirs = mx.grad(lambda x: nn.losses.cross_entropy(x, targets, reduction="sum"))(logits)
    assert mx.allclose(ours, theirs, atol=1e-6).item()  # probabilities and ones in float32


def test_masked_logits_cost_nothing_and_take_no_gradient():
    masked = mx.array(LOGITS)
    masked[..., 10:] = -1e9
    targets = mx.array(TARGETS % 10)
    assert mx.allclose(token_nats(masked, targets), token_nats(masked[..., :10], targets), atol=1e-6).item()
    gradient = mx.grad(lambda x: token_nats(x, targets).sum())(masked)
    assert mx.array_equal(gradient[..., 10:], mx.zeros((2, 5, 7))).item()


def test_bfloat16_logits_are_summed_in_float32():
    low = mx.array(LOGITS).astype(mx.bfloat16)
    nats = token_nats(low, mx.array(TARGETS))
    assert nats.dtype == mx.float32
    assert mx.allclose(nats, token_nats(low.astype(mx.float32), mx.array(TARGETS))).item()
