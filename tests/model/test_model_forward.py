"""Laws of the forward and backward pass, on tiny models with a size of its own on every axis."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from numpy_model import (
    ATTENTION_CHOICES,
    BATCH,
    CONTEXT,
    EVERY_CHOICE,
    PADDED,
    POSITIONS_AND_HEADS,
    TIME,
    VOCAB,
    logits_of,
    make_model,
    mean_loss,
    name_of,
    parameters_of,
    some_tokens,
)
from tiny_specs import GPT, LLAMA

from lmexp.model import attention
from lmexp.model.band import attend_in_blocks

# A logit is a sum of a few hundred float32 terms of order 1: rounding 6e-8 each, amplified by norms and layers.
FLOAT32 = 2e-4
both_families = pytest.mark.parametrize("spec", [GPT, LLAMA], ids=["gpt", "llama"])


def loss_of(model, tokens, targets):
    logits = model(tokens).astype(mx.float32)
    return nn.losses.cross_entropy(logits, targets, reduction="mean")


@pytest.mark.parametrize("spec", EVERY_CHOICE, ids=name_of)
def test_logits_are_those_of_an_independent_float64_model(spec):
    model, tokens = make_model(spec), some_tokens()
    logits = np.array(model(mx.array(tokens)))
    expected = logits_of(parameters_of(model), spec, tokens)
    assert logits.shape == (BATCH, TIME, PADDED)
    np.testing.assert_allclose(logits[..., :VOCAB], expected[..., :VOCAB], atol=FLOAT32, rtol=FLOAT32)


@pytest.mark.parametrize("name", ATTENTION_CHOICES)
def test_each_choice_of_attention_and_norms_is_that_of_the_float64_model(name):
    spec, tokens = ATTENTION_CHOICES[name], some_tokens()
    model = make_model(spec)
    expected = logits_of(parameters_of(model), spec, tokens)
    np.testing.assert_allclose(model(mx.array(tokens))[..., :VOCAB], expected[..., :VOCAB], atol=FLOAT32, rtol=FLOAT32)


@pytest.mark.parametrize("spec", [*EVERY_CHOICE[::5], GPT, LLAMA], ids=name_of)
def test_gradient_is_the_finite_difference_of_the_float64_model(spec):
    """One random direction per parameter, so that a parameter without its gradient cannot hide behind the others.

    Central differences in float64 are exact to about 1e-8; what remains is the float32 gradient's own rounding.
    """
    model, tokens, targets = make_model(spec), some_tokens(0, 4, 2), some_tokens(1, 4, 2)
    gradients = nn.value_and_grad(model, loss_of)(model, mx.array(tokens), mx.array(targets))[1]
    parameters, generator = parameters_of(model), np.random.default_rng(2)
    for path, gradient in tree_flatten(gradients):
        direction = generator.normal(size=gradient.shape)
        loss = {}
        for sign in (-1, 1):
            moved = parameters | {path: parameters[path] + sign * 1e-5 * direction}
            loss[sign] = mean_loss(logits_of(moved, spec, tokens), targets)
        slope = (loss[1] - loss[-1]) / 2e-5
        scale = float(np.linalg.norm(np.array(gradient))) + 1e-3
        assert abs(np.sum(np.array(gradient) * direction) - slope) < 1e-3 * scale, path


@pytest.mark.parametrize("spec", [*POSITIONS_AND_HEADS, LLAMA], ids=name_of)
def test_the_future_cannot_change_the_past(spec):
    model, tokens = make_model(spec), some_tokens()
    before = np.array(model(mx.array(tokens)))
    for t in range(1, TIME):
        changed = tokens.copy()
        changed[:, t:] = (changed[:, t:] + 1) % VOCAB
        after = np.array(model(mx.array(changed)))
        # The same kernels on the same shapes: masked scores weigh exactly 0, so the past is equal to the last bit.
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert np.abs(after[:, t] - before[:, t]).max(axis=-1).min() > 0.01


@pytest.mark.parametrize("spec", POSITIONS_AND_HEADS, ids=name_of)
def test_positions_tell_order_apart(spec):
    """Swapping two tokens of the past changes the prediction; without positions attention could not see it."""
    model = make_model(replace(spec, n_layers=1))
    tokens = np.array([[3, 8, 5, 11]], dtype=np.int32)
    swapped = np.array([[8, 3, 5, 11]], dtype=np.int32)
    last, last_swapped = (np.array(model(mx.array(t)))[0, -1, :VOCAB] for t in (tokens, swapped))
    assert np.abs(last - last_swapped).max() > 1e-3  # five times the rounding above


@pytest.mark.parametrize("position", ["rope", "alibi", "learned"])
def test_a_window_forgets_what_lies_behind_it(position):
    """One layer sees ``window`` tokens, its own included; the second layer sees through the first as far again."""
    tokens = some_tokens()
    changed = tokens.copy()
    changed[:, 0] = (changed[:, 0] + 1) % VOCAB
    for n_layers, reach in ((1, 3), (2, 5)):
        model = make_model(replace(LLAMA, layers=["local"], window=3, n_layers=n_layers, position=position))
        moved = np.abs(np.array(model(mx.array(changed)) - model(mx.array(tokens)))).max(axis=-1)
        assert (moved[:, :reach] > 1e-4).all()
        assert (moved[:, reach:] == 0).all()  # what is masked weighs exactly nothing


@pytest.mark.parametrize("time", [17, 18, 19, 20])
@pytest.mark.parametrize("change", [{}, {"position": "alibi"}, {"attention_softcap": 2.0, "n_kv_heads": 1}], ids=str)
def test_long_texts_are_read_in_blocks_and_nothing_changes(change, time, monkeypatch):
    """Also when the last block is not full; short ones gain nothing and are not cut."""
    model = make_model(replace(LLAMA, layers=["local"], window=4, **change), context=time)
    cut = []
    monkeypatch.setattr(attention, "attend_in_blocks", lambda *args: cut.append(1) or attend_in_blocks(*args))
    tokens = mx.array(some_tokens(0, time))
    in_blocks, gradient = nn.value_and_grad(model, loss_of)(model, tokens, tokens)
    assert len(cut) == LLAMA.n_layers
    model(tokens[:, :8])
    assert len(cut) == LLAMA.n_layers
    monkeypatch.setattr(attention, "attend_in_blocks", lambda attend, *heads: attend(*heads[:3], 0))
    at_once, same_gradient = nn.value_and_grad(model, loss_of)(model, tokens, tokens)
    assert in_blocks.item() == pytest.approx(at_once.item(), rel=1e-6)
    for (path, one), (_, other) in zip(tree_flatten(gradient), tree_flatten(same_gradient), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-3, err_msg=path)


def test_operations_count_what_is_seen():
    """Scores and mixing take 4 x width for each token seen; a window beyond the context sees the context."""
    full, local = make_model(LLAMA).layers[0].mixer, make_model(replace(LLAMA, layers=["local"], window=4))
    per_token = 4 * LLAMA.n_heads * LLAMA.head_dim
    for context, seen in ((3, 3), (4, 4), (100, 4)):
        saved = full.forward_flops(context) - local.layers[0].mixer.forward_flops(context)
        assert saved == per_token * (context - seen)


@pytest.mark.parametrize("position", ["sinusoidal", "learned", "rope"])
def test_grouped_heads_equal_full_heads_with_repeated_weights(position):
    grouped_spec = replace(GPT, n_kv_heads=3, position=position)
    grouped, full = make_model(grouped_spec), make_model(replace(grouped_spec, n_kv_heads=None))
    weights = dict(tree_flatten(grouped.parameters()))
    for path in weights:
        if ".key." in path or ".value." in path:
            per_head = weights[path].reshape(3, GPT.head_dim, *weights[path].shape[1:])
            weights[path] = mx.repeat(per_head, 2, axis=0).flatten(0, 1)
    full.load_weights(list(weights.items()))
    tokens = mx.array(some_tokens())
    np.testing.assert_allclose(full(tokens)[..., :VOCAB], grouped(tokens)[..., :VOCAB], atol=FLOAT32)


@pytest.mark.parametrize("cap", [None, 5.0])
@both_families
def test_padding_is_masked_in_every_dtype(spec, cap):
    spec = replace(spec, logit_softcap=cap)
    for dtype in (mx.float32, mx.bfloat16):
        model = make_model(spec)
        model.set_dtype(dtype)
        logits = model(mx.array(some_tokens())).astype(mx.float32)
        assert mx.all(mx.isfinite(logits))
        assert mx.max(logits[..., VOCAB:]).item() < -9e8
        assert mx.max(mx.softmax(logits, axis=-1)[..., VOCAB:]).item() == 0


@both_families
def test_padding_changes_no_loss_and_gets_no_gradient(spec):
    padded, exact = make_model(spec), make_model(spec, padded=VOCAB)
    weights = dict(tree_flatten(padded.parameters()))
    weights["embedding.weight"] = weights["embedding.weight"][:VOCAB]
    exact.load_weights(list(weights.items()))
    tokens, targets = mx.array(some_tokens(0)), mx.array(some_tokens(1))
    loss, gradients = nn.value_and_grad(padded, loss_of)(padded, tokens, targets)
    # The same sum with exact zeros added, though a product of another shape may add up in another order.
    assert loss.item() == pytest.approx(loss_of(exact, tokens, targets).item(), rel=1e-6)
    assert mx.all(gradients["embedding"]["weight"][VOCAB:] == 0)
    assert mx.any(gradients["embedding"]["weight"][:VOCAB] != 0)


@pytest.mark.parametrize("spec", [*EVERY_CHOICE[::7], GPT, LLAMA], ids=name_of)
def test_bfloat16_parameters_compute_in_bfloat16(spec):
    model, tokens, targets = make_model(spec), mx.array(some_tokens(0)), mx.array(some_tokens(1))
    loss = loss_of(model, tokens, targets).item()
    model.set_dtype(mx.bfloat16)
    caches = model.make_caches()
    assert model(tokens).dtype == mx.bfloat16
    assert model(tokens, caches).dtype == mx.bfloat16
    assert all(array.dtype == mx.bfloat16 for cache in caches for array in cache.arrays())
    rounded, gradients = nn.value_and_grad(model, loss_of)(model, tokens, targets)
    assert all(gradient.dtype == mx.bfloat16 for _, gradient in tree_flatten(gradients))
    # Logits of order 1 to 3 carry 8 bits (0.004 relative) through some ten roundings: 0.03 each; the loss is a mean.
    assert rounded.item() == pytest.approx(loss, abs=0.03)


@both_families
def test_bfloat16_sums_over_a_long_text_stay_exact(spec):
    """600 equal scores: a softmax that adds in bfloat16 stops at 256 and more than doubles every weight."""
    model = make_model(replace(spec, n_layers=1), context=600)
    model.layers[0].mixer.query = tree_zero(model.layers[0].mixer.query)
    tokens = mx.array(some_tokens(0, 600))
    expected = np.array(model(tokens))[..., :VOCAB]
    model.set_dtype(mx.bfloat16)
    logits = np.array(model(tokens).astype(mx.float32))[..., :VOCAB]
    # Eight bits on logits of order 1; a doubled attention would move them by order 1.
    assert np.abs(logits - expected).mean() < 0.03
    assert np.abs(logits - expected).max() < 0.3


def tree_zero(module):
    module.update(tree_map(mx.zeros_like, module.parameters()))
    return module


def test_bfloat16_embedding_gradient_adds_up_every_use():
    """One token 1,000 times over: a bfloat16 running sum of equal terms stops growing at 256 of them."""
    model = make_model(replace(GPT, tie_embeddings=False, n_layers=1, position="rope"), context=1000)
    tokens = mx.full((1, 1000), 4, dtype=mx.int32)
    gradient_of = nn.value_and_grad(model, loss_of)
    expected = np.array(gradient_of(model, tokens, tokens)[1]["embedding"]["weight"][4])
    model.set_dtype(mx.bfloat16)
    gradient = np.array(gradient_of(model, tokens, tokens)[1]["embedding"]["weight"][4].astype(mx.float32))
    # Every term carries the same relative error of a few bfloat16 roundings (0.004 each).
    assert np.linalg.norm(gradient - expected) < 0.05 * np.linalg.norm(expected)


def test_more_tokens_than_the_context_are_refused():
    model = make_model(GPT)
    with pytest.raises(ValueError, match=f"{CONTEXT + 1} tokens after 0 exceed a context of {CONTEXT}"):
        model(mx.array(some_tokens(0, CONTEXT + 1)))
