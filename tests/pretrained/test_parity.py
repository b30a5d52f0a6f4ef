"""Every published family gives the logits of an independent implementation, at once and token by token."""

import mlx.core as mx
import numpy as np
import published
import pytest

import lmexp
from lmexp.model.count import named_parameters
from lmexp.model.language_model import LanguageModel

# float32 products of a few dozen terms in another order: errors near 1e-6 of logits that reach 10 and more.
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=published.FAMILIES)
def twins(request, tmp_path_factory):
    """Return (our model, transformers' logits, tokens) of one family."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    theirs = published.build(request.param)
    folder = published.save(theirs, tmp_path_factory.mktemp(request.param))
    tokens = published.tokens()
    return lmexp.load_pretrained(folder).model, published.logits(theirs, tokens), mx.array(tokens, dtype=mx.int32)


def test_the_logits_are_theirs(twins):
    ours, expected, tokens = twins
    assert 1 < np.abs(expected).mean() < 10, "too small a model's error would pass for agreement"
    assert np.abs(np.array(ours(tokens)) - expected).max() < TOLERANCE


@pytest.mark.parametrize("chunk", [1, 3])
def test_decoding_from_caches_gives_their_logits(twins, chunk):
    ours, expected, tokens = twins
    caches = ours.make_caches()
    parts = [ours(tokens[:, start : start + chunk], caches) for start in range(0, published.TIME, chunk)]
    assert np.abs(np.array(mx.concatenate(parts, axis=1)) - expected).max() < TOLERANCE


def test_every_array_reaches_the_logits(twins):
    """Otherwise one that was read wrongly would pass. A key's bias alone adds the same to all scores of a query."""
    ours, _, tokens = twins
    base = np.array(ours(tokens))
    for path, array in named_parameters(ours):
        noise = 0.3 * mx.random.normal(array.shape, key=mx.random.key(1))
        ours.load_weights([(path, array + noise)], strict=False)
        change = np.abs(np.array(ours(tokens)) - base).max()
        ours.load_weights([(path, array)], strict=False)
        assert (change > 100 * TOLERANCE) != path.endswith("key.bias"), path


def test_in_bfloat16_it_computes_in_bfloat16(twins):
    """Half of the logits within 0.1: three digits through a few layers; a token sent to another expert is far off."""
    ours, expected, tokens = twins
    rounded = LanguageModel(ours.spec, ours.vocab_size, ours.padded_vocab_size, ours.context_length)
    rounded.load_weights([(path, array.astype(mx.bfloat16)) for path, array in named_parameters(ours)])
    logits = rounded(tokens)
    assert logits.dtype == mx.bfloat16
    assert np.median(np.abs(np.array(logits.astype(mx.float32)) - expected)) < 0.1
