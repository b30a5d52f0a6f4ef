"""Speculative decoding is the model's own: the same distribution exactly, the same greedy text token for token."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from numpy_model import CONTEXT, VOCAB, make_model
from scipy import stats
from tiny_specs import LAWFUL, LLAMA

from lmexp.decoding.decoder import Decoder
from lmexp.decoding.options import Sampling
from lmexp.decoding.sampling import row_keys, shape
from lmexp.decoding.speculative import (
    Acceptance,
    LookupDraft,
    ModelDraft,
    RewindableText,
    SpeculativeDecoder,
    verify,
)
from lmexp.errors import UserError
from lmexp.model.cache import RowsCache

KEY = row_keys(0, 1)
N_TOKENS = 2 * CONTEXT
VARIED = Sampling(0, repetition_penalty=30.0)  # greedy, and never the same token for long
PROMPTS = [[4], [3, 1, 4, 1, 5], list(range(CONTEXT)), list(range(20))]


def lively(spec, seed=7, **sizes):
    return make_model(replace(spec, tie_embeddings=False), seed=seed, **sizes)


def plain(model, prompt, n_tokens, sampling):
    return [token.token for step in Decoder(model, [prompt], n_tokens, sampling, KEY) for token in step]


def speculate(model, draft_model, prompt, n_tokens, sampling, n_guesses=3, key=KEY):
    draft = ModelDraft(draft_model, prompt, n_tokens, sampling, key)
    decoder = SpeculativeDecoder(model, draft, prompt, n_tokens, sampling, key, n_guesses)
    return list(decoder), decoder.acceptance


@pytest.mark.parametrize("spec", LAWFUL.values(), ids=LAWFUL)
def test_greedy_text_is_that_of_the_model_whatever_the_draft(spec):
    """For a draft that is often right and one that is mostly wrong, beyond the context of both."""
    model = lively(spec)
    nearly = lively(spec)
    nearly.load_weights([("embedding.weight", nearly.embedding.weight + 0.1)], strict=False)
    expected = plain(model, PROMPTS[1], N_TOKENS, VARIED)
    for draft in (nearly, lively(LLAMA, seed=1, context=CONTEXT - 3)):
        assert speculate(model, draft, PROMPTS[1], N_TOKENS, VARIED)[0] == expected


@pytest.mark.parametrize("n_guesses", [1, 2, 30])
@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_greedy_text_does_not_depend_on_the_number_of_guesses(n_guesses, prompt):
    model, draft = lively(LLAMA), lively(LLAMA, seed=1, context=4)
    assert speculate(model, draft, prompt, N_TOKENS, VARIED, n_guesses)[0] == plain(model, prompt, N_TOKENS, VARIED)


class Memory(RowsCache):
    """A cache that cannot go back at all, like a recurrent state."""

    def can_rewind(self, n_tokens):
        return n_tokens == 0


class Filling(RowsCache):
    """A cache that can go back until it holds a few tokens, like a window before it is full."""

    def can_rewind(self, n_tokens):
        return n_tokens == 0 or (self.position <= 6 and super().can_rewind(n_tokens))


@pytest.mark.parametrize("kinds", [(Memory, Memory), (Memory, RowsCache), (Filling, Filling), (Filling, Memory)])
def test_caches_that_cannot_go_back_are_copied_and_give_the_same_text(kinds):
    model, right = lively(LLAMA), lively(LLAMA)
    expected = plain(model, PROMPTS[1], N_TOKENS, VARIED)
    for forgetful in (model, right):
        forgetful.make_caches = lambda capacity: [kind(capacity) for kind in kinds]
    for draft in (lively(LLAMA, seed=1), right):
        assert speculate(model, draft, PROMPTS[1], N_TOKENS, VARIED)[0] == expected


def test_what_was_right_is_read_at_most_twice_without_rewinding():
    """The work for a token does not grow with the text: no text is read anew while the context has room."""
    model, read = lively(LLAMA, context=200), []
    plain_hidden = model.hidden
    model.hidden = lambda tokens, caches: read.append(tokens.shape[1]) or plain_hidden(tokens, caches)
    model.make_caches = lambda capacity: [Memory(capacity) for _ in range(2)]
    text, acceptance = speculate(model, lively(LLAMA, seed=1, context=200), [1, 2, 3], 40, VARIED)
    assert sum(acceptance.accepted) < sum(acceptance.proposed)
    assert sum(read) <= 3 + 2 * len(text) + sum(acceptance.proposed)


def distribution(generator, *shape_):
    weights = generator.gamma(0.4, size=shape_)  # some tokens likely, some nearly impossible
    weights[..., 1] = 0
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("n_guesses", [0, 1, 2])
def test_verified_tokens_follow_the_model_exactly(n_guesses):
    """Chi-squared of texts of three tokens of four against p(a) p(b | a) p(c | a, b), 40,000 rows, another q."""
    generator, vocab, rows = np.random.default_rng(n_guesses), 4, 40_000
    p, q = (
        [distribution(generator, *(vocab,) * length, vocab) for length in range(3)],
        [distribution(generator, *(vocab,) * length, vocab) for length in range(3)],
    )
    keys = mx.random.split(mx.random.key(n_guesses), rows * (n_guesses + 1) * 2).reshape(2, rows, n_guesses + 1, 2)
    guesses = np.zeros((rows, 0), np.int32)
    for length in range(n_guesses):  # the draft draws from its own distribution, after its own guesses
        chances = q[length][tuple(guesses.T)]
        draws = (generator.random((rows, 1)) > np.cumsum(np.broadcast_to(chances, (rows, vocab)), axis=-1)).sum(-1)
        guesses = np.column_stack([guesses, np.minimum(draws, vocab - 1)]).astype(np.int32)
    of_model = np.stack(
        [np.broadcast_to(p[n][tuple(guesses[:, :n].T)], (rows, vocab)) for n in range(n_guesses + 1)], 1
    )
    of_draft = np.zeros((rows, 0, vocab))
    if n_guesses:
        of_draft = np.stack(
            [np.broadcast_to(q[n][tuple(guesses[:, :n].T)], (rows, vocab)) for n in range(n_guesses)], 1
        )
    arrays = [mx.array(array.astype(np.float32)) for array in (of_model, of_draft)]
    n_right, following = verify(*arrays, mx.array(guesses), *keys)
    texts = np.column_stack([guesses, np.full((rows, 3 - n_guesses), -1)])
    texts[np.arange(rows), np.array(n_right)] = np.array(following)
    for length in (1, 2, 3):  # what verification left open, the model draws by itself
        missing = (np.array(n_right) + 1 < length) | (texts[:, length - 1] < 0)
        chances = np.broadcast_to(p[length - 1][tuple(texts[:, : length - 1].T)], (rows, vocab))
        draws = (generator.random((rows, 1)) > np.cumsum(chances, axis=-1)).sum(-1)
        texts[missing, length - 1] = np.minimum(draws, vocab - 1)[missing]
    exact = p[0][:, None, None] * p[1][:, :, None] * p[2]
    counts = np.zeros(exact.shape)
    np.add.at(counts, tuple(texts.T), 1)
    assert counts[exact == 0].sum() == 0
    common = exact * rows >= 5
    observed = [*counts[common], counts[~common].sum()]
    expected = np.array([*exact[common], exact[~common].sum()]) * rows
    assert stats.chisquare(observed, expected).pvalue > 1e-4
    if n_guesses:
        assert 0.05 < (np.array(n_right) / n_guesses).mean() < 0.95  # both branches were taken often


def test_a_guess_from_the_models_own_distribution_is_always_right():
    p = mx.array(distribution(np.random.default_rng(0), 500, 3, 5).astype(np.float32))
    guesses = mx.argmax(p[:, :2], axis=-1).astype(mx.int32)
    keys = mx.random.split(mx.random.key(0), 3000).reshape(2, 500, 3, 2)
    assert verify(p, p[:, :2], guesses, *keys)[0].tolist() == [2] * 500


@pytest.mark.parametrize(
    "sampling", [Sampling(1.0), Sampling(1.5, top_k=4, top_p=0.9, repetition_penalty=2.0)], ids=str
)
def test_texts_of_a_model_with_a_draft_follow_the_model(sampling):
    """Chi-squared of 300 texts of two tokens of five, against the product of the model's own probabilities."""
    vocab, n_texts = 5, 300
    model, draft = (lively(replace(LLAMA, n_layers=1), seed, vocab=vocab, padded=6) for seed in (3, 4))
    prompt = [3, 1]

    def chances(text):
        seen = mx.array([[token in text for token in range(vocab)]])
        logits = shape(model(mx.array([text]))[:, -1, :vocab], sampling, seen)
        return np.array(mx.softmax(logits, axis=-1)[0], dtype=np.float64)

    exact = np.stack([chances(prompt)[first] * chances([*prompt, first]) for first in range(vocab)])
    counts, right, made = np.zeros((vocab, vocab)), 0, 0
    for key in mx.random.split(mx.random.key(0), n_texts):
        text, acceptance = speculate(model, draft, prompt, 2, sampling, 2, key[None])
        counts[tuple(text)] += 1
        right, made = right + sum(acceptance.accepted), made + sum(acceptance.proposed)
    assert 0 < right < made
    assert counts[exact == 0].sum() == 0
    common = exact * n_texts >= 5
    observed, expected = counts[common], exact[common] * n_texts
    rest = counts[~common].sum(), exact[~common].sum() * n_texts
    if rest[1] > 0:
        observed, expected = np.append(observed, rest[0]), np.append(expected, rest[1])
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4


