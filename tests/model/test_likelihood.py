"""The one cross-entropy against MLX's own and against the textbook, with gradients."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from as_on_a_gpu import MlxOnAGpu

from lmexp.model import likelihood
from lmexp.model.likelihood import mean_nats, token_nats

LOGITS = np.random.default_rng(0).normal(0, 3, (2, 5, 17)).astype(np.float32)
TARGETS = np.random.default_rng(1).integers(0, 17, (2, 5))


@pytest.fixture(params=["cpu", "gpu"])
def either_device(request, monkeypatch):
    """Take the formula for one device and then the one for the other."""
    if request.param == "gpu":
        monkeypatch.setattr(likelihood, "mx", MlxOnAGpu())


@pytest.mark.usefixtures("either_device")
@pytest.mark.parametrize("shift", [0.0, 300.0, -300.0])
@pytest.mark.parametrize("compiled", [False, True])
def test_it_is_minus_the_log_of_the_softmax(compiled, shift):
    function = mx.compile(token_nats) if compiled else token_nats
    exact = (LOGITS + np.float32(shift)).astype(np.float64)
    expected = np.log(np.exp(exact - exact.max(-1, keepdims=True)).sum(-1)) + exact.max(-1)
    expected -= np.take_along_axis(exact, TARGETS[..., None], -1)[..., 0]
    # float32 keeps 7 digits of logits of up to 10.
    assert np.allclose(np.array(function(mx.array(LOGITS) + shift, mx.array(TARGETS))), expected, atol=5e-6)


@pytest.mark.usefixtures("either_device")
def test_its_gradient_is_that_of_mlx():
    logits, targets = mx.array(LOGITS), mx.array(TARGETS)
    ours = mx.grad(lambda x: token_nats(x, targets).sum())(logits)
    theirs = mx.grad(lambda x: nn.losses.cross_entropy(x, targets, reduction="sum"))(logits)
    assert mx.allclose(ours, theirs, atol=1e-6).item()  # probabilities and ones in float32


@pytest.mark.usefixtures("either_device")
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


STATES = np.random.default_rng(2).normal(0, 1, (2, 5, 3)).astype(np.float32)
WEIGHT = np.random.default_rng(3).normal(0, 1, (17, 3)).astype(np.float32)


def capped(hidden, weight):
    return 4 * mx.tanh(hidden @ weight.T / 4)


def value_and_gradients(compiled, dtype=mx.float32):
    """Return the mean cost times three, so that the gradient of the cost meets one from outside, and both gradients."""
    function = mx.value_and_grad(lambda h, w: 3 * mean_nats(capped, h, w, mx.array(TARGETS)), argnums=(0, 1))
    return (mx.compile(function) if compiled else function)(
        mx.array(STATES).astype(dtype), mx.array(WEIGHT).astype(dtype)
    )


# Ten tokens and 17 logits each: in pieces of one, of three and of five tokens, the last one shorter or not.
@pytest.mark.parametrize("most", [17, 60, 90])
@pytest.mark.parametrize("compiled", [False, True])
def test_pieces_have_the_mean_and_the_gradients_of_the_whole(monkeypatch, most, compiled):
    whole, (to_states, to_weight) = value_and_gradients(False)
    monkeypatch.setattr(likelihood, "_most_logits", lambda: most)
    in_pieces, (to_states_, to_weight_) = value_and_gradients(compiled)
    # The same terms in another order: a few float32 roundings of numbers near 1.
    assert in_pieces.item() == pytest.approx(whole.item(), rel=1e-6)
    np.testing.assert_allclose(to_states_, to_states, atol=1e-6)
    np.testing.assert_allclose(to_weight_, to_weight, atol=1e-6)


def test_pieces_of_bfloat16_add_up_their_gradients_in_float32(monkeypatch):
    _, (_, exact) = value_and_gradients(False)
    monkeypatch.setattr(likelihood, "_most_logits", lambda: 17)
    _, (to_states, to_weight) = value_and_gradients(False, mx.bfloat16)
    assert to_states.dtype == to_weight.dtype == mx.bfloat16
    # Eight bits: states, weights and logits are rounded by 0.4% each, and logits are up to 4.
    np.testing.assert_allclose(to_weight.astype(mx.float32), exact, atol=0.03)


def test_pieces_add_up_without_end(monkeypatch):
    """In bfloat16 a sum of equal terms stops growing at 256 of them."""
    monkeypatch.setattr(likelihood, "_most_logits", lambda: 3)  # a piece is one token
    hidden, weight = mx.ones((1, 600, 8), mx.bfloat16), mx.zeros((3, 8), mx.bfloat16)
    targets = mx.zeros((1, 600), mx.int32)
    to_weight = mx.grad(lambda weight: mean_nats(lambda h, w: h @ w.T, hidden, weight, targets))(weight)
    # Each of three ids has a third of the probability; rounded to eight bits for each piece and at the end.
    expected = np.array([-2 / 3, 1 / 3, 1 / 3])[:, None] * np.ones((1, 8))
    np.testing.assert_allclose(to_weight.astype(mx.float32), expected, rtol=0.01)


def test_the_logits_of_all_tokens_are_never_in_memory(monkeypatch):
    tokens, width, vocabulary = 512, 8, 4096
    of_all = 4 * tokens * vocabulary
    # MLX hands out work ahead of time, and with it memory, as long as there is some: here there is next to none.
    usual = mx.set_memory_limit(1 << 20)

    def peak():
        hidden, weight = mx.zeros((1, tokens, width)), mx.zeros((vocabulary, width))
        targets = mx.zeros((1, tokens), dtype=mx.int32)
        mx.eval(hidden, weight, targets)
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        gradient = mx.grad(lambda h, w: mean_nats(lambda a, b: a @ b.T, h, w, targets), argnums=(0, 1))
        mx.eval(gradient(hidden, weight))
        return mx.get_peak_memory() - before

    try:
        assert peak() > of_all
        monkeypatch.setattr(likelihood, "_most_logits", lambda: 32 * vocabulary)
        assert peak() < of_all / 3  # a sixteenth of the logits, in a few forms
    finally:
        mx.set_memory_limit(usual)
