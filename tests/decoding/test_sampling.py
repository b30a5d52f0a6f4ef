"""Laws of drawing one token: the right tokens are kept, the distribution is right, and chance has one source."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lmexp.decoding.options import Sampling
from lmexp.decoding.sampling import (
    also_seen,
    draw,
    log_probabilities,
    penalise,
    row_keys,
    sample,
    seen_in,
    shape,
    token_keys,
)
from lmexp.errors import UserError

LOGITS = np.array([0.3, 2.0, -1.0, 1.1, 0.9, -0.2, 1.7], dtype=np.float32)
DRAWS = 20_000
KEYS = mx.random.split(mx.random.key(0), DRAWS)  # fixed: p > 0.0001 either always holds or never

OPTIONS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.5),
    Sampling(temperature=2.0, top_k=3),
    Sampling(temperature=1.0, top_k=99),
    Sampling(temperature=1.0, top_p=0.6),
    Sampling(temperature=0.7, min_p=0.2),
    Sampling(temperature=1.3, repetition_penalty=1.5),
    Sampling(temperature=1.5, top_k=5, top_p=0.9, min_p=0.3, repetition_penalty=2.0),
]


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def oracle(logits, options, seen=()):
    """Return the probabilities by the definitions, one token at a time, in float64."""
    logits = [float(value) for value in logits]
    for token in seen:
        penalty = options.repetition_penalty or 1.0
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    if options.temperature == 0:
        return np.eye(len(logits))[order[0]]
    weights = softmax(np.array(logits) / options.temperature)
    kept = order[: options.top_k]
    if options.top_p is not None:
        total, enough, candidates, kept = weights[kept].sum(), 0.0, kept, []
        for token in candidates:
            if enough >= options.top_p:
                break
            kept.append(token)
            enough += weights[token] / total
    if options.min_p is not None:
        kept = [token for token in kept if weights[token] >= options.min_p * weights[kept[0]]]
    masked = np.zeros(len(logits))
    masked[kept] = weights[kept]
    return masked / masked.sum()


def p_value(counts, probabilities):
    """Chi-squared; what is impossible must not have happened."""
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    return stats.chisquare(counts[possible], probabilities[possible] * counts.sum()).pvalue


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_draws_follow_the_definition(options, dtype):
    """Chi-squared over 20,000 draws, against exact probabilities."""
    logits = mx.array(LOGITS).astype(dtype)
    rows = mx.broadcast_to(logits, (DRAWS, len(LOGITS)))
    seen = mx.broadcast_to(seen_in([[1, 2, 2]], len(LOGITS)), rows.shape)
    drawn = np.array(sample(rows, options, KEYS, seen))
    exact = oracle(np.array(logits.astype(mx.float32)), options, [1, 2])
    assert (exact > 0).sum() > 1
    assert p_value(np.bincount(drawn, minlength=len(LOGITS)), exact) > 1e-4


@given(
    logits=st.lists(st.integers(-400, 400).map(lambda value: value / 100), min_size=2, max_size=12, unique=True),
    temperature=st.sampled_from([0, 0.3, 1.0, 2.5]),
    top_k=st.none() | st.integers(1, 13),
    top_p=st.none() | st.floats(0.05, 0.95),
    min_p=st.none() | st.floats(0.01, 0.9),
    penalty=st.none() | st.sampled_from([0.5, 1.7]),
    seen=st.sets(st.integers(0, 1)),
)
@settings(max_examples=300, deadline=None)
def test_filters_agree_with_the_definition(logits, temperature, top_k, top_p, min_p, penalty, seen):
    options = Sampling(temperature, top_k, top_p, min_p, penalty)
    expected = oracle(logits, options, seen)
    for nudge in (-1e-5, 1e-5):  # a sum or a ratio within float32 rounding of its limit may fall on either side
        near = Sampling(temperature, top_k, top_p and top_p + nudge, min_p and min_p + nudge, penalty)
        if not np.array_equal(oracle(logits, near, seen), expected):
            return
    factor = penalty or 1.0
    penalised = [value / factor if value > 0 else value * factor for value in logits]
    final = {round(penalised[token] if token in seen else value, 4) for token, value in enumerate(logits)}
    if len(final) < len(logits):
        return  # which of equals is kept is not defined
    mask = mx.array([[token in seen for token in range(len(logits))]])
    both_ways = mx.array([logits, logits[::-1]])
    shaped = softmax(np.array(shape(both_ways, options, mx.concatenate([mask, mask[:, ::-1]])), dtype=np.float64))
    # Scores reach 27 (8 over 0.3), whose float32 rounding of 2e-6 is a relative error of the exponential.
    np.testing.assert_allclose(shaped[0], expected, atol=1e-5)
    np.testing.assert_allclose(shaped[1, ::-1], expected, atol=1e-5)


def test_ties_do_not_widen_top_k():
    for k in (1, 2, 4):
        drawn = np.array(sample(mx.zeros((500, 6)), Sampling(1.0, top_k=k), KEYS[:500]))
        assert len(set(drawn.tolist())) == k


def test_a_top_p_of_one_keeps_every_token_and_a_tiny_one_the_likeliest():
    rows = mx.array(LOGITS)[None]
    assert np.isfinite(np.array(shape(rows, Sampling(1.0, top_p=1.0)))).all()
    for tiny in (1e-9, 1e-300):  # the second is 0 in float32
        assert np.isfinite(np.array(shape(rows, Sampling(1.0, top_p=tiny)))).sum() == 1


def test_what_is_exactly_enough_is_enough():
    """Sums and ratios of equals are exact: two quarters are a half, and as likely as the likeliest is likely enough."""
    assert np.isfinite(np.array(shape(mx.zeros((1, 4)), Sampling(1.0, top_p=0.5)))).sum() == 2
    assert np.isfinite(np.array(shape(mx.array([[2.0, 1.0, 2.0]]), Sampling(1.0, min_p=1.0)))).tolist() == [
        [True, False, True]
    ]


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-3, 1e30, 1e300])
def test_extreme_temperatures_stay_finite(temperature):
    probabilities = np.array(mx.softmax(shape(mx.array(LOGITS)[None], Sampling(temperature)), axis=-1))[0]
    expected = np.eye(len(LOGITS))[1] if temperature < 1 else np.full(len(LOGITS), 1 / len(LOGITS))
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)


def test_temperature_zero_takes_the_likeliest():
    rows = mx.array(np.stack([LOGITS, LOGITS[::-1]]))
    for options in (Sampling(0), Sampling(0, top_k=3), Sampling(0, top_p=0.1)):
        assert sample(rows, options, KEYS[:2]).tolist() == [1, 5]


def test_a_penalty_divides_what_is_positive_and_multiplies_what_is_negative():
    seen = also_seen(seen_in([[1, 1], [2]], 4), mx.array([3, 0]))
    assert seen.tolist() == [[False, True, False, True], [True, False, True, False]]
    logits = mx.array([[1.0, 3.0, -2.0, -0.5], [1.0, 3.0, -2.0, -0.5]])
    assert penalise(logits, seen, 2.0).tolist() == [[1.0, 1.5, -2.0, -1.0], [0.5, 3.0, -4.0, -0.5]]


def test_a_penalty_without_a_text_is_refused():
    with pytest.raises(ValueError, match="which tokens were seen"):
        shape(mx.zeros((1, 3)), Sampling(1.0, repetition_penalty=1.2))


def test_a_draw_depends_on_its_row_alone():
    """Neither on the rows beside it nor on its place among them."""
    logits = mx.array(np.random.default_rng(0).normal(size=(40, 11)).astype(np.float32))
    together = draw(logits, KEYS[:40]).tolist()
    order = np.random.default_rng(1).permutation(40)
    assert draw(logits[mx.array(order)], KEYS[mx.array(order)]).tolist() == [together[row] for row in order]
    assert [draw(logits[row][None], KEYS[row][None]).item() for row in range(40)] == together
    assert len(set(together)) > 5


def test_keys_differ_between_seeds_samples_and_tokens():
    rows = [row_keys(seed, 4) for seed in range(3)]
    keys = {tuple(key) for row in rows for index in range(5) for key in token_keys(row, index).tolist()}
    assert len(keys) == 3 * 4 * 5
    assert row_keys(7, 2).tolist() == row_keys(7, 5)[:2].tolist()  # more samples leave the first ones as they were


def test_successive_tokens_of_a_row_are_independent():
    """Chi-squared over pairs of successive draws, whose keys differ by one."""
    key, exact = row_keys(3, 1), softmax(LOGITS[:4].astype(np.float64))
    keys = mx.concatenate([token_keys(key, index) for index in range(4000)])
    drawn = np.array(draw(mx.broadcast_to(mx.array(LOGITS[:4]), (4000, 4)), keys))
    pairs = np.bincount(drawn[0::2] * 4 + drawn[1::2], minlength=16)
    assert p_value(pairs, np.outer(exact, exact).ravel()) > 1e-4


def test_log_probabilities_are_those_of_the_softmax():
    logits = mx.array(np.stack([LOGITS, LOGITS[::-1]]))
    expected = np.log(softmax(LOGITS.astype(np.float64)))
    # float32 rounding of a logarithm of order 1.
    np.testing.assert_allclose(log_probabilities(logits, mx.array([2, 0])), [expected[2], expected[6]], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -0.5}, "temperature of -0.5 is out of range"),
        ({"temperature": float("nan")}, "temperature of nan is out of range"),
        ({"top_k": 0}, "top-k of 0 is out of range"),
        ({"top_p": 0.0}, "top-p of 0.0 is out of range"),
        ({"top_p": 1.1}, "top-p of 1.1 is out of range"),
        ({"min_p": float("nan")}, "min-p of nan is out of range"),
        ({"repetition_penalty": 0.0}, "repetition penalty of 0.0 is out of range"),
    ],
)
def test_options_out_of_range_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        Sampling(**change)
