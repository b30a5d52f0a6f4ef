"""Rows of text that grow together, a token a step, while the device is always one step ahead of the reader."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import mlx.core as mx

from lmexp.decoding.context import Context, check_texts
from lmexp.decoding.options import Sampling
from lmexp.decoding.sampling import also_seen, log_probabilities, sample, seen_in, token_keys
from lmexp.errors import UserError
from lmexp.model.cache import Cache
from lmexp.model.language_model import LanguageModel


class Token(NamedTuple):
    """One token of one row."""

    row: int
    token: int
    log_probability: float  # under the model itself, before any of the sampling's options; in nats


class _Step(NamedTuple):
    """What one step drew, (rows,) each; the device may still be at it."""

    rows: list[int]
    tokens: mx.array
    log_probabilities: mx.array

    def listed(self) -> list[Token]:
        """Wait for the device."""
        tokens, log_probabilities = (
            cast(list[int], self.tokens.tolist()),
            cast(list[float], self.log_probabilities.tolist()),
        )
        return [Token(*fields) for fields in zip(self.rows, tokens, log_probabilities, strict=True)]


class Decoder:
    """Continue prompts, all of them in one batch; iterate over it once to get the tokens of each step.

    The next step is dispatched before a step's tokens are handed out, so the device works while the caller prints. A
    prompt that is given more than once is read once. What a row says depends on its prompt and its key alone.

    Args:
        model: whose vocabulary the tokens belong to.
        prompts: at least one token each; only the last ``context_length`` are read.
        n_tokens: how many each row gets, unless ``finish`` is told of it.
        sampling: how tokens are drawn.
        keys: (rows, 2), from :func:`lmexp.decoding.sampling.row_keys`; no global random state is read or changed.

    Raises:
        UserError: for no prompt, an empty one, or a number out of its range.
        ValueError: for a prompt token outside the vocabulary.
    """

    def __init__(
        self, model: LanguageModel, prompts: Sequence[Sequence[int]], n_tokens: int, sampling: Sampling, keys: mx.array
    ):
        check_texts(model, prompts)
        check_n_tokens(n_tokens)
        self._model, self._sampling, self._n_tokens = model, sampling, n_tokens
        self._prompts = [tuple(prompt) for prompt in prompts]
        self._keys = keys
        self._seen: mx.array | None = None
        if sampling.repetition_penalty is not None:
            self._seen = seen_in(self._prompts, model.vocab_size)
        self._finished: set[int] = set()
        self._context: Context | None = None

    @property
    def caches(self) -> list[Cache]:
        """What the model remembers of the rows, one cache per layer; none before the first token."""
        return [] if self._context is None else self._context.caches

    def finish(self, row: int) -> None:
        """Let a row leave the batch: no more of its tokens are wanted."""
        self._finished.add(row)

    def __iter__(self) -> Iterator[list[Token]]:
        """Yield one token of each row that is not finished."""
        if self._n_tokens == 0:
            return
        context = self._context = self._begin()
        step = self._draw(context, list(range(len(self._prompts))), 0)
        for index in range(1, self._n_tokens):
            context.append(step.tokens)
            following = self._draw(context, step.rows, index)
            yield step.listed()
            places = [place for place, row in enumerate(following.rows) if row not in self._finished]
            if not places:
                return
            step = following if len(places) == len(following.rows) else self._keep(context, following, places)
        yield step.listed()

    def _begin(self) -> Context:
        distinct = list(dict.fromkeys(self._prompts))
        context = Context(self._model, distinct, self._n_tokens)
        if distinct != self._prompts:
            context.keep([distinct.index(prompt) for prompt in self._prompts])
        return context

    def _draw(self, context: Context, rows: list[int], index: int) -> _Step:
        tokens = sample(context.logits, self._sampling, token_keys(self._keys, index), self._seen)
        if self._seen is not None:
            self._seen = also_seen(self._seen, tokens)
        step = _Step(rows, tokens, log_probabilities(context.logits, tokens))
        mx.async_eval(step.tokens, step.log_probabilities)
        return step

    def _keep(self, context: Context, step: _Step, places: list[int]) -> _Step:
        context.keep(places)
        chosen = mx.array(places)
        self._keys = self._keys[chosen]
        self._seen = None if self._seen is None else self._seen[chosen]
        return _Step([step.rows[place] for place in places], step.tokens[chosen], step.log_probabilities[chosen])


def check_n_tokens(n_tokens: int) -> None:
    """Raise UserError for a number of tokens below zero."""
    if n_tokens < 0:
        raise UserError(f"Cannot generate {n_tokens} tokens: choose 0 or more.")
