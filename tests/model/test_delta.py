"""Gated DeltaNet: the rule's three forms agree, their gradients too, and the layer is what Qwen3-Next computes."""

import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map
from tiny_specs import LLAMA

from lmexp.errors import UserError
from lmexp.model.cache import RecurrentCache
from lmexp.model.delta import DeltaNet
from lmexp.model.delta_rule import (
    CHUNK,
    RuleInputs,
    apply_rule,
    chunked_rule,
    recurrent_rule,
    rule_flops,
    unit_lower_inverse,
)
from lmexp.model.initial import initialise
from lmexp.model.language_model import LanguageModel
from lmexp.model.parts import DeltaSpec

# Sums of a few dozen terms of order 1, taken in another order.
FLOAT32 = 5e-6
# key_heads 3, value_heads 6, key_width 4, value_width 5; d_model 24.
SPEC = replace(LLAMA, layers=["delta"], delta=DeltaSpec(3, 6, 4, 5, convolution_width=4))
BATCH, KEY_HEADS, GROUP, KEY_WIDTH, VALUE_WIDTH = 2, 3, 5, 4, 7


def some_inputs(time, decay=1.0, seed=0):
    """Return inputs of the rule and a state that is not zero; ``decay`` is the typical size of -log decay."""
    draw = np.random.default_rng(seed).normal
    queries, keys = draw(size=(2, BATCH, time, KEY_HEADS, 1, KEY_WIDTH))
    values = draw(size=(BATCH, time, KEY_HEADS, GROUP, VALUE_WIDTH))
    strengths = 1 / (1 + np.exp(-2 * draw(size=values.shape[:-1])))
    log_decays = -decay * np.abs(draw(size=values.shape[:-1]))
    state = draw(size=(BATCH, KEY_HEADS, GROUP, KEY_WIDTH, VALUE_WIDTH))
    arrays = (queries, keys / np.linalg.norm(keys, axis=-1, keepdims=True), values, strengths, log_decays, state)
    *inputs, state = (mx.array(array.astype(np.float32)) for array in arrays)
    return RuleInputs(*inputs), state


def reference(inputs, state):
    """The rule as it is defined, token by token and head by head, in float64."""
    queries, keys, values, strengths, log_decays = (np.array(array, dtype=np.float64) for array in inputs)
    memory, outputs = np.array(state, dtype=np.float64), np.zeros(values.shape)
    for row, head, member in np.ndindex(*memory.shape[:3]):
        stored = memory[row, head, member]
        for token in range(keys.shape[1]):
            key, query = keys[row, token, head, 0], queries[row, token, head, 0]
            stored = math.exp(log_decays[row, token, head, member]) * stored
            error = values[row, token, head, member] - stored.T @ key
            stored = stored + np.outer(key, strengths[row, token, head, member] * error)
            outputs[row, token, head, member] = stored.T @ query
        memory[row, head, member] = stored
    return outputs, memory


def assert_same(ours, theirs, tolerance=FLOAT32):
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("decay", [0.0, 0.1, 1.0, 30.0, 1e4])
@pytest.mark.parametrize(("time", "chunk"), [(1, 4), (2, 4), (4, 4), (11, 4), (13, 1), (24, 8), (37, 16), (33, 64)])
def test_chunked_and_recurrent_equal_the_definition(time, chunk, decay):
    inputs, state = some_inputs(time, decay)
    expected = reference(inputs, state)
    assert_same(recurrent_rule(inputs, state), expected)
    assert_same(apply_rule(inputs, state, chunk), expected)


def test_the_chunked_form_is_what_is_tested():
    """Short texts take the recurrent form; beyond, the chunked form must be taken, whatever the length."""
    inputs, state = some_inputs(8)
    assert_same(chunked_rule(inputs, state, 4), reference(inputs, state))
    assert_same(chunked_rule(inputs, state, 8), reference(inputs, state))


def test_one_strong_decay_leaves_its_neighbours_exact():
    """A running sum of 1e5 has a rounding error of 0.008: the decays between other tokens must not be made from it."""
    inputs, state = some_inputs(32, decay=0.1)
    log_decays = np.array(inputs.log_decays)
    log_decays[:, 5] = -1e5
    inputs = inputs._replace(log_decays=mx.array(log_decays))
    assert_same(apply_rule(inputs, state, 32), reference(inputs, state))


