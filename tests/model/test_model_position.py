"""Rotations, their stretched forms and distance penalties against numpy's complex numbers and published code."""

import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from tiny_specs import GPT

from lmexp.model.mask import distances, visible_rows
from lmexp.model.position import DistancePenalty, Rotation, frequencies, slopes

ROPE = replace(GPT.rope, base=10_000.0)
HEADS = np.random.default_rng(0).normal(size=(3, 2, 5, 8)).astype(np.float32)  # batch, heads, time, width


def turned(heads, width, positions, angles, temperature=1.0):
    """Turn the first ``width`` of each head as complex numbers; positions: (batch, time)."""
    half = width // 2
    turns = np.exp(1j * positions[:, None, :, None] * np.array(angles))
    pairs = (heads[..., :half] + 1j * heads[..., half:width]) * turns * temperature
    return np.concatenate([pairs.real, pairs.imag, heads[..., width:]], axis=-1)


@pytest.mark.parametrize("width", [8, 6, 2])
@pytest.mark.parametrize("scaling", ["none", "linear", "yarn"])
def test_rows_turn_from_positions_of_their_own(width, scaling):
    spec = replace(ROPE, scaling=scaling, factor=4.0, original_context=50)
    starts = np.array([0, 3, 40])
    rotation, angles = Rotation(width, spec, local=False), frequencies(width, spec.base, spec)
    expected = turned(HEADS, width, starts[:, None] + np.arange(5), angles, rotation.temperature)
    actual = rotation(mx.array(HEADS), mx.array(starts, dtype=mx.int32))
    # Angles of up to 45 in float32: 6e-8 of them is 3e-6, of numbers up to 3.
    np.testing.assert_allclose(actual, expected, atol=2e-5)
    one = rotation(mx.array(HEADS[1:2]), 3)
    np.testing.assert_allclose(one, expected[1:2], atol=2e-5)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("width", [8, 6, 2])
@pytest.mark.parametrize("scaling", ["none", "linear", "yarn"])
def test_a_text_turns_from_its_first_token_on_and_its_gradient_turns_back(width, scaling, compiled):
    spec = replace(ROPE, scaling=scaling, factor=4.0, original_context=50)
    rotation, angles = Rotation(width, spec, local=False), np.array(frequencies(width, spec.base, spec))
    cotangent = np.random.default_rng(1).normal(size=HEADS.shape).astype(np.float32)

    def both(heads, cotangent):
        (value,), (gradient,) = mx.vjp(lambda heads: rotation(heads, 0), [heads], [cotangent])
        return value, gradient

    value, gradient = (mx.compile(both) if compiled else both)(mx.array(HEADS), mx.array(cotangent))
    # Angles of up to 4 in float32: 2e-7 of them, of numbers up to 4.
    positions = np.broadcast_to(np.arange(5), (3, 5))
    np.testing.assert_allclose(value, turned(HEADS, width, positions, angles, rotation.temperature), atol=5e-6)
    back = turned(cotangent, width, positions, -angles, rotation.temperature)
    np.testing.assert_allclose(gradient, back, atol=5e-6)


def test_a_rotation_is_not_stretched_in_local_layers_and_has_their_base():
    spec = replace(ROPE, local_base=30.0, scaling="yarn", factor=4.0, original_context=50, temperature=1.7)
    actual = Rotation(8, spec, local=True)(mx.array(HEADS), 2)
    positions = np.broadcast_to(2 + np.arange(5), (3, 5))
    np.testing.assert_allclose(actual, turned(HEADS, 8, positions, 30.0 ** (-np.arange(4) / 4)), atol=2e-5)


def test_products_of_rotated_heads_depend_on_distance_alone():
    spec = replace(ROPE, scaling="llama3", factor=8.0, original_context=60, fast_turns=4.0)
    rotation, heads = Rotation(8, spec, local=False), mx.array(HEADS)
    near, far = (rotation(heads, start) for start in (0, 30))
    np.testing.assert_allclose(near @ near.swapaxes(-1, -2), far @ far.swapaxes(-1, -2), atol=1e-4)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_a_rotation_keeps_the_dtype(dtype):
    rotation = Rotation(6, replace(ROPE, scaling="yarn", factor=4.0, original_context=50), local=False)
    assert rotation(mx.array(HEADS).astype(dtype), 1).dtype == dtype
    assert rotation(mx.array(HEADS).astype(dtype), 0).dtype == dtype


