"""A layer that is computed again for its gradient: the same loss, gradient and loads, in less memory."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_specs import LAWFUL, LLAMA

from lmexp.model.dropout import dropout_keys
from lmexp.model.initial import initialise
from lmexp.model.language_model import LanguageModel
from lmexp.train.objective import next_token_loss

VOCABULARY, TIME, BATCH = 19, 7, 3


def made_model(spec, context=TIME):
    model = LanguageModel(spec, VOCABULARY, 32, context)
    initialise(model, 3)
    return model


def gradient_of(model, checkpoint, compiled=False):
    """Return the loss, what was measured, and the gradient, with the masks of one step."""
    keys = dropout_keys(5, BATCH, model.n_dropouts)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (BATCH, TIME + 1)).astype(np.int32)
    inputs, targets = mx.array(tokens[:, :-1]), mx.array(tokens[:, 1:])
    before = model.trainable_parameters()

    def loss_of(weights):
        model.update(weights)
        return next_token_loss(model, inputs, targets, keys, checkpoint)

    def step(weights):
        return mx.value_and_grad(loss_of)(weights)

    found = (mx.compile(step) if compiled else step)(before)
    model.update(before)
    return found


def assert_same(one, other):
    (loss, measured), gradient = one
    (loss_, measured_), gradient_ = other
    # The same operations, but fused or not, and in another order: some float32 roundings.
    assert loss_.item() == pytest.approx(loss.item(), rel=1e-6)
    if "expert_tokens" in measured:
        assert mx.array_equal(measured["expert_tokens"], measured_["expert_tokens"]).item()
    for (path, mine), (_, other) in zip(tree_flatten(gradient), tree_flatten(gradient_), strict=True):
        np.testing.assert_allclose(other, mine, atol=1e-6, rtol=1e-4, err_msg=path)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("name", LAWFUL)
def test_the_gradient_is_the_same(name, dropout):
    model = made_model(replace(LAWFUL[name], dropout=dropout))
    assert_same(gradient_of(model, False), gradient_of(model, True))


def test_compiled_it_is_the_same_too():
    model = made_model(LLAMA)
    assert_same(gradient_of(model, False), gradient_of(model, True, compiled=True))


@pytest.mark.parametrize("compiled", [False, True])
def test_memory_grows_by_a_layers_input_and_not_by_what_is_inside(compiled):
    usual = mx.set_memory_limit(1 << 20)  # with memory to spare MLX hands out work ahead of time, more or less of it

    def peak(n_layers, checkpoint):
        model = LanguageModel(replace(LLAMA, n_layers=n_layers, layers=["gqa"]), VOCABULARY, 32, 256)
        initialise(model, 0)
        tokens = mx.zeros((8, 256), dtype=mx.int32)
        before = model.trainable_parameters()

        def loss_of(weights):
            model.update(weights)
            return next_token_loss(model, tokens, tokens, checkpoint=checkpoint)[0]

        gradient = mx.compile(mx.grad(loss_of)) if compiled else mx.grad(loss_of)
        mx.eval(before, tokens)
        mx.eval(gradient(before))
        model.update(before)
        mx.reset_peak_memory()
        mx.eval(gradient(before))
        return mx.get_peak_memory()

    try:
        more_layers = peak(4, False) - peak(2, False)
        assert peak(4, True) - peak(2, True) < more_layers / 4
    finally:
        mx.set_memory_limit(usual)
