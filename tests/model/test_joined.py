"""Maps that are one product give what each gives alone, and so do their gradients."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from numpy_model import VOCAB, make_model
from tiny_specs import GPT, LAWFUL, LLAMA

from lmexp.model import cuda, joined
from lmexp.model.joined import Joined

BATCH, TIME, CONTEXT = 3, 17, 19


@pytest.fixture
def products(monkeypatch, cuda_kernels):
    """Let modules join maps for few tokens, as on a CUDA device; returns how many maps each joined product had."""
    counts, call = [], Joined.__call__

    def counted(maps, x):
        counts.append(len(maps.maps))
        return call(maps, x)

    monkeypatch.setattr(joined, "_LEAST_TOKENS", BATCH * TIME)
    monkeypatch.setattr(Joined, "__call__", counted)
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
    """Sums of some hundred float32 terms in another order, several layers deep: 1e-4 of the largest number.

    Gradients of key biases are zero in theory, hence 1e-7.
    """
    assert gradients.keys() == expected.keys()
    for path, array in expected.items():
        atol = 1e-4 * np.abs(array).max() + 1e-7
        np.testing.assert_allclose(gradients[path], array, rtol=1e-4, atol=atol, err_msg=path)


@pytest.mark.parametrize("name", LAWFUL)
def test_joined_products_change_neither_loss_nor_gradient(monkeypatch, products, name):
    model = learning(LAWFUL[name])
    loss, gradients = loss_and_gradients(model)
    assert products
    monkeypatch.undo()
    plain_loss, plain = loss_and_gradients(model)
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    close(gradients, plain)


@pytest.mark.skipif(not mx.cuda.is_available(), reason="an emulated kernel cannot be compiled into a step")
def test_a_compiled_joined_step_is_the_uncompiled_one(products):
    model = learning(LLAMA)
    loss, gradients = loss_and_gradients(model)
    compiled_loss, compiled = loss_and_gradients(model, compiled=True)
    assert compiled_loss == pytest.approx(loss, rel=1e-5)
    close(compiled, gradients)


@pytest.mark.parametrize("spec", [LLAMA, GPT])
def test_queries_keys_and_values_are_one_product_and_gate_and_up_another(products, spec):
    loss_and_gradients(learning(spec))
    assert products == ([3, 1, 2, 1] if spec is LLAMA else [3, 1, 1, 1]) * spec.n_layers


def test_nothing_is_joined_for_few_tokens_nor_in_evaluation_nor_elsewhere(monkeypatch, products):
    model = learning(LLAMA)
    text = mx.zeros((BATCH, TIME), mx.int32)
    model(text[1:])
    model.eval()
    model(text)
    model.train()
    monkeypatch.setattr(cuda, "is_default", lambda: False)
    model(text)
    assert products == []


def lendable():
    """Return maps of 4 inputs with 3 and 2 outputs, what they are side by side, and inputs."""
    maps = nn.Linear(4, 3), nn.Linear(4, 2)
    x = mx.random.normal((6, 4), key=mx.random.key(1))
    return maps, Joined(*maps), mx.concatenate([each(x) for each in maps], axis=-1), x


def test_what_is_lent_serves_until_a_map_has_another_weight_or_it_is_taken_back():
    maps, both, expected, x = lendable()
    lent = mx.full((4, 5), 0.5)
    both.lend(lent, mx.zeros(5))
    assert mx.array_equal(both(x), x @ lent)
    maps[1].weight = mx.array(maps[1].weight)
    np.testing.assert_allclose(both(x), expected, rtol=1e-5, atol=1e-6)  # sums of five numbers in another order
    both.lend(lent, mx.zeros(5))
    both.take_back()
    np.testing.assert_allclose(both(x), expected, rtol=1e-5, atol=1e-6)


def test_results_are_cut_apart_where_the_maps_end():
    maps, both, expected, x = lendable()
    for part, each in zip(both.apart(expected), maps, strict=True):
        np.testing.assert_allclose(part, each(x), rtol=1e-5, atol=1e-6)
