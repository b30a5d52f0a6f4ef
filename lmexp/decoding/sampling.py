"""From logits to a token: small functions on (rows, vocabulary), float32 inside, no global random state.

A token that a filter drops has a logit of -infinity, so that it is never drawn, whatever the temperature was.
"""

from collections.abc import Sequence

import mlx.core as mx

from lmexp.decoding.options import Sampling
from lmexp.streams import stream_seed

_DROPPED = float("-inf")
_LEAST = 2.0**-126  # of float32's normal numbers; what is closer to 0 may count as 0


def row_keys(seed: int, n_rows: int) -> mx.array:
    """Return (n_rows, 2) uint32: a random key for each of several texts that continue one prompt."""
    return mx.stack([mx.random.key(stream_seed(seed, "sampling", row)) for row in range(n_rows)])


def token_keys(keys: mx.array, index: int) -> mx.array:
    """Return (rows, 2): each row's key for its token ``index``.

    The generator is counter-based (Threefry, Salmon et al. 2011): keys that differ in any bit give unrelated streams,
    so the index is simply added. A token's key depends on nothing else: neither on other rows nor on the row's place.
    """
    return keys + mx.array([0, index & 0xFFFFFFFF], dtype=mx.uint32)


def draw(logits: mx.array, keys: mx.array) -> mx.array:
    """Draw one token per row from softmax(logits): (rows, vocabulary) and (rows, 2) to (rows,) int32."""
    return _draw_each(logits, keys).astype(mx.int32)


_draw_each = mx.vmap(lambda row, key: mx.random.categorical(row, key=key))


def sample(logits: mx.array, options: Sampling, keys: mx.array, seen: mx.array | None = None) -> mx.array:
    """Draw one token per row.

    Args:
        logits: (rows, vocabulary), real tokens only.
        options: how.
        keys: (rows, 2), one for each draw; not read when greedy.
        seen: (rows, vocabulary) bool, the tokens that a row's text has; read by the repetition penalty only.

    Returns:
        (rows,) int32.
    """
    if options.is_greedy:
        return mx.argmax(_penalised(logits, options, seen), axis=-1).astype(mx.int32)
    return draw(shape(logits, options, seen), keys)


def shape(logits: mx.array, options: Sampling, seen: mx.array | None = None) -> mx.array:
    """Return the logits (rows, vocabulary) that a token is drawn from, all options applied, in float32.

    Greedy is the distribution that has all its weight on the likeliest token (the first of equals).
    """
    logits = _penalised(logits, options, seen)
    if options.is_greedy:
        return keep_top_k(logits, 1)
    # No overflow, however cool.
    logits = (logits - logits.max(axis=-1, keepdims=True)) / max(options.temperature, _LEAST)
    if options.top_k is not None:
        logits = keep_top_k(logits, options.top_k)
    if options.top_p is not None:
        logits = keep_top_p(logits, options.top_p)
    if options.min_p is not None:
        logits = keep_min_p(logits, options.min_p)
    return logits


def keep_top_k(logits: mx.array, k: int) -> mx.array:
    """Keep the ``k`` likeliest tokens of each row: exactly that many, whatever ties there are."""
    if k >= logits.shape[-1]:
        return logits
    if k == 1:
        best = mx.argmax(logits, axis=-1, keepdims=True)
    else:
        best = mx.argpartition(-logits, kth=k - 1, axis=-1)[..., :k]
    return mx.put_along_axis(mx.full(logits.shape, _DROPPED), best, mx.take_along_axis(logits, best, axis=-1), axis=-1)


def keep_top_p(logits: mx.array, p: float) -> mx.array:
    """Keep the fewest likeliest tokens of each row whose probabilities add up to ``p``: never fewer than one."""
    if p >= 1:  # rounded sums reach 1 before the last token
        return logits
    order = mx.argsort(-logits, axis=-1)
    probabilities = mx.softmax(mx.take_along_axis(logits, order, axis=-1), axis=-1)
    before = mx.cumsum(probabilities, axis=-1, inclusive=False)  # of the tokens that are likelier
    kept = mx.put_along_axis(mx.zeros(logits.shape, mx.bool_), order, before < max(p, _LEAST), axis=-1)
    return mx.where(kept, logits, _DROPPED)


def keep_min_p(logits: mx.array, p: float) -> mx.array:
    """Keep the tokens of each row that are at least ``p`` times as probable as the likeliest."""
    ratios = mx.exp(logits - logits.max(axis=-1, keepdims=True))
    return mx.where(ratios >= p, logits, _DROPPED)


def penalise(logits: mx.array, seen: mx.array, penalty: float) -> mx.array:
    """Divide positive logits of tokens seen by ``penalty`` and multiply negative ones."""
    return mx.where(seen, mx.where(logits > 0, logits / penalty, logits * penalty), logits)


def seen_in(texts: Sequence[Sequence[int]], vocab_size: int) -> mx.array:
    """Return (rows, vocab_size) bool: which tokens each text has."""
    return mx.stack([(mx.zeros(vocab_size).at[mx.array(list(text), dtype=mx.int32)].add(1) > 0) for text in texts])


def also_seen(seen: mx.array, tokens: mx.array) -> mx.array:
    """Return ``seen`` with one more token in each row: (rows, vocabulary) and (rows,)."""
    return seen | (mx.arange(seen.shape[-1]) == tokens[:, None])


def log_probabilities(logits: mx.array, tokens: mx.array) -> mx.array:
    """Return the log-probability of each token under softmax(logits): (..., vocabulary) and (...) to (...) float32."""
    logits = logits.astype(mx.float32)
    chosen = mx.take_along_axis(logits, tokens[..., None], axis=-1).squeeze(-1)
    return chosen - mx.logsumexp(logits, axis=-1)


def _penalised(logits: mx.array, options: Sampling, seen: mx.array | None) -> mx.array:
    logits = logits.astype(mx.float32)
    if options.repetition_penalty is None:
        return logits
    if seen is None:
        raise ValueError("a repetition penalty needs to know which tokens were seen")
    return penalise(logits, seen, options.repetition_penalty)
