"""Multi-head latent attention: against a plain reference, in both its forms, and what its cache really holds."""

import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from tiny_specs import LLAMA

from lmexp.errors import UserError
from lmexp.model.attention import Attention
from lmexp.model.latent import LatentAttention
from lmexp.model.parts import LatentSpec

BATCH, TIME = 5, 7
FLOAT32 = 2e-5  # some hundred float32 roundings of terms of order 1
PLAIN = replace(LLAMA, layers=["mla"])  # 6 heads of width 4, latent 10, rotated 6
SPECS = {
    "plain": PLAIN,
    "query latent": replace(PLAIN, mla=LatentSpec(kv_rank=10, query_rank=9, rope_width=6, value_width=None)),
    "wide values": replace(PLAIN, mla=LatentSpec(kv_rank=10, query_rank=9, rope_width=6, value_width=11)),
    "tiny latent": replace(PLAIN, mla=LatentSpec(kv_rank=3, query_rank=None, rope_width=2, value_width=5)),
    "own scale": replace(PLAIN, attention_scale=0.7),
    "bias": replace(PLAIN, bias=True),
}
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def make_layer(spec, seed=0):
    """Return a layer whose every parameter matters: biases are not 0, gains not 1."""
    layer, generator = LatentAttention(spec), np.random.default_rng(seed)
    layer.update(
        tree_map(lambda array: mx.array(generator.normal(0.2, 0.4, array.shape).astype(np.float32)), layer.parameters())
    )
    return layer


def some_input(spec, time=TIME, batch=BATCH):
    return mx.array(np.random.default_rng(1).normal(0, 1, (batch, time, spec.d_model)).astype(np.float32))


@every_spec
def test_it_is_what_the_plain_reference_says(spec):
    layer, x = make_layer(spec), some_input(spec)
    expected = np.stack([reference(layer, spec, np.array(text, dtype=np.float64)) for text in x])
    np.testing.assert_allclose(layer(x, None), expected, atol=FLOAT32, rtol=FLOAT32)


@every_spec
def test_both_forms_agree_for_prefill_chunks_and_single_tokens(spec, monkeypatch):
    layer, x = make_layer(spec), some_input(spec)
    whole = layer(x, None)
    for absorbs in (True, False):
        monkeypatch.setattr(LatentAttention, "_absorbing_is_cheaper", lambda *_, answer=absorbs: answer)
        cache = layer.make_cache(TIME)
        parts = [layer(x[:, start:end], cache) for start, end in ((0, 4), (4, 6), (6, 7))]
        np.testing.assert_allclose(mx.concatenate(parts, axis=1), whole, atol=FLOAT32, rtol=FLOAT32)


@pytest.mark.parametrize("n_new", [1, 3])
@pytest.mark.parametrize("absorbs", [True, False])
def test_rows_of_different_lengths_are_each_what_they_are_alone(absorbs, n_new, monkeypatch):
    monkeypatch.setattr(LatentAttention, "_absorbing_is_cheaper", lambda *_: absorbs)
    spec = SPECS["wide values"]
    layer, x = make_layer(spec), some_input(spec, batch=2)
    caches = [layer.make_cache(TIME) for _ in range(2)]
    for row, length in enumerate((4, 2)):
        layer(x[row : row + 1, :length], caches[row])
    merged = type(caches[0]).merge(caches)
    new = mx.stack([x[0, 4 : 4 + n_new], x[1, 2 : 2 + n_new]])
    together, alone = layer(new, merged), layer(x, None)
    np.testing.assert_allclose(together[0], alone[0, 4 : 4 + n_new], atol=FLOAT32, rtol=FLOAT32)
    np.testing.assert_allclose(together[1], alone[1, 2 : 2 + n_new], atol=FLOAT32, rtol=FLOAT32)


def test_decoding_absorbs_and_a_long_prefill_expands():
    layer = make_layer(PLAIN)
    assert layer._absorbing_is_cheaper(n_new=1, n_all=100)
    assert layer._absorbing_is_cheaper(n_new=2, n_all=100)
    assert not layer._absorbing_is_cheaper(n_new=100, n_all=100)


def test_decoding_makes_nothing_as_wide_as_the_heads_for_cached_tokens():
    """Counted in the graph: no array of a decoding step has n_heads x head_dim numbers for each cached token."""
    spec, n_cached = SPECS["wide values"], 64
    layer, cache = make_layer(spec), make_layer(spec).make_cache(n_cached + 1)
    layer(some_input(spec, n_cached, batch=1), cache)
    mx.eval(cache.arrays())
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(layer(some_input(spec, 1, batch=1), cache))
    spent = mx.get_peak_memory() - before
    assert spent < 4 * n_cached * spec.n_heads * spec.head_dim