@pytest.mark.parametrize("chunk", [8, 64])
def test_equal_keys_do_not_cancel(chunk):
    """One key again and again, nothing forgotten: the powers of the triangle grow to 10^18, its inverse does not."""
    inputs, state = some_inputs(64, decay=0.0)
    keys = mx.broadcast_to(inputs.keys[:, :1], inputs.keys.shape)
    inputs = inputs._replace(keys=keys, strengths=mx.ones_like(inputs.strengths))
    assert_same(apply_rule(inputs, state, chunk), reference(inputs, state))


def test_the_inverse_of_a_triangle_of_ones_is_a_difference():
    ones = np.tril(np.ones((64, 64), dtype=np.float32), -1)
    inverse = unit_lower_inverse(mx.array(ones)[None])[0]
    np.testing.assert_array_equal(inverse, np.eye(64) - np.eye(64, k=-1))  # whole numbers: exact


@pytest.mark.parametrize("cuts", [(1,), (5, 6), (3, 4, 20), (16, 32)])
def test_the_state_carries_over_any_cut(cuts):
    inputs, state = some_inputs(37)
    expected, parts = apply_rule(inputs, state, 8), []
    for start, end in zip((0, *cuts), (*cuts, 37), strict=True):
        outputs, state = apply_rule(RuleInputs(*(array[:, start:end] for array in inputs)), state, 8)
        parts.append(outputs)
    assert_same((mx.concatenate(parts, axis=1), state), expected)


def some_loss(outputs, state):
    """Weigh every number of both results differently."""
    return sum((array * mx.cos(mx.arange(array.size).reshape(array.shape))).sum() for array in (outputs, state))


def gradients(form, inputs, state):
    return mx.grad(lambda *arrays: some_loss(*form(RuleInputs(*arrays[:-1]), arrays[-1])), argnums=list(range(6)))(
        *inputs, state
    )


@pytest.mark.parametrize("decay", [0.1, 1.0, 100.0])
@pytest.mark.parametrize(("time", "chunk"), [(11, 4), (40, 16), (33, 32)])
def test_the_chunked_gradient_equals_that_of_the_recurrent_form(time, chunk, decay):
    """The recurrent form has no gradient of its own making: MLX derives it from the definition."""
    inputs, state = some_inputs(time, decay)
    ours = gradients(lambda inputs, state: apply_rule(inputs, state, chunk), inputs, state)
    theirs = gradients(recurrent_rule, inputs, state)
    for our, their in zip(ours, theirs, strict=True):
        # Relative to the largest number of its kind: small ones are sums of large ones.
        np.testing.assert_allclose(our, their, atol=5e-6 * mx.abs(their).max().item(), rtol=0)


@pytest.mark.parametrize("argument", range(6))
def test_gradients_agree_with_finite_differences(argument):
    """Central differences of the float64 reference, step 1e-5: right to about 1e-9, so that only float32 is seen."""
    inputs, state = some_inputs(11, decay=0.5)
    arrays = [np.array(array, dtype=np.float64) for array in (*inputs, state)]
    direction = np.random.default_rng(3).normal(size=arrays[argument].shape)

    def moved(step):
        *tokens, memory = (array + step * direction if i == argument else array for i, array in enumerate(arrays))
        results = reference(tokens, memory)
        return sum((array * np.cos(np.arange(array.size).reshape(array.shape))).sum() for array in results)

    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    ours = gradients(lambda inputs, state: apply_rule(inputs, state, 4), inputs, state)[argument]
    assert (np.array(ours) * direction).sum() == pytest.approx(slope, rel=1e-5, abs=1e-4)


