"""Laws of choosing among texts: beams find the best there is, votes are counted right, scores are the model's own."""

import itertools
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from numpy_model import CONTEXT, VOCAB, make_model
from tiny_specs import GPT, LAWFUL, LLAMA

from lmexp.decoding.decoder import Decoder
from lmexp.decoding.options import Sampling
from lmexp.decoding.sampling import row_keys
from lmexp.decoding.search import Candidate, answer_in, beam_search, best_first, majority, sample_candidates
from lmexp.errors import UserError

# Sums of a few float32 logarithms; products of other shapes add up in another order.
FLOAT32 = 2e-4


def lively(spec, **sizes):
    return make_model(replace(spec, tie_embeddings=False), seed=7, **sizes)


def log_probability(model, prompt, tokens):
    text = [*prompt, *tokens]
    logits = np.array(model(mx.array([text]))[0, :, : model.vocab_size], dtype=np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return sum(logs[len(prompt) - 1 + place, token] for place, token in enumerate(tokens))


@pytest.mark.parametrize("spec", [LLAMA, GPT], ids=["llama", "gpt"])
def test_as_many_beams_as_texts_find_the_true_maximum(spec):
    """By exhaustive search over all texts of four tokens of five."""
    model, prompt = lively(spec, vocab=5, padded=7), [3, 1]
    every = sorted((log_probability(model, prompt, text), text) for text in itertools.product(range(5), repeat=4))[::-1]
    found = beam_search(model, prompt, 4, 125)
    assert [tuple(candidate.tokens) for candidate in found[:20]] == [text for _, text in every[:20]]
    np.testing.assert_allclose(
        [one.log_probability for one in found], [total for total, _ in every[:125]], atol=FLOAT32
    )


def test_as_many_beams_as_texts_find_the_true_maximum_among_texts_that_end():
    """Texts of up to four tokens, complete with token 2: the highest mean, by exhaustive search."""
    model, prompt, end = lively(LLAMA, vocab=5, padded=7), [3, 1], 2
    texts = [text for length in range(1, 5) for text in itertools.product(range(5), repeat=length)]
    texts = [text for text in texts if end not in text[:-1] and (len(text) == 4 or text[-1] == end)]
    means = {text: log_probability(model, prompt, text) / len(text) for text in texts}
    found = beam_search(model, prompt, 4, len(texts), {end})
    assert tuple(found[0].tokens) == max(means, key=means.get)
    np.testing.assert_allclose([one.mean_log_probability for one in found], sorted(means.values())[::-1], atol=FLOAT32)


@pytest.mark.parametrize("spec", LAWFUL.values(), ids=LAWFUL)
def test_one_beam_is_greedy(spec):
    """Also beyond the context."""
    model, prompt = lively(spec), [3, 1, 4]
    greedy = [token for step in Decoder(model, [prompt], 2 * CONTEXT, Sampling(0), row_keys(0, 1)) for token in step]
    found = beam_search(model, prompt, 2 * CONTEXT, 1)[0]
    assert found.tokens == [token.token for token in greedy]
    assert found.log_probability == pytest.approx(sum(token.log_probability for token in greedy), abs=10 * FLOAT32)


def test_more_beams_keep_what_their_texts_are_worth():
    """Beams change places all the time: each one's caches must follow."""
    model, prompt = lively(LLAMA), [3, 1, 4]
    for candidate in beam_search(model, prompt, 6, 4):
        exact = log_probability(model, prompt, candidate.tokens)
        assert candidate.log_probability == pytest.approx(exact, abs=FLOAT32)


def test_a_search_that_is_decided_ends():
    """A text that ends at once and nearly surely cannot be overtaken."""
    model, steps = lively(LLAMA, vocab=5, padded=7, context=50), []
    first = int(mx.argmax(model(mx.array([[3, 1]]))[0, -1, :5]).item())
    plain_hidden = model.hidden
    model.hidden = lambda tokens, caches: steps.append(tokens.shape) or plain_hidden(tokens, caches)
    weights = model.head.weight
    model.head.weight = 50 * weights  # as good as certain
    assert beam_search(model, [3, 1], 40, 1, {first})[0].tokens == [first]
    assert len(steps) == 1


@pytest.mark.parametrize("n_tokens", [0, 1])
def test_short_searches(n_tokens):
    found = beam_search(make_model(GPT), [1], n_tokens, 3)
    assert [len(candidate.tokens) for candidate in found] == ([0] if n_tokens == 0 else [1, 1, 1])


def test_candidates_are_samples_with_their_log_probabilities():
    model, prompt, keys = lively(LLAMA), [3, 1], row_keys(0, 4)
    candidates = sample_candidates(model, prompt, 6, Sampling(1.0, top_k=4), keys)
    assert len({tuple(candidate.tokens) for candidate in candidates}) > 1
    for row, candidate in enumerate(candidates):
        alone = sample_candidates(model, prompt, 6, Sampling(1.0, top_k=4), keys[row : row + 1])[0]
        assert alone.tokens == candidate.tokens
        exact = log_probability(model, prompt, candidate.tokens)
        assert candidate.log_probability == pytest.approx(exact, abs=FLOAT32)
    order = best_first(candidates)
    means = [candidates[place].mean_log_probability for place in order]
    assert means == sorted(means, reverse=True)


def test_a_complete_row_ends_with_the_token_that_completed_it():
    model, seen = lively(LLAMA), []
    complete = sample_candidates(
        model,
        [3, 1],
        9,
        Sampling(1.0),
        row_keys(0, 3),
        lambda row, token: seen.append(row) or seen.count(row) == row + 2,
    )
    assert [len(candidate.tokens) for candidate in complete] == [2, 3, 4]


def test_the_best_may_be_chosen_by_any_score():
    candidates = [Candidate([1, 2], -3.0), Candidate([1], -2.0), Candidate([3, 4, 5], -3.0), Candidate([9], -2.0)]
    assert best_first(candidates) == [2, 0, 1, 3]  # means: -1.5, -2, -1, -2; of equals, the first
    assert best_first(candidates, lambda one: sum(one.tokens)) == [2, 3, 0, 1]


def test_a_majority_agrees_but_for_case_and_white_space():
    assert majority(["7", "8", " 8", "7 "]) == (0, 2)  # a tie: the first
    assert majority(["The  cat", "dog", "the cat\n", None]) == (0, 2)
    assert majority(["dog", "the cat", "The cat"]) == (1, 2)
    assert majority([None, None, "x"]) == (2, 1)
    assert majority([None, None]) is None


def test_answers_are_found():
    text = "so 3 and 4\nanswer: 7\nanswer: 12\n\n"
    assert answer_in(text) == "answer: 12"
    assert answer_in(text, r"answer: (\d+)") == "12"
    assert answer_in(text, r"\d+ and \d+") == "3 and 4"
    assert answer_in(text, "nothing") is None
    assert answer_in("\n \n") is None
    with pytest.raises(UserError, match="not a regular expression"):
        answer_in(text, "(")


def test_bad_requests_are_refused():
    with pytest.raises(UserError, match="0 beams is out of range"):
        beam_search(make_model(GPT), [1], 3, 0)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        beam_search(make_model(GPT), [VOCAB], 3, 2)
