"""Text from a model, one token at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import mlx.core as mx

from lmexp.errors import UserError
from lmexp.model.language_model import LanguageModel


def generate(
    model: LanguageModel,
    prompt_tokens: Sequence[int],
    n_tokens: int,
    temperature: float,
    top_k: int | None,
    key: mx.array,
) -> Iterator[int]:
    """Continue a prompt, yielding each token as soon as it is known.

    The next step is dispatched before a token is handed out, so the device works while the caller prints. When the
    context is full, the last half of it is read again and the rest forgotten. Dropout is off in either mode.

    Args:
        model: whose vocabulary the tokens belong to.
        prompt_tokens: at least one; only the last ``context_length`` are read.
        n_tokens: how many to yield.
        temperature: divides the logits; 0 takes the likeliest token every time.
        top_k: sample from this many likeliest tokens only; None means from all.
        key: from ``mx.random.key``; the only source of chance (no global random state is read or changed).

    Raises:
        UserError: for an empty prompt, or a number out of its range. Raised at the call, not at the first token.
        ValueError: for a prompt token outside the vocabulary.
    """
    _check(model, prompt_tokens, n_tokens, temperature, top_k)
    return _stream(model, list(prompt_tokens), n_tokens, temperature, top_k, key)


def sample(logits: mx.array, temperature: float, top_k: int | None, key: mx.array) -> mx.array:
    """Draw one token per row: (batch, vocab) logits to (batch,) integers. Arguments as ``generate``."""
    logits = logits.astype(mx.float32)
    if temperature == 0:
        return mx.argmax(logits, axis=-1)
    if top_k is None or top_k >= logits.shape[-1]:
        return mx.random.categorical(logits / temperature, key=key)  # which takes unnormalised logits
    likeliest = mx.argpartition(-logits, kth=top_k - 1, axis=-1)[:, :top_k]
    kept = mx.take_along_axis(logits, likeliest, axis=-1)
    drawn = mx.random.categorical(kept / temperature, key=key)
    return mx.take_along_axis(likeliest, drawn[:, None], axis=-1)[:, 0]


def _stream(
    model: LanguageModel, prompt: list[int], n_tokens: int, temperature: float, top_k: int | None, key: mx.array
) -> Iterator[int]:
    reader = _Reader(model, prompt)
    pending: mx.array | None = None
    for _ in range(n_tokens):
        key, step_key = mx.random.split(key)
        token = sample(reader.next_logits(), temperature, top_k, step_key)
        mx.async_eval(token)
        reader.append(token)
        if pending is not None:
            yield _as_int(pending)
        pending = token
    if pending is not None:
        yield _as_int(pending)


def _as_int(token: mx.array) -> int:
    return cast(int, token.item())  # waits for the device


class _Reader:
    """Feeds a model its own text: knows what the caches hold, what is still unread, and when to begin anew."""

    def __init__(self, model: LanguageModel, prompt: list[int]):
        self._model = model
        self._text = [mx.array(prompt[-model.context_length :], dtype=mx.int32)]  # kept lazy: no token is waited for
        self._unread = self._text[0]
        self._caches = model.make_caches()

    def append(self, token: mx.array) -> None:
        self._text.append(token.astype(mx.int32))
        self._unread = self._text[-1]
        if self._caches[0].position == self._model.context_length:
            self._begin_anew()

    def next_logits(self) -> mx.array:
        """Read what is unread, and return the logits (1, vocab_size) of what follows: real tokens only."""
        with _evaluation_mode(self._model):
            hidden = self._model.hidden(self._unread[None], self._caches)
            return self._model.logits(hidden[:, -1])[:, : self._model.vocab_size]

    def _begin_anew(self) -> None:
        half = max(1, self._model.context_length // 2)
        self._text = [mx.concatenate(self._text)[-half:]]
        self._unread = self._text[0]
        self._caches = self._model.make_caches()


@contextmanager
def _evaluation_mode(model: LanguageModel) -> Iterator[None]:
    """Switch dropout off for one step only, so that a half-read generator leaves the model as it was."""
    if not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


def _check(model: LanguageModel, prompt: Sequence[int], n_tokens: int, temperature: float, top_k: int | None) -> None:
    if len(prompt) == 0:
        raise UserError("The prompt is empty: give at least one character to continue.")
    if n_tokens < 0:
        raise UserError(f"Cannot generate {n_tokens} tokens: choose 0 or more.")
    if not 0 <= temperature < float("inf"):
        raise UserError(f"A temperature of {temperature} is out of range: choose 0 (the likeliest token) or above.")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k={top_k} is out of range: choose 1 or more, or leave it out to sample from all tokens.")
    strangers = [int(token) for token in prompt if not 0 <= token < model.vocab_size]
    if strangers:
        raise ValueError(f"prompt tokens {strangers[:3]} lie outside the vocabulary of {model.vocab_size}")
