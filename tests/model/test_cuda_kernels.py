"""Each kernel of our own is its formula, forward and backward."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_specs import GPT

from lmexp.model import cuda, lookup, residual
from lmexp.model.activation import ACTIVATIONS
from lmexp.model.heads import Heads
from lmexp.model.lookup import looked_up
from lmexp.model.norm import LayerNorm, RMSNorm
from lmexp.model.position import Rotation
from lmexp.model.residual import added_and_normed

NORMS = {
    "rmsnorm": RMSNorm,
    "layernorm": LayerNorm,
    "layernorm without bias": lambda width: LayerNorm(width, bias=False),
}
DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16}
# Some hundred float32 operations in another order; in bfloat16 the formulas round in between, to 0.4% each time.
TOLERANCES = {"float32": 1e-5, "bfloat16": 3e-2}

precisions = pytest.mark.parametrize("precision", DTYPES)


def drawn(seed, *shape):
    return mx.random.normal(shape, key=mx.random.key(seed))


def close(found, expected, precision):
    """Hold arrays to each other by the largest number of each."""
    for (path, mine), (_, theirs) in zip(tree_flatten(found), tree_flatten(expected), strict=True):
        assert mine.dtype == theirs.dtype, path
        mine, theirs = (np.array(array.astype(mx.float32)) for array in (mine, theirs))
        np.testing.assert_allclose(
            mine, theirs, rtol=0, atol=TOLERANCES[precision] * np.abs(theirs).max(), err_msg=str(path)
        )


def by_formula(monkeypatch, function):
    with monkeypatch.context() as patched:
        patched.setattr(cuda, "is_default", lambda: False)
        return function()


@pytest.mark.parametrize("has_branch", [False, True])
@pytest.mark.parametrize("kind", NORMS)
# A part of a warp, and more than one.
@pytest.mark.parametrize(("width", "precision"), [(24, "float32"), (24, "bfloat16"), (264, "float32")])
def test_a_sum_and_its_norm(monkeypatch, cuda_kernels, kind, has_branch, precision, width):
    monkeypatch.setattr(residual, "_BLOCKS", 2)  # each takes several rounds, the last of them not full
    dtype = DTYPES[precision]
    norm = NORMS[kind](width)
    norm.update({name: drawn(seed, width).astype(dtype) for seed, name in enumerate(norm.parameters())})
    inputs = [drawn(seed, 37, width).astype(dtype) for seed in (5, 6)[: 1 + has_branch]]
    weights = [drawn(seed, 37, width) for seed in (7, 8)]

    def results():
        def objective(parameters, *inputs):
            norm.update(parameters)
            outputs = added_and_normed(norm, *inputs)
            return sum((weight * output).sum() for weight, output in zip(weights, outputs, strict=True)), outputs

        gradient = mx.value_and_grad(objective, argnums=tuple(range(1 + len(inputs))))
        (_, outputs), gradients = gradient(norm.trainable_parameters(), *inputs)
        return outputs, gradients

    close(results(), by_formula(monkeypatch, results), precision)
    assert cuda_kernels == ["norm", "norm_gradient", "column_sums"]


def test_a_width_that_is_not_whole_packs_has_the_formula(cuda_kernels):
    x = drawn(0, 3, 20)
    assert mx.array_equal(added_and_normed(RMSNorm(20), x)[1], RMSNorm(20)(x))
    assert cuda_kernels == []


@precisions
@pytest.mark.parametrize("width", [7, 40])  # numbers one by one, and eight at a time
@pytest.mark.parametrize("name", ["swiglu", "geglu"])
def test_a_gate_of_halves(cuda_kernels, name, width, precision):
    halves = 2 * drawn(1, 3, 5, 2 * width).astype(DTYPES[precision])
    halves[0, 0, :4] = mx.array([-1e4, -120.0, 120.0, 1e4])
    to_gated = drawn(2, 3, 5, width).astype(halves.dtype)
    activation = ACTIVATIONS[name]
    found = mx.vjp(activation.gate_of_halves, [halves], [to_gated])
    expected = mx.vjp(lambda halves: activation.gate(*mx.split(halves, 2, axis=-1)), [halves], [to_gated])
    # Apart from the large numbers, beside which an error elsewhere would not be seen.
    close([each[0][1:] for each in found], [each[0][1:] for each in expected], precision)
    close(found, expected, precision)
    assert cuda_kernels == [f"{'silu' if name == 'swiglu' else 'gelu'}_gate{end}" for end in ("", "_gradient")]


@precisions
@pytest.mark.parametrize(("width", "turned"), [(16, 16), (16, 12), (6, 4), (7, None)])
def test_queries_keys_and_values(cuda_kernels, width, turned, precision):
    heads, batch, time = Heads(3, 2, width), 2, 5
    stretched = replace(GPT.rope, scaling="yarn", factor=4.0, original_context=64)
    rotation = None if turned is None else Rotation(turned, stretched, local=False)
    product = drawn(1, batch * time, 7 * width).astype(DTYPES[precision])
    to_parts = [drawn(seed, batch, count, time, width).astype(product.dtype) for seed, count in enumerate((3, 2, 2))]

    def one_by_one(product):
        parts = mx.split(product.reshape(batch, time, -1, width).swapaxes(1, 2), [3, 5], axis=1)
        return parts if rotation is None else [*(rotation(part, 0) for part in parts[:2]), parts[2]]

    found = mx.vjp(lambda product: list(heads.cut(product, batch, time, rotation)), [product], to_parts)
    close(found, mx.vjp(one_by_one, [product], to_parts), precision)
    assert cuda_kernels == [*["turn"] * (rotation is not None), "side_by_side"]


@pytest.fixture(params=["as a product", "one by one"])
def no_other_way(request, monkeypatch):
    """Have rows added up in one way, and refuse the other."""
    is_product = request.param == "as a product"
    monkeypatch.setattr(lookup, "_MOST_ROWS", 1024 if is_product else 2)
    monkeypatch.setattr(lookup, "_one_by_one" if is_product else "_as_product", None)


@precisions
@pytest.mark.parametrize("ids", [mx.int32, mx.uint32])
def test_rows_of_a_table(cuda_kernels, no_other_way, precision, ids):
    table = drawn(1, 19, 24).astype(DTYPES[precision])
    tokens = mx.random.randint(0, 18, (3, 7), key=mx.random.key(2)).astype(ids)
    to_rows = drawn(3, 3, 7, 24).astype(table.dtype)

    found, gradient = mx.vjp(lambda table: looked_up(table, tokens), [table], [to_rows])
    expected = mx.vjp(lambda table: table.astype(mx.float32)[tokens].astype(table.dtype), [table], [to_rows])
    close([found, gradient], expected, precision)
    assert cuda_kernels == ["look_up"]
    assert not gradient[0][18].any()  # nobody used it


@precisions
def test_rows_that_are_not_whole_packs_have_the_formula(cuda_kernels, precision):
    table, tokens = drawn(1, 5, 20).astype(DTYPES[precision]), mx.array([[4, 0, 4]])
    assert looked_up(table, tokens).tolist() == table[tokens].tolist()
    assert cuda_kernels == []


def test_uses_of_a_row_add_up_without_end(cuda_kernels, no_other_way):
    """In bfloat16, 1 + 1 + ... stops at 256."""
    assert gradient_of_uses(1500) == [1504] * 8  # the nearest number to 1,500


def test_off_a_cuda_device_they_add_up_without_end_too(monkeypatch):
    monkeypatch.setattr(lookup, "_as_product", None)  # where a scatter costs less
    assert gradient_of_uses(1500) == [1504] * 8


def gradient_of_uses(count):
    table = mx.zeros((3, 8), mx.bfloat16)
    return mx.grad(lambda table: looked_up(table, mx.full((1, count), 2, mx.int32)).sum())(table)[2].tolist()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_no_tokens_have_no_rows(dtype):
    assert looked_up(mx.zeros((3, 8), dtype), mx.zeros((2, 0), mx.int32)).shape == (2, 0, 8)
