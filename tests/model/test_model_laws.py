"""The laws that every kind of model obeys, whatever it is made of, and every preset.

A new kind is a line in ``tiny_specs.LAWFUL``; a new preset is found, and shrunk to a tiny model of the same making.
"""

import functools
import shutil

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from numpy_model import VOCAB, make_model
from shrunk_presets import shrunk_presets
from tiny_specs import LAWFUL

from lmexp.model.cache import WindowCache

BATCH, TIME = 3, 17  # the longest window among the specs is 5: thrice as long, and no axis shares a size
CONTEXT = 19

# A logit is a sum of a few hundred float32 terms of order 1, which another cut of the text adds up in another order.
FLOAT32 = 2e-4
CUTS = {
    "token by token": [1] * TIME,
    "prefill, then tokens": [11, *[1] * (TIME - 11)],
    "one prefill": [TIME],
    "odd chunks": [3, 1, 7, 2, 4],
}


@pytest.fixture(autouse=True)
def tight_windows(monkeypatch):
    """Let the rows of a window move often: in these short texts they would never fill the room there is."""
    monkeypatch.setattr(WindowCache, "spare", 3)
    monkeypatch.setattr(WindowCache, "slack", 2)


KINDS = LAWFUL | shrunk_presets()
every_kind = pytest.mark.parametrize("name", KINDS)
# Each kernel costs a run of the C++ compiler, so these few stand for all mixers, norms and feed-forwards.
COMPILED = ("mla, latent narrower than a head", "gemma", "experts in groups, some shared", "delta among attention")


@functools.cache
def model_of(name):
    return make_model(KINDS[name], context=CONTEXT)


def tokens_of(seed, batch=BATCH, time=TIME):
    return mx.array(np.random.default_rng(seed).integers(0, VOCAB, (batch, time)).astype(np.int32))


def logits_of(model, tokens, caches=None):
    return np.array(model(tokens, caches))[..., :VOCAB]


def in_pieces(model, tokens, lengths, caches):
    """Return the logits of ``tokens``, read in pieces of these lengths."""
    ends = np.cumsum(lengths)
    pieces = [tokens[:, end - length : end] for length, end in zip(lengths, ends, strict=True)]
    return np.concatenate([logits_of(model, piece, caches) for piece in pieces], axis=1)


def token_by_token(model, tokens, caches):
    return in_pieces(model, tokens, [1] * tokens.shape[1], caches)


def read(model, tokens):
    """Return caches that have read ``tokens``, (batch, time)."""
    caches = model.make_caches()
    mx.eval(model(tokens, caches))
    return caches


def merged(caches_of_rows):
    return [type(layers[0]).merge(layers) for layers in zip(*caches_of_rows, strict=True)]


def take(caches, rows):
    for cache in caches:
        cache.take(mx.array(rows, dtype=mx.int32))


def assert_close(one, other):
    np.testing.assert_allclose(one, other, atol=FLOAT32, rtol=FLOAT32)


@every_kind
@pytest.mark.parametrize("changed", [1, 8, TIME - 2])
def test_the_future_cannot_change_the_past(name, changed):
    """Nor is the past forgotten at once: the next token's logits move too, not only the changed token's own."""
    model, tokens = model_of(name), tokens_of(0)
    other = mx.array(tokens)
    other[:, changed] = (other[:, changed] + 1) % VOCAB
    before, after = logits_of(model, tokens), logits_of(model, other)
    # The same kernels on the same shapes; where experts are chosen their groups may add up in another order.
    np.testing.assert_allclose(after[:, :changed], before[:, :changed], atol=1e-5, rtol=0)
    for t in (changed, changed + 1):
        assert np.abs(after[:, t] - before[:, t]).max(axis=-1).min() > 1e-3


@every_kind
@pytest.mark.parametrize("lengths", CUTS.values(), ids=CUTS)
def test_cached_equals_the_full_forward_at_every_position(name, lengths):
    model, tokens = model_of(name), tokens_of(0)
    assert sum(lengths) == TIME
    assert_close(in_pieces(model, tokens, lengths, model.make_caches()), logits_of(model, tokens))


