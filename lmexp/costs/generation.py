"""One sequence generated token by token: its speed, its cache, its memory."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from lmexp import platform
from lmexp.costs.spec import UNCOUNTED_TOKENS
from lmexp.decoding.decoder import Decoder
from lmexp.decoding.options import Sampling
from lmexp.decoding.sampling import row_keys
from lmexp.model.cache import Cache
from lmexp.model.language_model import LanguageModel

_TELL_SECONDS = 1.0  # seldom, because telling takes time from the generation


@dataclass(frozen=True)
class Generation:
    """What the generation of one sequence cost.

    Attributes:
        tokens_per_second: without the first ``UNCOUNTED_TOKENS``.
        cache_bytes_per_token_per_layer: of the arrays that the caches hold at the end, by the tokens of the sequence.
        peak_memory_bytes: weights, caches and all between, at the peak; see :func:`lmexp.platform.peak_memory_bytes`.
    """

    tokens_per_second: float
    cache_bytes_per_token_per_layer: float
    peak_memory_bytes: int


def time_generation(model: LanguageModel, prompt: int, n_tokens: int, tell: Callable[[int, float], None]) -> Generation:
    """Generate a sequence of ``n_tokens``, the first of them given, each the likeliest after those before it.

    Args:
        model: with weights; put into evaluation mode.
        prompt: the first token.
        n_tokens: of the whole sequence; the last of them is not read.
        tell: is told now and then how many tokens there are, and how many there were per second.
    """
    model.eval()
    _rehearse(model, n_tokens)
    decoder = Decoder(model, [[prompt]], n_tokens - 1, Sampling(temperature=0.0), row_keys(seed=0, n_rows=1))
    platform.reset_peak_memory()
    counted_from = told_at = 0.0
    for count, _ in enumerate(decoder, start=1):
        now = time.perf_counter()  # the token is known, so the device has come as far
        if count == UNCOUNTED_TOKENS:
            counted_from = told_at = now
        elif count > UNCOUNTED_TOKENS and now - told_at > _TELL_SECONDS:
            told_at = now
            tell(count + 1, (count - UNCOUNTED_TOKENS) / (now - counted_from))
    seconds = time.perf_counter() - counted_from
    stored = sum(array.nbytes for cache in decoder.caches for array in cache.arrays())
    return Generation(
        tokens_per_second=(n_tokens - 1 - UNCOUNTED_TOKENS) / seconds,
        cache_bytes_per_token_per_layer=stored / n_tokens / len(decoder.caches),
        peak_memory_bytes=platform.peak_memory_bytes(),
    )


def next_token(model: LanguageModel, caches: Sequence[Cache], token: mx.array) -> mx.array:
    """Return the likeliest token, (1, 1), after this one."""
    logits = model(token, caches)[..., : model.vocab_size]
    return mx.argmax(logits, axis=-1)


def _rehearse(model: LanguageModel, n_tokens: int) -> None:
    """Take a step at 2, 4, 8, ... tokens: a GPU has other kernels for longer texts, and builds each at first use."""
    caches, token, length = model.make_caches(n_tokens - 1), mx.array([[0]]), 1
    mx.eval(next_token(model, caches, token))
    while 2 * length < n_tokens:
        for cache in caches:
            cache.skip(length - 1)
        mx.eval(next_token(model, caches, token))
        length *= 2