def test_a_perfect_draft_saves_steps_and_the_statistics_say_so():
    model = lively(LLAMA)
    text, acceptance = speculate(model, model, [1, 2], 9, Sampling(1.0), n_guesses=3)
    assert len(text) == 9
    # Greedy or not, equal distributions are never rejected: 4 + 4 tokens, and the last alone.
    assert (acceptance.steps, acceptance.tokens) == (3, 9)
    assert acceptance.proposed == acceptance.accepted == [2, 2, 2]
    assert acceptance.tokens_per_step == 3.0
    assert str(acceptance) == (
        "9 tokens in 3 steps of the model (3.00 a step); 6 of 6 guesses accepted; "
        "by place in the guess: 1.00, 1.00, 1.00"
    )


def test_acceptance_counts_by_place():
    acceptance = Acceptance()
    for n_guesses, n_right in ((3, 1), (2, 2), (0, 0)):
        acceptance.count(n_guesses, n_right)
    assert (acceptance.proposed, acceptance.accepted) == ([2, 2, 1], [2, 1, 0])
    assert (acceptance.steps, acceptance.tokens, acceptance.tokens_per_step) == (3, 6, 2.0)
    assert "none" in str(Acceptance())


def test_a_lookup_guesses_what_followed_last_time():
    draft = LookupDraft([1, 2, 3, 1, 2, 4, 1, 2], VOCAB)
    guesses = draft.guess(2, 0, None)
    assert guesses.tokens.tolist() == [4, 1]
    assert mx.argmax(guesses.probabilities, axis=-1).tolist() == [4, 1]
    assert guesses.probabilities.sum(axis=-1).tolist() == [1, 1]
    draft.settle([3, 1, 2], 0)
    assert draft.guess(1, 3, None).tokens.tolist() == [3]
    draft.settle([9], 0)
    assert draft.guess(3, 4, None).tokens.tolist() == []