@every_kind
def test_rows_do_not_know_each_other(name):
    model, tokens = model_of(name), tokens_of(0)
    together = logits_of(model, tokens)
    for row in range(BATCH):
        assert_close(logits_of(model, tokens[row : row + 1])[0], together[row])


@every_kind
def test_merged_caches_decode_each_row_as_if_alone(name):
    """Prompts shorter and longer than the window; a merged batch is merged again with one that came later."""
    model, texts = model_of(name), tokens_of(0, batch=4)
    lengths = [2, 9, 5, 12]
    caches = [read(model, texts[row : row + 1, :length]) for row, length in enumerate(lengths)]
    first = merged(caches[:3])
    following = mx.stack([texts[row, length : length + 2] for row, length in enumerate(lengths[:3])])
    token_by_token(model, following, first)
    both = merged([first, caches[3]])
    starts = [4, 11, 7, 12]
    following = mx.stack([texts[row, start : start + 5] for row, start in enumerate(starts)])
    together = token_by_token(model, following, both)
    alone = logits_of(model, texts)
    for row, start in enumerate(starts):
        assert_close(together[row], alone[row, start : start + 5])


@every_kind
def test_merged_caches_read_several_tokens_at_once(name):
    model, texts = model_of(name), tokens_of(0, batch=2)
    caches = merged([read(model, texts[:1, :3]), read(model, texts[1:, :9])])
    together = in_pieces(model, mx.stack([texts[0, 3:9], texts[1, 9:15]]), [4, 2], caches)
    alone = logits_of(model, texts)
    assert_close(together, np.stack([alone[0, 3:9], alone[1, 9:15]]))


@every_kind
@pytest.mark.parametrize(
    ("lengths", "rows"),
    [([7, 7, 7], [2, 0, 0, 1]), ([4, 9, 6], [2, 0, 0, 1]), ([10, 14, 12], [2, 0, 0])],
    ids=["one length", "different lengths", "the longest leaves"],
)
def test_rows_may_be_taken_in_any_order_and_more_than_once(name, lengths, rows):
    model, texts = model_of(name), tokens_of(0)
    caches = merged([read(model, texts[row : row + 1, :length]) for row, length in enumerate(lengths)])
    take(caches, rows)
    following = tokens_of(1, batch=len(rows), time=3)
    together = token_by_token(model, following, caches)
    for index, row in enumerate(rows):
        text = mx.concatenate([texts[row, : lengths[row]], following[index]])
        assert_close(together[index], logits_of(model, text[None])[0, lengths[row] :])


@every_kind
@pytest.mark.parametrize("n_read", [6, 12])
def test_copies_go_on_by_themselves(name, n_read):
    model, prompt = model_of(name), tokens_of(0, time=n_read)
    caches = read(model, prompt)
    twins = [cache.copy() for cache in caches]
    one, other = tokens_of(1, time=5), tokens_of(2, time=5)
    for t in range(5):  # in turn, so that a shared array would be overwritten by the other
        for text, memory in ((one, caches), (other, twins)):
            logits = logits_of(model, text[:, t : t + 1], memory)[:, 0]
            assert_close(logits, logits_of(model, mx.concatenate([prompt, text[:, : t + 1]], axis=1))[:, -1])


@every_kind
@pytest.mark.parametrize(("n_read", "n_tokens"), [(2, 2), (9, 3), (13, 1), (9, 0)])
def test_what_was_rewound_was_never_read(name, n_read, n_tokens):
    """Drafted tokens are read after a chunk and one by one, which is how a decoder drafts; both are forgotten."""
    model, texts = model_of(name), tokens_of(0)
    for one_by_one in (False, True):
        caches = read(model, texts[:, :n_read])
        drafted = tokens_of(1, time=n_tokens)
        if n_tokens:
            in_pieces(model, drafted, [1] * n_tokens if one_by_one else [n_tokens], caches)
        if not all(cache.can_rewind(n_tokens) for cache in caches):
            pytest.skip("this memory cannot go back")
        for cache in caches:
            cache.rewind(n_tokens)
        assert_close(token_by_token(model, texts[:, n_read:], caches), logits_of(model, texts)[:, n_read:])


