"""Activations whose gradients are written out have the gradients of their formulas."""

import math

import mlx.core as mx
import numpy as np
import pytest
from as_on_a_gpu import MlxOnAGpu

from lmexp.model import activation
from lmexp.model.activation import ACTIVATIONS

X = np.concatenate([np.linspace(-9, 9, 37), [-1e4, -120.0, 120.0, 1e4]]).astype(np.float32)
BY = np.random.default_rng(0).normal(size=X.shape).astype(np.float32)


def textbook(name):
    """Return f as its definition says it, to be differentiated by MLX."""
    if name == "relu2":
        return lambda x: mx.maximum(x, 0) ** 2
    if name == "swiglu":
        return lambda x: x * mx.sigmoid(x)
    return lambda x: 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("as_on_a_gpu", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_gradients_are_those_of_the_definition(monkeypatch, name, compiled, as_on_a_gpu):
    if as_on_a_gpu:
        monkeypatch.setattr(activation, "mx", MlxOnAGpu())
    ours, theirs = ACTIVATIONS[name], textbook(name)
    x, by = mx.array(X), mx.array(BY)
    wrap = mx.compile if compiled else lambda function: function
    # Numbers of order 10 in float32, and far from zero exactly f or nothing: 1e-5 of each, 1e-5 near zero.
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(wrap(ours.__call__)(x), theirs(x), **close)
    np.testing.assert_allclose(wrap(ours.gate)(x, by), theirs(x) * by, **close)
    alone = wrap(mx.grad(lambda x: (ours(x) * by).sum()))(x)
    both = wrap(mx.grad(lambda x, by: ours.gate(x, by).sum(), argnums=(0, 1)))(x, by)
    expected = mx.grad(lambda x, by: (theirs(x) * by).sum(), argnums=(0, 1))(x, by)
    np.testing.assert_allclose(alone, expected[0], **close)
    for mine, other in zip(both, expected, strict=True):
        np.testing.assert_allclose(mine, other, **close)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_keep_the_type_of_each_input(name):
    low, high = mx.array(X[:37]).astype(mx.bfloat16), mx.array(BY[:37])
    gradients = mx.grad(lambda x, by: ACTIVATIONS[name].gate(x, by).sum(), argnums=(0, 1))
    assert [gradient.dtype for gradient in gradients(low, high)] == [mx.bfloat16, mx.float32]
    assert [gradient.dtype for gradient in gradients(high, low)] == [mx.float32, mx.bfloat16]
    assert ACTIVATIONS[name](low).dtype == mx.bfloat16
