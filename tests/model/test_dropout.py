"""Laws of dropout: what is zeroed follows from the keys, of each example by itself, at every place and nowhere else."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from numpy_model import BATCH, PADDED, TIME, make_model, some_tokens
from tiny_specs import GPT, LLAMA

from lmexp.model.dropout import dropout_keys, dropped, random_bits
from lmexp.train.objective import next_token_loss

SHARE = 0.3


def hidden(model, tokens, keys):
    return model.hidden_and_loads(tokens, keys=keys)[0]


def test_without_keys_nothing_is_dropped_in_either_mode():
    model, tokens = make_model(replace(GPT, dropout=SHARE)), mx.array(some_tokens())
    without = make_model(GPT)(tokens)
    for training in (True, False):
        model.train(training)
        assert mx.array_equal(model(tokens), without)
    assert mx.array_equal(dropped(mx.ones((2, 3, 4)), 0.0, mx.zeros((2, 2), dtype=mx.uint32)), mx.ones((2, 3, 4)))


def test_dropout_acts_after_the_embedding_and_on_both_branches():
    """With dropout near 1 every branch is silent: the logits are those of a zero residual stream."""
    model = make_model(replace(GPT, dropout=1 - 1e-7, position="rope"))
    silent = model.logits(model.final_norm(mx.zeros((1, 1, GPT.d_model))))
    found = model.logits(hidden(model, mx.array(some_tokens()), dropout_keys(0, BATCH, model.n_dropouts)))
    np.testing.assert_allclose(found, mx.broadcast_to(silent, (BATCH, TIME, PADDED)), atol=1e-6)


def test_values_are_zero_or_grown_in_the_shares_that_were_asked_for():
    """A share of 50,000 draws, and their mean, lie within five standard errors of what they should be."""
    x = mx.random.uniform(1.0, 2.0, (5, 100, 100), key=mx.random.key(0))
    found = np.array(dropped(x, SHARE, dropout_keys(1, 5, 1)[:, 0]))
    is_kept = found != 0
    np.testing.assert_allclose(found[is_kept], np.array(x)[is_kept] / (1 - SHARE), rtol=1e-6)
    standard_error = np.sqrt(SHARE * (1 - SHARE) / found.size)
    assert abs(is_kept.mean() - (1 - SHARE)) < 5 * standard_error
    masks = is_kept.reshape(5, -1).astype(float)
    together = np.corrcoef(masks)[np.triu_indices(5, 1)]  # of two examples: none, by chance up to 5 / sqrt(10,000)
    assert np.abs(together).max() < 0.05


def hashed(first: int, second: int, index: int) -> int:
    """The hash in Python's whole numbers, cut to 32 bits after each product."""
    x = index * 0x9E3779B9 % 2**32 ^ first
    x = (x ^ x >> 16) * 0x85EBCA6B % 2**32 ^ second
    return (x ^ x >> 13) * 0xC2B2AE35 % 2**32


@pytest.mark.parametrize("wrap", [lambda function: function, mx.compile], ids=["plain", "compiled"])
def test_random_bits_are_a_hash_of_key_and_index(wrap):
    keys = dropout_keys(3, 2, 1)[:, 0]
    expected = [[hashed(*key, index) for index in range(5)] for key in keys.tolist()]
    assert wrap(lambda keys: random_bits(keys, 5))(keys).tolist() == expected


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_masks_are_independent_of_their_neighbours(share):
    """Correlations over all keys are sums of 2.6 million, and those of each key scatter as chance has them scatter."""
    width, rows, n_keys = 64, 256, 160
    is_kept = random_bits(dropout_keys(2, n_keys, 1)[:, 0], rows * width) >= mx.array(round(share * 2**32), mx.uint32)
    scores = (np.array(is_kept) - (1 - share)) / np.sqrt(share * (1 - share))
    for lag in (1, 2, width - 1, width, 2 * width, 64 * width):
        of_each_key = (scores[:, lag:] * scores[:, :-lag]).sum(axis=1) / np.sqrt(rows * width - lag)
        assert abs(of_each_key.sum()) < 5 * np.sqrt(n_keys)  # of standard normal numbers, nearly: five standard errors
        assert abs(of_each_key.var() - 1) < 5 * np.sqrt(2 / n_keys)
    assert abs(scores.mean(axis=1).var() * rows * width - 1) < 5 * np.sqrt(2 / n_keys)


def test_in_bfloat16_values_stay_bfloat16():
    """And what is kept grows by 1/0.9, not by that number rounded to bfloat16, which is smaller by 1.6 thousandths."""
    x = mx.random.uniform(1.0, 2.0, (5, 100, 100), key=mx.random.key(0)).astype(mx.bfloat16)
    y = dropped(x, 0.1, dropout_keys(1, 5, 1)[:, 0])
    assert y.dtype == mx.bfloat16
    before, after = (np.array(array.astype(mx.float32)) for array in (x, y))
    # 45,000 roundings of at most two thousandths each, one way or the other: 1e-5 of their sum, and five times that.
    assert after.sum() / before[after != 0].sum() == pytest.approx(1 / 0.9, rel=5e-5)


def test_a_share_of_nearly_one_drops_everything():
    """Such a share is 2**32 once it is rounded, which as uint32 would be 0."""
    assert not dropped(mx.ones((2, 3, 4)), 1 - 1e-12, dropout_keys(1, 2, 1)[:, 0]).any()


def test_an_example_s_masks_depend_on_its_own_keys():
    model, tokens = make_model(replace(LLAMA, dropout=SHARE)), mx.array(some_tokens())
    keys = dropout_keys(4, BATCH, model.n_dropouts)
    whole = hidden(model, tokens, keys)
    # Float32 products of fewer rows may add up in another order.
    np.testing.assert_allclose(hidden(model, tokens[1:], keys[1:]), whole[1:], rtol=1e-5, atol=1e-5)
    assert mx.array_equal(hidden(model, tokens, keys), whole)
    assert not mx.allclose(hidden(model, tokens, dropout_keys(5, BATCH, model.n_dropouts)), whole)


@pytest.mark.parametrize("spec", [GPT, replace(LLAMA, future_tokens=2)], ids=["gpt", "future"])
def test_every_place_has_keys_of_its_own_and_reads_them(spec):
    model, tokens = make_model(replace(spec, dropout=SHARE)), mx.array(some_tokens())
    keys = np.array(dropout_keys(4, BATCH, model.n_dropouts))
    assert len(np.unique(keys.reshape(-1, 2), axis=0)) == BATCH * model.n_dropouts
    losses = [next_token_loss(model, tokens, tokens, mx.array(keys))[0].item()]
    for place in range(model.n_dropouts):
        other = keys.copy()
        other[:, place] += 1
        losses.append(next_token_loss(model, tokens, tokens, mx.array(other))[0].item())
    assert len(set(losses)) == 1 + model.n_dropouts