def test_greedy_text_with_a_lookup_is_that_of_the_model():
    model, sampling = lively(LLAMA), Sampling(0)
    for prompt in PROMPTS:
        draft = LookupDraft(prompt, VOCAB, n_alike=1)
        decoder = SpeculativeDecoder(model, draft, prompt, 2 * N_TOKENS, sampling, KEY, 3)
        assert list(decoder) == plain(model, prompt, 2 * N_TOKENS, sampling)
        assert sum(decoder.acceptance.proposed) > 0


def test_rewound_text_reads_as_if_the_guesses_had_never_been():
    for spec in LAWFUL.values():
        model = make_model(spec)
        text = RewindableText(model, [1, 2, 3], 7)
        text.read(mx.array([9, 8]))
        text.settle([9, 5], 1)
        logits = text.read(mx.array([6]))
        expected = model(mx.array([[1, 2, 3, 9, 5, 6]]))[0, 4:, :VOCAB]
        # Products of other shapes add up in another order.
        np.testing.assert_allclose(logits, expected, atol=2e-4, rtol=2e-4)


def test_bad_requests_are_refused_at_the_call():
    model = make_model(LLAMA)
    draft = LookupDraft([1], VOCAB)
    with pytest.raises(UserError, match="draft of 0 tokens is out of range"):
        SpeculativeDecoder(model, draft, [1], 3, Sampling(0), KEY, 0)
    with pytest.raises(UserError, match="prompt is empty"):
        SpeculativeDecoder(model, draft, [], 3, Sampling(0), KEY, 2)
    with pytest.raises(UserError, match="Cannot generate -1 tokens"):
        SpeculativeDecoder(model, draft, [1], -1, Sampling(0), KEY, 2)


def test_no_tokens_are_no_text():
    assert speculate(make_model(LLAMA), make_model(LLAMA), [1], 0, VARIED)[0] == []
