"""Maps that are one product give what each gives alone, and so do their gradients."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from as_on_a_gpu import MlxOnAGpu
from mlx.utils import tree_flatten
from numpy_model import VOCAB, make_model
from tiny_specs import GPT, LAWFUL, LLAMA

from lmexp.model import attention, feedforward, joined
from lmexp.model.spec import GATED

BATCH, TIME, CONTEXT = 3, 17, 19


@pytest.fixture
def products(monkeypatch):
    """Let the modules believe in a CUDA device; returns the list of how many maps each joined product had."""
    counts = []

    def counted(x, *maps):
        counts.append(len(maps))
        return joined.joined(x, *maps)

    monkeypatch.setattr(joined, "mx", MlxOnAGpu())
    monkeypatch.setattr(joined, "_LEAST_TOKENS", BATCH * TIME)
    for module in (attention, feedforward):
        monkeypatch.setattr(module, "joined", counted)
    return counts


def loss_and_gradients(model, compiled=False):
    tokens = mx.array(np.random.default_rng(3).integers(0, VOCAB, (BATCH, TIME + 1)).astype(np.int32))

    def loss_of(weights):
        model.update(weights)
        return nn.losses.cross_entropy(model(tokens[:, :-1])[..., :VOCAB], tokens[:, 1:]).mean()

    weights = model.trainable_parameters()
    of_weights = mx.value_and_grad(loss_of)
    loss, gradients = (mx.compile(of_weights) if compiled else of_weights)(weights)
    model.update(weights)
    return float(loss), {path: np.array(array) for path, array in tree_flatten(gradients)}


def learning(spec):
    model = make_model(spec, context=CONTEXT)
    model.train()
    return model


def close(gradients, expected):
    """Sums of some hundred float32 terms in another order; those of key biases are zero in theory, hence 1e-7."""
    assert gradients.keys() == expected.keys()
    for path, array in expected.items():
        atol = 2e-5 * np.abs(array).max() + 1e-7
        np.testing.assert_allclose(gradients[path], array, rtol=1e-4, atol=atol, err_msg=path)


@pytest.mark.parametrize("name", LAWFUL)
def test_joined_products_change_neither_loss_nor_gradient(monkeypatch, products, name):
    model = learning(LAWFUL[name])
    loss, gradients = loss_and_gradients(model)
    assert bool(products) == (LAWFUL[name].ffn in GATED or not {"gqa", "local"}.isdisjoint(LAWFUL[name].layers))
    monkeypatch.undo()
    plain_loss, plain = loss_and_gradients(model)
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    close(gradients, plain)


def test_a_compiled_joined_step_is_the_uncompiled_one(products):
    model = learning(LLAMA)
    loss, gradients = loss_and_gradients(model)
    compiled_loss, compiled = loss_and_gradients(model, compiled=True)
    assert compiled_loss == pytest.approx(loss, rel=1e-5)
    close(compiled, gradients)


@pytest.mark.parametrize("spec", [LLAMA, GPT])
def test_queries_keys_and_values_are_one_product_and_gate_and_up_another(products, spec):
    loss_and_gradients(learning(spec))
    assert products == ([3, 2] if spec is LLAMA else [3]) * spec.n_layers


def test_nothing_is_joined_for_few_tokens_nor_in_evaluation_nor_elsewhere(monkeypatch, products):
    model = learning(LLAMA)
    text = mx.zeros((BATCH, TIME), mx.int32)
    model(text[1:])
    model.eval()
    model(text)
    model.train()
    monkeypatch.setattr(joined, "mx", mx)
    if not mx.cuda.is_available():
        model(text)
    assert products == []
