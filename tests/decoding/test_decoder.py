"""Laws of decoding: the right text, whatever stands beside it in the batch; the right context; no hidden chance."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from numpy_model import CONTEXT, PADDED, VOCAB, make_model
from scipy import stats
from tiny_specs import GPT, LAWFUL, LLAMA

from lmexp.decoding import context as context_module
from lmexp.decoding.decoder import Decoder
from lmexp.decoding.options import Sampling
from lmexp.decoding.sampling import row_keys
from lmexp.errors import UserError

GREEDY, KEYS = Sampling(0), row_keys(0, 1)
PROMPTS = [[4], [3, 1, 4, 1, 5], [2, 6], list(range(CONTEXT)), [9, 7], list(range(20))]


def decode(model, prompts, n_tokens, sampling=GREEDY, keys=None):
    rows = [[] for _ in prompts]
    for step in Decoder(model, prompts, n_tokens, sampling, row_keys(0, len(prompts)) if keys is None else keys):
        for token in step:
            rows[token.row].append(token.token)
    return rows


def continue_slowly(model, prompt, n_tokens, penalty=1.0):
    """Greedy decoding by the definition: no caches, and a full context is followed by its last half."""
    window, tokens = list(prompt[-model.context_length :]), []
    for _ in range(n_tokens):
        if len(window) > model.context_length:
            window = window[-(model.context_length // 2) :]
        logits = np.array(model(mx.array([window]))[0, -1, :VOCAB])
        for token in {*prompt, *tokens}:
            logits[token] *= 1 / penalty if logits[token] > 0 else penalty
        tokens.append(int(logits.argmax()))
        window.append(tokens[-1])
    return tokens


def lively(spec):
    """Return a model whose greedy text is varied: tied and untrained, it would repeat its last token."""
    return make_model(replace(spec, tie_embeddings=False), seed=7)


@pytest.mark.parametrize("spec", LAWFUL.values(), ids=LAWFUL)
def test_greedy_text_is_that_of_the_definition(spec):
    """Also beyond the context, and from prompts as long as the context and longer; each row of a batch."""
    model, sampling = lively(spec), Sampling(0, repetition_penalty=30.0)
    n_tokens = 2 * CONTEXT
    expected = [continue_slowly(model, prompt, n_tokens, penalty=30.0) for prompt in PROMPTS]
    assert min(len(set(tokens)) for tokens in expected) > 5  # the law would say little about a constant text
    for prompt, tokens in zip(PROMPTS, expected, strict=True):
        assert decode(model, [prompt], n_tokens, sampling) == [tokens]
    assert decode(model, PROMPTS, n_tokens, sampling) == expected


@pytest.mark.parametrize("chunk", [1, 3, CONTEXT])
def test_prompts_are_read_in_chunks_of_any_size(chunk, monkeypatch):
    model = lively(LLAMA)
    expected = continue_slowly(model, PROMPTS[3], 5)
    monkeypatch.setattr(context_module, "_CHUNK_TOKENS", chunk)
    assert decode(model, [PROMPTS[3]], 5) == [expected]


def test_a_text_depends_neither_on_the_rows_beside_it_nor_on_its_place():
    model, sampling = lively(LLAMA), Sampling(1.0, top_p=0.95, repetition_penalty=1.1)
    keys = row_keys(1, len(PROMPTS))
    together = decode(model, PROMPTS, 2 * CONTEXT, sampling, keys)
    for row, prompt in enumerate(PROMPTS):
        assert decode(model, [prompt], 2 * CONTEXT, sampling, keys[row : row + 1]) == [together[row]]
    order = [3, 0, 5, 1, 4, 2]
    shuffled = decode(model, [PROMPTS[row] for row in order], 2 * CONTEXT, sampling, keys[mx.array(order)])
    assert shuffled == [together[row] for row in order]


def test_rows_that_finish_leave_the_others_as_they_were():
    model, keys = lively(LLAMA), row_keys(2, len(PROMPTS))
    sampling = Sampling(1.0, repetition_penalty=1.2)
    undisturbed = decode(model, PROMPTS, 2 * CONTEXT, sampling, keys)
    decoder = Decoder(model, PROMPTS, 2 * CONTEXT, sampling, keys)
    rows = [[] for _ in PROMPTS]
    for step in decoder:
        for token in step:
            rows[token.row].append(token.token)
            if len(rows[token.row]) == 2 + 3 * token.row:
                decoder.finish(token.row)
    # The step after a row's last was under way already, but the row is no longer in it.
    assert rows == [tokens[: 2 + 3 * row] for row, tokens in enumerate(undisturbed)]


def test_work_ends_when_every_row_is_finished():
    model = make_model(GPT)
    decoder = Decoder(model, [[1], [2, 3]], 50, GREEDY, row_keys(0, 2))
    steps = []
    for step in decoder:
        steps.append(step)
        for token in step:
            decoder.finish(token.row)
    assert len(steps) == 1


def test_a_prompt_given_several_times_is_read_once():
    model, shapes = make_model(LLAMA), []
    plain = model.hidden
    model.hidden = lambda tokens, caches: shapes.append(tokens.shape) or plain(tokens, caches)
    rows = decode(model, [[1, 2, 3]] * 4, 3, Sampling(1.0))
    assert shapes == [(1, 3), (4, 1), (4, 1)]
    assert len({tuple(row) for row in rows}) > 1  # each with a key of its own


def test_log_probabilities_are_the_models_own():
    """Whatever the sampling did to the logits."""
    model = lively(LLAMA)
    text, sum_by_definition = [3, 1], []
    for step in Decoder(model, [[3, 1]], 6, Sampling(0.5, top_k=3, repetition_penalty=2.0), KEYS):
        logits = np.array(model(mx.array([text]))[0, -1, :VOCAB], dtype=np.float64)
        sum_by_definition.append((step[0].log_probability, logits[step[0].token] - np.log(np.exp(logits).sum())))
        text.append(step[0].token)
    found, expected = zip(*sum_by_definition, strict=True)
    np.testing.assert_allclose(found, expected, atol=2e-4)  # products of other shapes add up in another order


def test_sampled_texts_follow_the_model():
    """Chi-squared of first and second tokens over 3,000 rows, against the model's own probabilities."""
    model, n_rows = make_model(LLAMA), 3000
    first, second = np.array(decode(model, [[3, 1, 4]] * n_rows, 2, Sampling(1.0))).T
    texts = mx.array([[3, 1, 4, token] for token in range(VOCAB)])
    logits = np.array(model(texts)[:, 2:, :VOCAB], dtype=np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    for tokens, probabilities in ((first, chances[0, 0]), (second, chances[0, 0] @ chances[:, 1])):
        common = probabilities * n_rows >= 5  # chi-squared needs five expected per class: the rest is one more
        groups = np.where(common, np.arange(VOCAB), VOCAB)
        observed = np.bincount(groups[tokens], minlength=VOCAB + 1)
        expected = np.bincount(groups, probabilities, minlength=VOCAB + 1) * n_rows
        assert stats.chisquare(observed[expected > 0], expected[expected > 0]).pvalue > 1e-4


def test_padding_is_never_sampled():
    """Not even when the temperature is so high that a masked logit of -1e9 weighs as much as any."""
    model = make_model(GPT)
    for options in (
        Sampling(1e12),
        Sampling(1e12, top_k=PADDED),
        Sampling(1e12, top_p=0.999),
        Sampling(1e12, min_p=0.1),
    ):
        tokens = decode(model, [[1]], 300, options)[0]
        assert max(tokens) < VOCAB
        assert len(set(tokens)) > VOCAB / 2


def test_the_key_is_the_only_chance():
    model = make_model(replace(LLAMA, dropout=0.5))
    model.train()
    before = np.array(mx.random.state[0])
    texts = [decode(model, [[1, 2]], 30, Sampling(1.0, top_k=10), row_keys(seed, 1)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    np.testing.assert_array_equal(np.array(mx.random.state[0]), before)


def test_tokens_stream():
    """The first token is handed out after two steps, not after all."""
    model, steps = make_model(GPT), []
    plain_hidden = model.hidden
    model.hidden = lambda tokens, caches: steps.append(tokens.shape) or plain_hidden(tokens, caches)
    text = iter(Decoder(model, [[1, 2, 3]], 8, GREEDY, KEYS))
    assert steps == []
    next(text)
    assert steps == [(1, 3), (1, 1)]
    assert len(list(text)) == 7
    assert steps[1:] == [(1, 1)] * 7


def test_memory_is_taken_for_what_is_asked_only():
    model, capacities = make_model(GPT, context=500), []
    plain = model.make_caches
    model.make_caches = lambda capacity: capacities.append(capacity) or plain(capacity)
    decode(model, [[1, 2, 3], [4]], 8)
    assert capacities == [11, 11]


def test_zero_tokens_are_no_text():
    assert decode(make_model(GPT), [[1]], 0) == [[]]


def test_a_context_of_one_still_generates():
    model = make_model(GPT, context=1)
    assert [len(row) for row in decode(model, [[1], [2]], 5)] == [5, 5]


@pytest.mark.parametrize(
    ("prompts", "n_tokens", "error", "message"),
    [
        ([], 3, UserError, "prompt is empty"),
        ([[1], []], 3, UserError, "prompt is empty"),
        ([[1]], -1, UserError, "Cannot generate -1 tokens"),
        ([[1], [3, VOCAB]], 3, ValueError, r"prompt tokens \[29\] lie outside the vocabulary of 29"),
        ([[-1]], 3, ValueError, r"prompt tokens \[-1\] lie outside"),
    ],
)
def test_bad_requests_are_refused_at_the_call(prompts, n_tokens, error, message):
    with pytest.raises(error, match=message):
        Decoder(make_model(GPT), prompts, n_tokens, GREEDY, KEYS)