@pytest.mark.parametrize("factor", [2.0, 8.0, 40.0])
@pytest.mark.parametrize("scaling", ["linear", "llama3", "yarn"])
@pytest.mark.parametrize(("width", "original"), [(64, 8192), (128, 4096), (16, 60)])
def test_stretched_frequencies_are_those_of_transformers(scaling, factor, width, original):
    utils = pytest.importorskip("transformers.modeling_rope_utils")
    from transformers import LlamaConfig

    spec = replace(ROPE, scaling=scaling, factor=factor, original_context=original, slow_turns=1.0, fast_turns=4.0)
    parameters = {
        "rope_type": scaling,
        "rope_theta": spec.base,
        "factor": factor,
        "original_max_position_embeddings": original,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "beta_slow": 1.0,
        "beta_fast": 4.0,
    }
    config = LlamaConfig(
        hidden_size=2 * width,
        num_attention_heads=2,
        max_position_embeddings=int(original * factor),
        rope_parameters=parameters,
    )
    expected, temperature = utils.ROPE_INIT_FUNCTIONS[scaling](config, "cpu")
    # Theirs are computed in float32, some through wavelengths.
    np.testing.assert_allclose(frequencies(width, spec.base, spec), expected.numpy(), rtol=1e-5)
    assert Rotation(width, spec, local=False).temperature == pytest.approx(temperature)


def test_the_fast_are_kept_and_the_slow_divided():
    for scaling in ("llama3", "yarn"):
        spec = replace(ROPE, scaling=scaling, factor=5.0, original_context=1000)
        ratios = np.array(frequencies(64, spec.base, spec)) / frequencies(64, spec.base, replace(spec, scaling="none"))
        assert ratios[0] == 1
        assert ratios[-1] == pytest.approx(1 / 5)
        assert np.all(np.diff(ratios.round(12)) <= 0)
        assert len(set(ratios.round(6))) > 5  # a ramp between, no jump


@pytest.mark.parametrize("n_heads", [1, 2, 6, 8, 12, 16, 20])
def test_slopes_are_those_of_published_code(n_heads):
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    import torch

    expected = bloom.build_alibi_tensor(torch.ones(1, 2), n_heads, torch.float32)[:, 0, 1]
    np.testing.assert_allclose(slopes(n_heads), expected, rtol=1e-6)


def test_slopes_of_eight_heads_are_the_papers():
    assert slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_a_penalty_is_a_slope_times_the_distance_and_hides_what_is_hidden(dtype):
    penalties = DistancePenalty(3)(visible_rows(2, 5, 3, 3), 2, 5, dtype)
    assert penalties.dtype == dtype
    away = [[math.inf, 2, 1, 0, math.inf], [math.inf, math.inf, 2, 1, 0]]
    expected = -np.array(slopes(3))[:, None, None] * np.array(away)
    np.testing.assert_allclose(np.array(penalties.astype(mx.float32))[0], expected, rtol=2**-8)


def test_masks_are_arrays_only_where_they_must_be():
    assert visible_rows(1, 7, None, 6) is None
    assert visible_rows(1, 7, 7, 100) is None
    assert visible_rows(4, 7, None, 3) == "causal"
    assert visible_rows(4, 7, 7, 3) == "causal"
    assert isinstance(visible_rows(4, 7, 6, 3), mx.array)
    assert isinstance(visible_rows(1, 7, None, mx.array([6, 2])), mx.array)


@pytest.mark.parametrize("window", [None, 1, 3, 9])
@pytest.mark.parametrize("time", [1, 2, 4])
def test_a_mask_is_its_definition(time, window):
    """Token by token: text tokens only, none later than the query, none farther back than the window."""
    n_rows, lengths = 6, [6, 2, 4]  # tokens before the last query's next: the rest of a row is padding
    mask = np.array(visible_rows(time, n_rows, window, mx.array(lengths) - time))
    for row, length in enumerate(lengths):
        for query in range(time):
            at = n_rows - time + query
            for column in range(n_rows):
                is_text = column >= n_rows - length
                seen = is_text and column <= at and (window is None or at - column < window)
                if at >= n_rows - length:  # a query before its own text does not exist
                    assert mask[row, 0, query, column] == seen
    assert distances(2, 3).tolist() == [[1, 0, -1], [2, 1, 0]]