@every_spec
def test_the_cache_holds_a_latent_and_one_rotated_key_per_token(spec):
    layer, cache = make_layer(spec), make_layer(spec).make_cache(TIME)
    layer(some_input(spec), cache)
    width = spec.mla.kv_rank + spec.mla.rope_width
    assert [array.shape for array in cache.arrays()] == [(BATCH, 1, TIME, width)]
    assert "cache" not in dict(tree_flatten(layer.parameters()))


def test_deepseek_v2_caches_57_times_fewer_values_than_multi_head_attention():
    """128 heads of width 128: 32,768 values against 576, counted in the arrays that real caches hold."""
    deepseek = replace(
        PLAIN,
        d_model=5120,
        n_heads=128,
        n_kv_heads=None,
        head_width=128,
        mla=LatentSpec(kv_rank=512, query_rank=1536, rope_width=64, value_width=128),
    )
    values = {}
    for mixer in (LatentAttention, Attention):
        layer = mixer(deepseek)
        zeros = tree_map(lambda array: mx.broadcast_to(mx.zeros((), mx.bfloat16), array.shape), layer.parameters())
        layer.update(zeros)  # of a gigabyte of weights not one is needed to see what is kept
        cache = layer.make_cache(3)
        layer(mx.zeros((1, 3, 5120), mx.bfloat16), cache)
        values[mixer] = sum(array.size for array in cache.arrays()) / 3
    assert (values[Attention], values[LatentAttention]) == (32_768, 576)
    assert values[Attention] / values[LatentAttention] == pytest.approx(56.9, abs=0.05)


def test_operations_are_counted_from_the_sizes():
    spec = SPECS["wide values"]
    matrices = 24 * 9 + 9 * 6 * (4 + 6) + 24 * (10 + 6) + 10 * 6 * 4 + 10 * 6 * 11 + 6 * 11 * 24
    scores_and_mixing = 100 * 6 * ((4 + 6) + 11)
    assert LatentAttention(spec).forward_flops(100) == 2 * (matrices + scores_and_mixing)


@pytest.mark.parametrize(
    "change", [{"qk_norm": True}, {"attention_gate": True}, {"attention_softcap": 50.0}, {"position": "alibi"}]
)
def test_what_latent_attention_does_not_read_is_refused(change):
    with pytest.raises(UserError, match="mla"):
        replace(PLAIN, **change)


def reference(layer, spec, x):
    """Compute one text (time, d_model) in float64, head by head and token by token, by DeepSeek-V2's formulas."""
    weights = {path: np.array(array, dtype=np.float64) for path, array in tree_flatten(layer.parameters())}
    rank, rope, head = spec.mla.kv_rank, spec.mla.rope_width, spec.head_dim
    value = head if spec.mla.value_width is None else spec.mla.value_width
    scale = spec.attention_scale or 1 / math.sqrt(head + rope)

    def linear(name, vector):
        return weights[f"{name}.weight"] @ vector + weights.get(f"{name}.bias", 0.0)

    def norm(name, vector):
        return vector / math.sqrt(np.mean(vector**2) + spec.norm_epsilon) * weights[f"{name}.weight"]

    def turned(vector, position):
        half = rope // 2
        result = np.empty(rope)
        for i in range(half):
            angle = position * spec.rope.base ** (-2 * i / rope)
            a, b = vector[i], vector[i + half]
            result[i] = a * math.cos(angle) - b * math.sin(angle)
            result[i + half] = a * math.sin(angle) + b * math.cos(angle)
        return result

    def query(vector):
        if spec.mla.query_rank is None:
            return linear("query", vector)
        return linear("query_up", norm("query_norm", linear("query_down", vector)))

    downs = [linear("latent_down", vector) for vector in x]
    latents = [norm("latent_norm", down[:rank]) for down in downs]
    shared = [turned(down[rank:], place) for place, down in enumerate(downs)]
    outputs = []
    for place, vector in enumerate(x):
        mixed = []
        for h in range(spec.n_heads):
            mine = query(vector)[h * (head + rope) : (h + 1) * (head + rope)]
            keys = [linear("key_up", latent)[h * head : (h + 1) * head] for latent in latents[: place + 1]]
            values = [linear("value_up", latent)[h * value : (h + 1) * value] for latent in latents[: place + 1]]
            scores = np.array(
                [mine[:head] @ keys[j] + turned(mine[head:], place) @ shared[j] for j in range(place + 1)]
            )
            shares = np.exp(scale * scores - (scale * scores).max())
            mixed.append((shares / shares.sum()) @ np.array(values))
        outputs.append(linear("output", np.concatenate(mixed)))
    return np.array(outputs)
