"""Laws of the norms: those of MLX's fused kernels, and PyTorch's, with gradients, in every precision."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from lmexp.model.norm import LayerNorm, RMSNorm

WIDTH = 24
PAIRS = {
    "rmsnorm": (RMSNorm, nn.RMSNorm, {}),
    "layernorm": (LayerNorm, nn.LayerNorm, {}),
    "layernorm without bias": (LayerNorm, nn.LayerNorm, {"bias": False}),
}
# Two sums of 24 float32 numbers in another order, and a handful of roundings after them: some 10 units of 6e-8.
ROUNDING = 1e-6


def made(kind, epsilon=1e-5):
    """Return our norm and MLX's with the same gains, none of them 1, and biases, none of them 0."""
    ours, theirs, options = PAIRS[kind]
    pair = ours(WIDTH, eps=epsilon, **options), theirs(WIDTH, eps=epsilon, **options)
    generator = np.random.default_rng(3)
    gain = mx.array(generator.uniform(0.5, 2.0, WIDTH).astype(np.float32))
    bias = mx.array(generator.normal(size=WIDTH).astype(np.float32))
    for norm in pair:
        norm.weight = gain
        if "bias" in norm:
            norm.bias = bias
    return pair


def rows(dtype=mx.float32, shift=0.0):
    return (mx.random.normal((2, 3, 5, WIDTH), key=mx.random.key(1)) * 3 + shift).astype(dtype)


def gradients(norm, x):
    """Return the gradients by the rows and by the parameters, of a sum that weighs every result differently."""
    weights = mx.random.normal(x.shape, key=mx.random.key(2))

    def objective(parameters, x):
        norm.update(parameters)
        return (norm(x) * weights).sum()

    by_parameters, by_rows = mx.grad(objective, argnums=(0, 1))(norm.trainable_parameters(), x)
    return by_parameters | {"rows": by_rows}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_a_norm_is_mlx_s(kind, shift):
    ours, theirs = made(kind)
    x = rows(shift=shift)
    np.testing.assert_allclose(np.array(ours(x)), np.array(theirs(x)), rtol=ROUNDING, atol=10 * ROUNDING)
    found, wanted = gradients(ours, x), gradients(theirs, x)
    assert found.keys() == wanted.keys()
    for name in wanted:  # sums of 30 rows where they are by parameters
        np.testing.assert_allclose(np.array(found[name]), np.array(wanted[name]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", PAIRS)
def test_a_norm_s_gradient_is_pytorch_s_in_float64(kind):
    torch = pytest.importorskip("torch")
    ours, _ = made(kind)
    x = rows()
    oracle = torch.tensor(np.array(x), dtype=torch.float64, requires_grad=True)
    gain = torch.tensor(np.array(ours.weight), dtype=torch.float64)
    if kind == "rmsnorm":
        y = torch.nn.functional.rms_norm(oracle, (WIDTH,), gain, ours.eps)
    else:
        y = torch.nn.functional.layer_norm(oracle, (WIDTH,), gain, eps=ours.eps)
    (y * torch.tensor(np.array(mx.random.normal(x.shape, key=mx.random.key(2))))).sum().backward()
    np.testing.assert_allclose(np.array(gradients(ours, x)["rows"]), oracle.grad.numpy(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", PAIRS)
def test_a_row_of_zeros_has_a_finite_gradient(kind):
    ours, _ = made(kind)
    assert mx.isfinite(gradients(ours, mx.zeros((2, WIDTH)))["rows"]).all()


@pytest.mark.parametrize("kind", PAIRS)
def test_in_bfloat16_a_norm_is_mlx_s_own(kind):
    ours, theirs = made(kind)
    x = rows(mx.bfloat16)
    ours.update({"weight": ours.weight.astype(mx.bfloat16)})
    theirs.update({"weight": theirs.weight.astype(mx.bfloat16)})
    assert ours(x).dtype == theirs(x).dtype
    assert mx.array_equal(ours(x), theirs(x))


@pytest.mark.parametrize("kind", PAIRS)
def test_a_row_s_norm_does_not_depend_on_the_rows_beside_it(kind):
    ours, _ = made(kind)
    x = rows()
    # A product of one row may add up in another order than one of thirty.
    np.testing.assert_allclose(np.array(ours(x[1:, 2:, 4:])), np.array(ours(x)[1:, 2:, 4:]), rtol=ROUNDING, atol=1e-6)
