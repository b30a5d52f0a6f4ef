"""What a model has read of some texts, and what it expects next. Knows no architecture, only the caches' protocol."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, cast

import mlx.core as mx

from lmexp.errors import UserError
from lmexp.model.cache import Cache
from lmexp.model.language_model import LanguageModel

# Tokens of each row that are read at once: 2,048 tokens of llama_small take a CPU 2.3 s in chunks of 128 or 256, 2.5 s
# in those of 512, 3.8 s and twice the memory all at once (of scores, above all). Not tuned on a GPU.
_CHUNK_TOKENS = 256


class _Part(NamedTuple):
    """Some rows of a batch: which, what the model remembers of them, and the logits (rows, vocab_size) that follow."""

    rows: list[int]
    caches: list[Cache]
    logits: mx.array


class Context:
    """Rows of text that a model has read, each with the logits of its next token.

    Prompts of one length are read together, in chunks; rows of different lengths then stand in one batch, where a step
    costs the same for each. A row whose context is full is read again from its last half, and the rest forgotten; other
    rows go on as they were: what a row says depends on its own text alone. (To float32 rounding: products of another
    shape add up in another order.)

    Args:
        model: read in evaluation mode; left in the mode that it was in.
        texts: at least one token each; only the last ``context_length`` of each are read.
        n_tokens: how many will be appended, at most: no more memory than that is taken.

    Attributes:
        logits: (rows, vocab_size), of each row's next token: real tokens only.
    """

    def __init__(self, model: LanguageModel, texts: Sequence[Sequence[int]], n_tokens: int):
        check_texts(model, texts)
        self._model = model
        self._texts = [list(text[-model.context_length :]) for text in texts]  # less what is still in _appended
        self._appended: list[mx.array] = []
        self._lengths = [len(text) for text in self._texts]  # tokens of each row that the caches hold
        self._capacity = min(model.context_length, max(self._lengths) + n_tokens)
        self._caches, self.logits = _join(list(self._read(range(len(texts)))))

    @property
    def caches(self) -> list[Cache]:
        """What the model remembers of the rows, one cache per layer."""
        return self._caches

    def append(self, tokens: mx.array) -> None:
        """Add one token to each row, (rows,) int32, and find what follows it. Waits for no token, but see ``keep``."""
        self._appended.append(tokens)
        full = [row for row, length in enumerate(self._lengths) if length == self._model.context_length]
        if full:
            self._begin_anew(full, tokens)
        else:
            self.logits = read(self._model, self._caches, tokens[:, None])[:, -1]
            self._lengths = [length + 1 for length in self._lengths]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows in this order; a row may be kept more than once. Waits for the tokens appended."""
        self._settle()
        self._texts = [list(self._texts[row]) for row in rows]
        self._lengths = [self._lengths[row] for row in rows]
        self.logits = self.logits[mx.array(list(rows))]
        _take(self._caches, rows)

    def _begin_anew(self, full: list[int], tokens: mx.array) -> None:
        self._settle()
        half = max(1, self._model.context_length // 2)
        rest = [row for row in range(len(self._texts)) if row not in full]
        parts = []
        if rest:
            _take(self._caches, rest)
            logits = read(self._model, self._caches, tokens[mx.array(rest)][:, None])
            parts.append(_Part(rest, self._caches, logits[:, -1]))
        for row in full:
            self._texts[row] = self._texts[row][-half:]
        parts.extend(self._read(full))
        self._lengths = [half if row in full else length + 1 for row, length in enumerate(self._lengths)]
        self._caches, self.logits = _join(parts)

    def _settle(self) -> None:
        """Wait for the tokens that were appended and write them to the texts."""
        for tokens in self._appended:
            for text, token in zip(self._texts, cast(list[int], tokens.tolist()), strict=True):
                text.append(token)
        self._appended = []

    def _read(self, rows: Sequence[int]) -> Iterator[_Part]:
        """Read the texts of these rows, those of one length together, with new caches."""

        def length(row: int) -> int:
            return len(self._texts[row])

        for _, group in groupby(sorted(rows, key=length), length):
            alike = list(group)
            caches = self._model.make_caches(self._capacity)
            tokens = mx.array([self._texts[row] for row in alike], dtype=mx.int32)
            yield _Part(alike, caches, read(self._model, caches, tokens)[:, -1])


def read(model: LanguageModel, caches: Sequence[Cache], tokens: mx.array, n_last: int = 1) -> mx.array:
    """Read tokens (rows, time) after those that the caches hold, in chunks.

    Returns:
        (rows, n_last, vocab_size): the logits that follow each of the last ``n_last`` tokens.
    """
    hidden = []
    for start in range(0, tokens.shape[1], _CHUNK_TOKENS):
        if start:  # the memory of one chunk, not of all
            mx.eval([array for cache in caches for array in cache.arrays()])
        hidden.append(model.hidden(tokens[:, start : start + _CHUNK_TOKENS], caches))
    logits = model.logits(mx.concatenate(hidden, axis=1)[:, -n_last:])
    return logits[..., : model.vocab_size]


def check_texts(model: LanguageModel, texts: Sequence[Sequence[int]]) -> None:
    """Refuse what cannot be continued.

    Raises:
        UserError: an empty text, or none at all.
        ValueError: a token outside the vocabulary.
    """
    if not texts or not all(len(text) for text in texts):
        raise UserError("The prompt is empty: give at least one character to continue.")
    strangers = [int(token) for text in texts for token in text if not 0 <= token < model.vocab_size]
    if strangers:
        raise ValueError(f"prompt tokens {strangers[:3]} lie outside the vocabulary of {model.vocab_size}")


def _join(parts: list[_Part]) -> tuple[list[Cache], mx.array]:
    """Put the parts into one batch, its rows in their own order."""
    order = [row for part in parts for row in part.rows]
    caches, logits = parts[0].caches, parts[0].logits
    if len(parts) > 1:
        layers = zip(*(part.caches for part in parts), strict=True)
        caches = [type(layer[0]).merge(layer) for layer in layers]
        logits = mx.concatenate([part.logits for part in parts])
    if order != sorted(order):
        places = [order.index(row) for row in sorted(order)]
        _take(caches, places)
        logits = logits[mx.array(places)]
    return caches, logits


def _take(caches: Sequence[Cache], rows: Sequence[int]) -> None:
    chosen = mx.array(list(rows), dtype=mx.int32)
    for cache in caches:
        cache.take(chosen)
