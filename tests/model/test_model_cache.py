"""Decoding with caches gives what the full forward gives, however the text is cut."""

import mlx.core as mx
import numpy as np
import pytest
from numpy_model import BATCH, CONTEXT, POSITIONS_AND_HEADS, VOCAB, make_model, name_of, some_tokens
from tiny_specs import GPT, LLAMA

from lmexp.model.cache import RowsCache

# Products of other shapes add up in another order: a few hundred float32 roundings of terms of order 1.
FLOAT32 = 2e-4
CUTS = {"token by token": [1] * CONTEXT, "prefill, then tokens": [5, 1, 1, 1, 1, 1, 1], "chunks": [4, 3, 2, 2]}


@pytest.mark.parametrize("spec", [*POSITIONS_AND_HEADS, LLAMA], ids=name_of)
@pytest.mark.parametrize("lengths", CUTS.values(), ids=CUTS)
def test_cached_equals_full_forward_at_every_position(spec, lengths):
    model, tokens = make_model(spec), mx.array(some_tokens(0, CONTEXT))
    caches, parts, start = model.make_caches(), [], 0
    for length in lengths:
        parts.append(model(tokens[:, start : start + length], caches))
        start += length
    assert start == CONTEXT
    cached = mx.concatenate(parts, axis=1)
    np.testing.assert_allclose(cached[..., :VOCAB], model(tokens)[..., :VOCAB], atol=FLOAT32, rtol=FLOAT32)


def test_caches_hold_key_value_heads_only():
    """GQA's saving is real: the arrays have kv_heads, not n_heads."""
    model = make_model(LLAMA)
    caches = model.make_caches()
    assert len(caches) == LLAMA.n_layers
    assert caches[0].arrays() == []
    model(mx.array(some_tokens()), caches)
    for cache in caches:
        assert [array.shape for array in cache.arrays()] == [(BATCH, 3, CONTEXT, 4)] * 2


def test_an_overfull_cache_is_refused():
    model, tokens = make_model(GPT), mx.array(some_tokens())
    caches = model.make_caches()
    model(tokens, caches)
    with pytest.raises(ValueError, match="7 tokens after 7 exceed a context of 11"):
        model(tokens, caches)
    cache, rows = RowsCache(3), mx.zeros((1, 1, 2, 4))
    cache.update(rows, rows)
    with pytest.raises(ValueError, match="2 tokens after 2 overflow a cache of 3"):
        cache.update(rows, rows)


def test_a_wrong_number_of_caches_is_refused():
    model = make_model(GPT)
    with pytest.raises(ValueError, match="shorter"):
        model(mx.array(some_tokens()), model.make_caches()[:1])


def test_padding_that_all_rows_share_goes_with_the_longest_row():
    """What stays has the room that it would have alone."""
    generator = np.random.default_rng(0)
    texts = [mx.array(generator.normal(size=(1, 2, length, 4)).astype(np.float32)) for length in (5, 3, 2)]
    caches = [RowsCache(6) for _ in texts]
    for cache, text in zip(caches, texts, strict=True):
        cache.update(text)
    merged = RowsCache.merge(caches)
    assert merged.position.tolist() == [5, 3, 2]
    merged.take(mx.array([2, 1], dtype=mx.int32))
    assert (merged.length, merged.padding.tolist(), merged.position.tolist()) == (3, [1, 0], [2, 3])
    merged.take(mx.array([0], dtype=mx.int32))
    assert (merged.position, merged.padding) == (2, None)
    more = mx.ones((1, 2, 4, 4))
    np.testing.assert_array_equal(merged.update(more)[0], mx.concatenate([texts[2], more], axis=2))
