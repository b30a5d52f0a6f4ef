"""Speculative decoding: a cheap draft guesses some tokens, the model checks them all in one step.

What comes out has exactly the model's own distribution under the same sampling options, whatever the draft is; a good
draft only makes it come sooner. Sources: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative
Decoding", algorithm 1; Chen et al. 2023, "Accelerating Large Language Model Decoding with Speculative Sampling".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, cast

import mlx.core as mx

from lmexp.decoding.context import check_texts, read
from lmexp.decoding.decoder import check_n_tokens
from lmexp.decoding.options import Sampling
from lmexp.decoding.sampling import also_seen, draw, seen_in, shape, token_keys
from lmexp.errors import UserError
from lmexp.model.cache import Cache
from lmexp.model.language_model import LanguageModel


class Guesses(NamedTuple):
    """What a draft thinks will follow: tokens (n,) int32, and the distribution (n, vocab_size) each was drawn from."""

    tokens: mx.array
    probabilities: mx.array


class Draft(Protocol):
    """Whatever guesses tokens."""

    def guess(self, n_tokens: int, index: int, seen: mx.array | None) -> Guesses:
        """Guess at most this many tokens, the first of which is the text's token ``index``.

        Args:
            n_tokens: 0 or more.
            index: counts the text's tokens from the end of the prompt; it picks the key of each draw.
            seen: (1, vocab_size) bool, the tokens that the text has; None unless there is a repetition penalty.
        """

    def settle(self, tokens: Sequence[int], n_right: int) -> None:
        """Take what the text goes on with, whose first ``n_right`` tokens were guessed."""


@dataclass
class Acceptance:
    """How well the draft guessed.

    Attributes:
        steps: of the model, each over several tokens.
        tokens: that came of them.
        proposed: how often a first, second, ... guess was made in a step.
        accepted: how often it was right, all before it being right too.
    """

    steps: int = 0
    tokens: int = 0
    proposed: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    def count(self, n_guesses: int, n_right: int) -> None:
        """Add one step of the model."""
        missing = n_guesses - len(self.proposed)
        self.proposed += [0] * missing
        self.accepted += [0] * missing
        for position in range(n_guesses):
            self.proposed[position] += 1
            self.accepted[position] += position < n_right
        self.steps += 1
        self.tokens += n_right + 1

    @property
    def tokens_per_step(self) -> float:
        """Tokens for each step of the model: 1 without a draft, at most one more than it guesses."""
        return self.tokens / self.steps if self.steps else 0.0

    def __str__(self) -> str:
        rates = ", ".join(f"{right / made:.2f}" for right, made in zip(self.accepted, self.proposed, strict=True))
        return (
            f"{self.tokens} tokens in {self.steps} steps of the model ({self.tokens_per_step:.2f} a step); "
            f"{sum(self.accepted)} of {sum(self.proposed)} guesses accepted; by place in the guess: {rates or 'none'}"
        )


class SpeculativeDecoder:
    """Continue one prompt with the help of a draft; iterate over it once to get the tokens.

    A batch of several rows would advance at the pace of its worst guess; give each row a decoder of its own.

    Args:
        model: whose distribution the text has.
        draft: from :class:`ModelDraft` or :class:`LookupDraft`, made with the same prompt, sampling and key.
        prompt: at least one token.
        n_tokens: how many to yield.
        sampling: how tokens are drawn.
        key: (1, 2), from :func:`lmexp.decoding.sampling.row_keys`.
        n_guesses: tokens that the draft guesses for each step of the model.

    Attributes:
        acceptance: how well the draft guessed so far.

    Raises:
        UserError: for an empty prompt, or a number out of its range.
        ValueError: for a prompt token outside the vocabulary.
    """

    def __init__(
        self,
        model: LanguageModel,
        draft: Draft,
        prompt: Sequence[int],
        n_tokens: int,
        sampling: Sampling,
        key: mx.array,
        n_guesses: int,
    ):
        check_n_tokens(n_tokens)
        if n_guesses < 1:
            raise UserError(f"A draft of {n_guesses} tokens is out of range: choose 1 or more, such as 4.")
        self._target, self._draft = RewindableText(model, prompt, n_tokens), draft
        self._n_tokens, self._n_guesses, self._sampling = n_tokens, n_guesses, sampling
        self._keys = _keys_of(key)
        self._seen = seen_in([prompt], model.vocab_size) if sampling.repetition_penalty is not None else None
        self.acceptance = Acceptance()

    def __iter__(self) -> Iterator[int]:
        """Yield the tokens; several come at once, after each step of the model."""
        n_done = 0
        while n_done < self._n_tokens:
            tokens = self._step(n_done)
            n_done += len(tokens)
            yield from tokens

    def _step(self, index: int) -> list[int]:
        room = min(self._n_guesses, self._n_tokens - index - 1, self._target.room())
        guesses = self._draft.guess(room, index, self._seen)
        logits = self._target.read(guesses.tokens)
        probabilities = mx.softmax(shape(logits, self._sampling, self._seen_after_each(guesses.tokens)), axis=-1)
        keys = mx.stack([token_keys(self._keys.checks, index + place)[0] for place in range(len(logits))])
        last = mx.stack([token_keys(self._keys.draws, index + place)[0] for place in range(len(logits))])
        n_right, token = verify(
            probabilities[None], guesses.probabilities[None], guesses.tokens[None], keys[None], last[None]
        )
        n_kept = cast(int, n_right.item())
        tokens = [*cast(list[int], guesses.tokens.tolist())[:n_kept], cast(int, token.item())]
        self._settle(tokens, n_kept, guesses.tokens.size)
        return tokens

    def _settle(self, tokens: list[int], n_right: int, n_guessed: int) -> None:
        self._target.settle(tokens, n_right)
        self._draft.settle(tokens, n_right)
        self.acceptance.count(n_guessed, n_right)
        if self._seen is not None:
            for token in tokens:
                self._seen = also_seen(self._seen, mx.array([token]))

    def _seen_after_each(self, guesses: mx.array) -> mx.array | None:
        """Return (guesses + 1, vocab_size): what the text has before the first guess, and after each."""
        if self._seen is None:
            return None
        rows = [self._seen]
        for guess in guesses:
            rows.append(also_seen(rows[-1], guess[None]))
        return mx.concatenate(rows)


def verify(
    probabilities: mx.array, guessed: mx.array, guesses: mx.array, check_keys: mx.array, draw_keys: mx.array
) -> tuple[mx.array, mx.array]:
    """Accept the guesses up to the first wrong one, and draw the token that follows them.

    A guess x is accepted with probability min(1, p(x) / q(x)); in place of a rejected one a token is drawn from
    max(0, p - q), normalised; after all of them from p. Leviathan et al. 2023, section 2.3 and appendix A.1: the tokens
    then follow p.

    Args:
        probabilities: p, (rows, n + 1, vocabulary): the model's at each guess, and after the last.
        guessed: q, (rows, n, vocabulary): what each guess was drawn from.
        guesses: (rows, n).
        check_keys: (rows, n + 1, 2), of the acceptance at each place.
        draw_keys: (rows, n + 1, 2), of the final draw at each place.

    Returns:
        How many guesses are right (rows,), and the token after them (rows,) int32.
    """
    rows, n_guesses = guesses.shape
    chosen = guesses[..., None]
    of_model = mx.take_along_axis(probabilities[:, :n_guesses], chosen, axis=-1)[..., 0]
    of_draft = mx.take_along_axis(guessed, chosen, axis=-1)[..., 0]
    chances = _uniform_each(check_keys.reshape(-1, 2)).reshape(rows, n_guesses + 1)[:, :n_guesses]
    accepted = chances * of_draft < of_model
    n_right = mx.cumprod(accepted.astype(mx.int32), axis=-1).sum(axis=-1)
    here = mx.arange(rows)
    following = probabilities[here, n_right]
    nothing_guessed = mx.zeros((rows, 1, probabilities.shape[-1]))
    left = mx.maximum(following - mx.concatenate([guessed, nothing_guessed], axis=1)[here, n_right], 0)
    # Nothing can be left of equal distributions but by rounding; a guess is then rejected with a chance of rounding.
    left = mx.where(left.sum(axis=-1, keepdims=True) > 0, left, following)
    return n_right, draw(mx.log(left), draw_keys[here, n_right])


_uniform_each = mx.vmap(lambda key: mx.random.uniform(key=key))


class ModelDraft:
    """A smaller model of the same vocabulary, guessing by the same sampling options.

    Args:
        model: the draft model.
        prompt, sampling, key: those of the decoder.

    Raises:
        ValueError: for a prompt token outside the vocabulary.
    """

    def __init__(self, model: LanguageModel, prompt: Sequence[int], n_tokens: int, sampling: Sampling, key: mx.array):
        self._text = RewindableText(model, prompt, n_tokens)
        self._sampling, self._key, self._vocab_size = sampling, _keys_of(key).guesses, model.vocab_size

    def guess(self, n_tokens: int, index: int, seen: mx.array | None) -> Guesses:
        """Draw each guess from what the draft model expects after those before it."""
        tokens, probabilities = mx.zeros((0,), mx.int32), [mx.zeros((0, self._vocab_size))]
        for place in range(min(n_tokens, self._text.room(n_tokens))):
            logits = shape(self._text.read(tokens[-1:])[-1:], self._sampling, seen)
            token = draw(logits, token_keys(self._key, index + place))
            seen = None if seen is None else also_seen(seen, token)
            tokens = mx.concatenate([tokens, token])
            probabilities.append(mx.softmax(logits, axis=-1))
        return Guesses(tokens, mx.concatenate(probabilities))

    def settle(self, tokens: Sequence[int], n_right: int) -> None:
        """Forget the guesses that were wrong."""
        self._text.settle(tokens, n_right)


class LookupDraft:
    """Guesses that what followed the last few tokens before will follow them again; costs nothing.

    Args:
        prompt: that of the decoder.
        vocab_size: of the model.
        n_alike: tokens that must be alike before anything is guessed.
    """

    def __init__(self, prompt: Sequence[int], vocab_size: int, n_alike: int = 2):
        self._text, self._vocab_size, self._n_alike = list(prompt), vocab_size, n_alike
        self._follows: dict[tuple[int, ...], int] = {}  # what comes after the last place where these tokens stood
        self._n_indexed = 0
        self.settle([], 0)

    def guess(self, n_tokens: int, index: int, seen: mx.array | None) -> Guesses:
        """Guess with certainty, or nothing."""
        start = self._follows.get(tuple(self._text[-self._n_alike :]), len(self._text))
        tokens = mx.array(self._text[start : start + n_tokens], dtype=mx.int32)
        return Guesses(tokens, (mx.arange(self._vocab_size) == tokens[:, None]).astype(mx.float32))

    def settle(self, tokens: Sequence[int], n_right: int) -> None:
        """Remember what followed what; the latest tokens are left out, as nothing follows them yet."""
        self._text += tokens
        for end in range(max(self._n_indexed, self._n_alike), len(self._text)):
            self._follows[tuple(self._text[end - self._n_alike : end])] = end
        self._n_indexed = len(self._text)


class RewindableText:
    """One text that a model reads, with guesses after it that may be forgotten again.

    As in :class:`lmexp.decoding.context.Context`, a full context is read again from its last half. A cache that cannot
    go back is copied before guesses are read, and what was right in them is read again.

    Args:
        model: read in evaluation mode; left in the mode that it was in.
        prompt: at least one token; only the last ``context_length`` are read.
        n_tokens: how many will follow, at most.
    """

    _n_read: int  # tokens of the window that the caches hold
    _n_guessed: int  # guesses after it that they hold
    _copies: list[Cache | None]  # of the caches that cannot go back, made when they held ...
    _n_copied: int  # ... so many tokens of the window

    def __init__(self, model: LanguageModel, prompt: Sequence[int], n_tokens: int):
        check_texts(model, [prompt])
        self._model = model
        self._window = list(prompt[-model.context_length :])
        self._capacity = min(model.context_length, len(self._window) + n_tokens)
        self._read_anew()

    def room(self, n_wanted: int = 0) -> int:
        """Return how many guesses the context has room for, read anew if it is overfull with those wanted."""
        context_length = self._model.context_length
        half = max(1, context_length // 2)
        if len(self._window) + n_wanted > context_length and len(self._window) > half:
            self._window = self._window[-half:]
            self._read_anew()
        return context_length - len(self._window)

    def read(self, guesses: mx.array) -> mx.array:
        """Read what is unread of the text, and (n,) guesses after it.

        Returns:
            (n, vocab_size) logits after each guess; before them, one more row where some of the text was unread.
        """
        if not self._n_guessed:
            self._prepare_to_forget()
        unread = self._window[self._n_read :]
        tokens = mx.concatenate([mx.array(unread, dtype=mx.int32), guesses])
        logits = read(self._model, self._caches, tokens[None], guesses.size + bool(unread))[0]
        self._n_read += len(unread)
        self._n_guessed += guesses.size
        return logits

    def settle(self, tokens: Sequence[int], n_right: int) -> None:
        """Add tokens to the text, the first ``n_right`` of which were guessed, and forget the other guesses."""
        n_kept = min(n_right, self._n_guessed)
        self._forget(self._n_guessed - n_kept, n_kept)
        self._n_guessed = 0
        self._window += tokens

    def _read_anew(self) -> None:
        self._caches = self._model.make_caches(self._capacity)
        self._copies = []
        self._n_read = self._n_guessed = self._n_copied = 0

    def _prepare_to_forget(self) -> None:
        """Copy the caches that cannot go back, once they hold all of the text but its last token."""
        before = self._window[self._n_read : -1]
        if before and not all(cache.can_rewind(1) for cache in self._caches):
            read(self._model, self._caches, mx.array([before], dtype=mx.int32))
            self._n_read += len(before)
        self._copies = [None if cache.can_rewind(1) else cache.copy() for cache in self._caches]
        self._n_copied = self._n_read

    def _forget(self, n_wrong: int, n_kept: int) -> None:
        if all(cache.can_rewind(n_wrong) for cache in self._caches):
            self._n_read += n_kept
            for cache in self._caches:
                cache.rewind(n_wrong)
        else:
            self._go_back_to_copies(self._n_read + self._n_guessed - self._n_copied)

    def _go_back_to_copies(self, n_tokens: int) -> None:
        pairs = list(zip(self._caches, self._copies, strict=True))
        if any(copy is None and not cache.can_rewind(n_tokens) for cache, copy in pairs):
            self._read_anew()  # it could go back when guessing began: a window has become full since
            return
        for cache, copy in pairs:
            if copy is None:
                cache.rewind(n_tokens)
        self._caches = [cache if copy is None else copy for cache, copy in pairs]
        self._n_read = self._n_copied


class _Keys(NamedTuple):
    """Streams of one text: of the draft's guesses, of their acceptance, of the tokens after them; (1, 2) each."""

    guesses: mx.array
    checks: mx.array
    draws: mx.array


def _keys_of(key: mx.array) -> _Keys:
    """A place in the text uses one key of each; keys of places that a wrong guess cut off have decided nothing yet."""
    return _Keys(*(part[None] for part in mx.random.split(key[0], 3)))