@every_kind
def test_no_cache_goes_back_before_its_first_token(name):
    model, texts = model_of(name), tokens_of(0)
    one = read(model, texts[:, :4])
    two = merged([read(model, texts[:1, :3]), read(model, texts[1:2, :9])])
    for caches, too_many in ((one, 5), (two, 4), (one, -1)):
        for cache in caches:
            assert not cache.can_rewind(too_many)
            with pytest.raises(ValueError, match=r"\d"):
                cache.rewind(too_many)


@every_kind
def test_an_empty_cache_does_not_merge(name):
    model = model_of(name)
    with pytest.raises(ValueError, match="hold"):
        merged([read(model, tokens_of(0, 1, 3)), model.make_caches()])


@every_kind
def test_bfloat16_is_float32_within_its_rounding(name):
    model, tokens = make_model(KINDS[name], context=CONTEXT), tokens_of(0)
    exact = logits_of(model, tokens)
    model.set_dtype(mx.bfloat16)
    for caches in (None, model.make_caches()):
        rounded = model(tokens, caches)
        assert rounded.dtype == mx.bfloat16
        rounded = np.array(rounded.astype(mx.float32))[..., :VOCAB]
        assert np.isfinite(rounded).all()
        # Eight bits (0.004) through some twenty roundings in a row: 0.02 of a token's logits, at the median token,
        # since a rounding may send a token near the border to another expert.
        error = np.linalg.norm(rounded - exact, axis=-1) / np.linalg.norm(exact, axis=-1)
        assert np.median(error) < 0.03


def loss_of(model, tokens):
    return nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:], reduction="mean")


@every_kind
def test_gradients_are_finite_differences(name):
    """Every parameter by itself, along its gradient and a random direction in equal parts, in float64 on the CPU.

    Norms and softmax are float32 whatever the dtype: their roundings of 1e-7, over 1e-3, are some 5e-4 of a slope of
    order 1, and so is at worst the cubic term (measured: the error grows when the step is thrice or a third of this).
    """
    step, generator = 5e-4, np.random.default_rng(3)
    with mx.stream(mx.cpu):
        model, tokens = make_model(KINDS[name], context=CONTEXT), tokens_of(0, time=9)
        model.set_dtype(mx.float64)
        gradients = nn.value_and_grad(model, loss_of)(model, tokens)[1]
        parameters = dict(tree_flatten(model.trainable_parameters()))
        for path, gradient in tree_flatten(gradients):
            slope, direction = np.array(gradient, dtype=np.float64), generator.normal(size=gradient.shape)
            direction = direction / np.linalg.norm(direction) + slope / max(np.linalg.norm(slope), 1e-12)
            losses = []
            for sign in (1, -1):
                moved = parameters[path] + mx.array(sign * step * direction, dtype=mx.float64)
                model.load_weights([(path, moved)], strict=False)
                losses.append(loss_of(model, tokens).item())
            model.load_weights([(path, parameters[path])], strict=False)
            expected = (losses[0] - losses[1]) / (2 * step)
            assert abs(np.sum(slope * direction) - expected) < 3e-3 * (np.linalg.norm(slope) + 0.1), path


@pytest.mark.skipif(shutil.which("g++") is None and not mx.metal.is_available(), reason="MLX compiles with g++ here")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in COMPILED else pytest.mark.study) for name in KINDS]
)
def test_compiled_equals_uncompiled(name):
    model, tokens = make_model(KINDS[name], context=CONTEXT), tokens_of(0)  # its own: tracing leaves marks
    step = nn.value_and_grad(model, loss_of)
    compiled = mx.compile(lambda tokens: step(model, tokens), inputs=[model.state])
    (loss, gradients), (compiled_loss, compiled_gradients) = step(model, tokens), compiled(tokens)
    # Fusing changes the order of a few roundings, nothing else.
    assert compiled_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for (path, one), (_, other) in zip(tree_flatten(gradients), tree_flatten(compiled_gradients), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-3, err_msg=path)