def test_flops_are_those_of_the_products():
    """Counted here product by product: (rows, inner, columns), per chunk of one key head with two value heads."""
    chunk, key, value = CHUNK, 16, 8
    shared = [(chunk, key, chunk)] * 2
    of_each = [(chunk, chunk, key + value), (key, chunk, key + value), (key, key, value)]
    of_each += [(chunk, key, value)] * 2 + [(chunk, chunk, value)]
    products = 2 * sum(math.prod(sizes) for sizes in shared + 2 * of_each)
    inverses = 2 * sum(2 * 2 * (size // 2) ** 3 * (chunk // size) for size in (2, 4, 8, 16, 32))
    # The exact sum over the halvings is 2/3 C^2 less a term of size C^0: under 0.1%.
    assert rule_flops(1, 2, key, value) * chunk == pytest.approx(products + inverses, rel=1e-3)


def make_layer(spec, seed=0):
    """Return a layer whose every parameter matters: biases are not 0, gains not 1."""
    layer, generator = DeltaNet(spec), np.random.default_rng(seed)
    layer.update(
        tree_map(lambda array: mx.array(generator.normal(0.2, 0.4, array.shape).astype(np.float32)), layer.parameters())
    )
    return layer


def some_input(time, batch=BATCH):
    return mx.array(np.random.default_rng(1).normal(0, 1, (batch, time, SPEC.d_model)).astype(np.float32))


def test_sizes_fall_back_as_the_spec_says():
    nothing = DeltaSpec(None, None, None, None, convolution_width=4)
    assert (nothing.heads(6), nothing.widths(4)) == ((6, 6), (4, 4))
    assert replace(nothing, key_heads=2).heads(6) == (2, 2)
    assert replace(nothing, value_heads=12).heads(6) == (6, 12)
    assert replace(nothing, key_width=7).widths(4) == (7, 7)
    assert replace(nothing, value_width=9).widths(4) == (4, 9)


def test_a_layer_costs_the_same_at_every_length():
    layer, multiplied = make_layer(SPEC), 24 * (12 + 12 + 30 + 30 + 6 + 6 + 30) + (12 + 12 + 30) * 4
    assert layer.forward_flops(7) == layer.forward_flops(9000) == 2 * multiplied + rule_flops(3, 6, 4, 5)


def test_value_heads_must_be_a_multiple_of_key_heads():
    with pytest.raises(
        UserError, match=r"model.delta.key_heads=4 does not divide model.delta.value_heads=6: .*1, 2, 3"
    ):
        replace(SPEC, delta=DeltaSpec(4, 6, None, None, convolution_width=4))


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("cuts", [[1] * 9, [5, 1, 1, 2], [4, 5], [2, 7]])
def test_cached_equals_whole_for_every_width_of_the_convolution(cuts, width):
    """More cuts than the laws of every model: a convolution's tail may be longer than what was read."""
    layer = make_layer(replace(SPEC, delta=replace(SPEC.delta, convolution_width=width)))
    x, cache, parts, start = some_input(9), layer.make_cache(9), [], 0
    for length in cuts:
        parts.append(layer(x[:, start : start + length], cache))
        start += length
    assert cache.position == 9
    np.testing.assert_allclose(mx.concatenate(parts, axis=1), layer(x, None), atol=2e-5, rtol=2e-5)


def cached_bytes(n_tokens, n_steps):
    """Return the bytes that stay in memory, and those that the cache shows."""
    layer, cache = make_layer(SPEC), RecurrentCache()
    mx.eval(layer.parameters())
    before = mx.get_active_memory()
    for _ in range(n_steps):
        layer(some_input(n_tokens), cache)
        mx.eval(cache.arrays())
    return mx.get_active_memory() - before, sum(array.nbytes for array in cache.arrays())


def test_the_cache_is_as_large_after_one_token_as_after_many():
    """Not only what it shows: nothing that was read stays alive behind it."""
    one, many = cached_bytes(1, 1), cached_bytes(500, 2)
    channels = 2 * 3 * 4 + 6 * 5
    assert one[1] == many[1] == 4 * BATCH * (3 * channels + 6 * 4 * 5)
    assert max(one[0], many[0]) < 2 * one[1]  # freed memory is used again even where it is a little too large


def test_rows_merge_and_are_taken_with_their_positions():
    layer, lengths = make_layer(SPEC), (5, 2, 9)
    texts = [some_input(12, batch=3)[row : row + 1] for row in range(3)]
    caches = [layer.make_cache(12) for _ in texts]
    for text, cache, length in zip(texts, caches, lengths, strict=True):
        layer(text[:, :length], cache)
    merged = RecurrentCache.merge(caches)
    assert merged.position.tolist() == [5, 2, 9]
    merged.take(mx.array([2, 0, 0]))
    assert merged.position.tolist() == [9, 5, 5]
    last = mx.concatenate([texts[row][:, lengths[row]] for row in (2, 0, 0)])[:, None]
    decoded = layer(last, merged)
    for place, row in enumerate((2, 0, 0)):
        alone = layer(texts[row][:, : lengths[row] + 1], None)[:, -1]
        np.testing.assert_allclose(decoded[place], alone, atol=2e-5, rtol=2e-5)
    assert merged.position.tolist() == [10, 6, 6]
    equal = RecurrentCache.merge([caches[0].copy(), caches[0]])
    assert equal.position == 5
    with pytest.raises(ValueError, match="hold tokens"):
        RecurrentCache.merge([caches[0], RecurrentCache()])


def test_a_copy_goes_on_by_itself_and_nothing_can_be_forgotten():
    layer, x = make_layer(SPEC), some_input(7)
    cache = layer.make_cache(7)
    layer(x[:, :6], cache)
    twin = cache.copy()
    first = layer(x[:, 6:], twin)
    assert (cache.position, twin.position) == (6, 7)
    np.testing.assert_array_equal(layer(x[:, 6:], cache), first)
    cache.rewind(0)
    assert cache.can_rewind(0)
    assert not cache.can_rewind(1)
    with pytest.raises(ValueError, match="cannot forget its latest 2 tokens"):
        cache.rewind(2)


def test_bfloat16_layers_remember_in_float32():
    layer, cache = make_layer(SPEC), RecurrentCache()
    exact = layer(some_input(9), None)
    layer.set_dtype(mx.bfloat16)
    x = some_input(9).astype(mx.bfloat16)
    rounded = layer(x, cache)
    assert rounded.dtype == mx.bfloat16
    assert [array.dtype for array in cache.arrays()] == [mx.bfloat16, mx.float32]
    # Weights and channels have 8 bits: a few hundredths of outputs of order 1.
    np.testing.assert_allclose(rounded.astype(mx.float32), exact, atol=0.1 * mx.abs(exact).max().item())


def test_first_weights_follow_their_laws():
    """Quantiles of 480 draws per law, within 6 standard errors of a uniform one (0.5 / sqrt(n) at the median)."""
    spec = replace(SPEC, n_layers=5, delta=DeltaSpec(4, 96, 4, 2, convolution_width=4))
    model = LanguageModel(spec, 29, 31, 11)
    initialise(model, 0)

    def drawn(name):
        return np.concatenate([np.array(getattr(layer.mixer, name)).ravel() for layer in model.layers])

    laws = {
        "rates": ((np.exp(drawn("log_rate")) - 0.01) / (16 - 0.01)),
        "steps": (np.log(np.log1p(np.exp(drawn("time_step_offset")))) - math.log(1e-3)) / math.log(100),
        "convolution": drawn("convolution") + 0.5,  # within 1 / sqrt(4)
    }
    for name, shares in laws.items():
        assert shares.min() > -1e-5, name
        assert shares.max() < 1 + 1e-5, name
        for level in (0.25, 0.5, 0.75):
            assert np.quantile(shares, level) == pytest.approx(level, abs=3 / math.sqrt(shares.size)), name
    assert not np.array_equal(model.layers[0].mixer.log_rate, model.layers[1].mixer.log_rate)


@pytest.mark.parametrize("time", [1, 7, 70])
def test_it_computes_what_qwen3_next_computes(time):
    """Weights drawn here, given to both; 1e-5 of outputs of order 1: float32 sums in another order."""
    torch = pytest.importorskip("torch")
    qwen = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    config = qwen.Qwen3NextConfig(
        hidden_size=SPEC.d_model,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        linear_num_key_heads=3,
        linear_num_value_heads=6,
        linear_key_head_dim=4,
        linear_value_head_dim=5,
        linear_conv_kernel_dim=4,
        rms_norm_eps=SPEC.norm_epsilon,
    )
    layer, theirs = make_layer(SPEC), qwen.Qwen3NextGatedDeltaNet(config, 0)
    with torch.no_grad():
        for name, array in qwen_weights(layer).items():
            parameter = theirs.get_parameter(name)
            assert parameter.shape == array.shape, name
            parameter.copy_(torch.tensor(array))
        x = some_input(time)
        expected = theirs(torch.tensor(np.array(x))).numpy()
    np.testing.assert_allclose(layer(x, None), expected, atol=1e-5, rtol=1e-5)


def qwen_weights(layer):
    """Name and fuse our weights as Qwen3-Next's checkpoints do: by key head, its query, key, values and gates."""
    rows = [
        np.array(part.weight).reshape(3, -1, SPEC.d_model) for part in (layer.query, layer.key, layer.value, layer.gate)
    ]
    small = [np.array(part.weight).reshape(3, -1, SPEC.d_model) for part in (layer.strength, layer.time_step)]
    return {
        "in_proj_qkvz.weight": np.concatenate(rows, axis=1).reshape(-1, SPEC.d_model),
        "in_proj_ba.weight": np.concatenate(small, axis=1).reshape(-1, SPEC.d_model),
        "conv1d.weight": np.array(layer.convolution).swapaxes(1, 2),
        "dt_bias": np.array(layer.time_step_offset),
        "A_log": np.array(layer.log_rate),
        "norm.weight": np.array(layer.head_norm.weight),
        "out_proj.weight": np.array(layer.output.weight),
    }
