"""Decoding with caches gives what the full forward gives, however the text is cut."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from numpy_model import BATCH, CONTEXT, POSITIONS_AND_HEADS, VOCAB, make_model, name_of, some_tokens
from tiny_specs import GPT, LLAMA

from lmexp.model.attention import attend_from_one_token
from lmexp.model.cache import RecurrentCache, RowsCache, WindowCache

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


def window_model(n_tokens):
    """Two layers, the first of which sees 6 tokens: 6 - 1 + 16 + 64 rows at most, whatever the context."""
    return make_model(replace(LLAMA, layers=["local", "gqa"], window=6), context=n_tokens)


@pytest.mark.parametrize("lengths", [[1] * 300, [90, 1, 1, 200, 8], [300], [84, 2, 100, 114], [37] * 8])
def test_a_window_is_all_that_a_local_layer_stores(lengths):
    """Far beyond the room there is, from chunks shorter and longer than it."""
    n_tokens = sum(lengths)
    model, tokens = window_model(n_tokens), mx.array(some_tokens(0, n_tokens, batch=2))
    caches, parts, start = model.make_caches(), [], 0
    for length in lengths:
        parts.append(model(tokens[:, start : start + length], caches))
        start += length
        stored = [[array.shape for array in cache.arrays()] for cache in caches]
        assert stored == [[(2, 3, 85, 4)] * 2, [(2, 3, n_tokens, 4)] * 2]
    cached, full = mx.concatenate(parts, axis=1), model(tokens)
    np.testing.assert_allclose(cached[..., :VOCAB], full[..., :VOCAB], atol=FLOAT32, rtol=FLOAT32)


def test_a_window_longer_than_the_context_takes_no_more_room_than_that():
    cache = WindowCache(capacity=9, window=50)
    cache.update(mx.zeros((1, 1, 3, 4)))
    assert cache.arrays()[0].shape == (1, 1, 9, 4)
    with pytest.raises(ValueError, match="7 tokens after 3 overflow a cache of 9"):
        cache.update(mx.zeros((1, 1, 7, 4)))


def test_a_window_lets_a_draft_be_forgotten_at_any_time():
    """As many as ``spare``, after however many tokens, be they read in a chunk or one by one; a draft of 85 not."""
    for one_by_one in (False, True):
        cache, n_read = WindowCache(capacity=1000, window=6), 0
        for chunk in [3, *[1] * 170, 90, 5]:
            cache.update(mx.zeros((1, 1, chunk, 4)))
            n_read += chunk
            for draft in [1] * 16 if one_by_one else [16]:
                cache.update(mx.zeros((1, 1, draft, 4)))
            assert cache.can_rewind(16)
            cache.rewind(16)
            assert cache.position == n_read
    assert not cache.can_rewind(80)


def test_merged_windows_go_back_no_farther_than_the_row_that_holds_least():
    long, short = WindowCache(capacity=1000, window=6), WindowCache(capacity=1000, window=6)
    long.update(mx.zeros((1, 1, 300, 4)))  # which keeps 21 rows
    short.update(mx.zeros((1, 1, 60, 4)))
    assert (long.can_rewind(16), long.can_rewind(17), short.can_rewind(60)) == (True, False, True)
    merged = WindowCache.merge([short, long])
    assert (merged.can_rewind(16), merged.can_rewind(17)) == (True, False)
    assert merged.position.tolist() == [60, 300]
    merged.take(mx.array([0]))
    assert merged.position == 60


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


@pytest.mark.parametrize(("spare", "slack"), [(1, 1), (0, 2)])
@pytest.mark.parametrize("n_short", [1, 4, 9])
@pytest.mark.parametrize("n_long", [5, 13])
def test_a_window_goes_on_alone_after_a_longer_text_has_left(monkeypatch, n_long, n_short, spare, slack):
    """The padding that goes may be stored, dropped long ago, or some of each; the short text then fills its room."""
    monkeypatch.setattr(WindowCache, "spare", spare)
    monkeypatch.setattr(WindowCache, "slack", slack)
    capacity, window, generator = 15, 3, np.random.default_rng(n_long)
    text, longer = (mx.array(generator.normal(size=(1, 1, capacity, 2)).astype(np.float32)) for _ in range(2))
    caches = [WindowCache(capacity, window) for _ in range(2)]
    caches[0].update(text[..., :n_short, :])
    caches[1].update(longer[..., :n_long, :])
    merged = WindowCache.merge(caches)
    merged.take(mx.array([0], dtype=mx.int32))
    assert merged.position == n_short
    for end in range(n_short + 1, capacity + 1):
        [rows] = merged.update(text[..., end - 1 : end, :])
        np.testing.assert_array_equal(rows, text[..., max(0, end - window) : end, :])


@pytest.mark.parametrize("n_skipped", [2, 40])
def test_after_a_skip_a_window_is_as_long_as_ever(n_skipped):
    cache = WindowCache(capacity=100, window=6)
    cache.update(mx.zeros((1, 1, 1, 4)))
    cache.skip(n_skipped)
    assert cache.position == 1 + n_skipped
    assert cache.update(mx.ones((1, 1, 1, 4)))[0].shape[2] == min(6, 2 + n_skipped)
    assert cache.can_rewind(1 + n_skipped) == (n_skipped == 2)  # the 40 are more than are kept


def test_a_batch_has_the_room_of_the_roomiest():
    caches = [RowsCache(4), RowsCache(9)]
    for cache in caches:
        cache.update(mx.zeros((1, 1, 3, 2)))
    merged = RowsCache.merge(caches)
    assert merged.update(mx.ones((2, 1, 6, 2)))[0].shape == (2, 1, 9, 2)


def test_memories_of_one_length_have_one_position():
    """A number and not an array: only so is a text longer than the context refused."""
    caches = [RecurrentCache() for _ in range(3)]
    for cache, n_tokens in zip(caches, (5, 5, 7), strict=True):
        cache.update(n_tokens, mx.zeros((1, 2)))
    assert RecurrentCache.merge(caches[:2]).position == 5
    assert RecurrentCache.merge(caches[1:]).position.tolist() == [5, 7]


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_attention_from_one_token_is_that_of_the_fused_kernel(kv_heads):
    """Values wider than keys, so that neither can take the other's place."""
    generator = np.random.default_rng(kv_heads)
    shapes = [(5, 6, 1, 4), (5, kv_heads, 7, 4), (5, kv_heads, 7, 3)]
    queries, keys, values = (mx.array(generator.normal(size=shape).astype(np.float32)) for shape in shapes)
    found = attend_from_one_token(queries, keys, values, 0.7)
    expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.7, mask=None)
    np.testing.assert_allclose(found, expected, atol=1e-6)  # seven float32 terms of order 1, in another order
