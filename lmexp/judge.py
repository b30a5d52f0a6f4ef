"""The judge: bits per byte on a fixed text. The same code for every arm; no config can tune it."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from lmexp.model.likelihood import token_nats

# Windows scored together: a matter of speed and memory, not of the result.
_TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class Score:
    """What predicting a text cost: total nats over ``n_tokens`` predicted tokens that stand for ``n_bytes`` bytes."""

    nats: float
    n_tokens: int
    n_bytes: int

    @property
    def bits_per_byte(self) -> float:
        """Total nats / (ln 2 x bytes): comparable between tokenizers."""
        return self.nats / (math.log(2) * self.n_bytes)

    @property
    def loss_nats(self) -> float:
        """Mean nats per token: comparable only for one tokenizer."""
        return self.nats / self.n_tokens


class Judge:
    """Scores a model on one text: every token but the first is predicted exactly once.

    The text is cut into consecutive windows of ``context_length`` targets. Weights are used as they are (float32),
    dropout is off, and sums are kept in double precision: the same weights always give the same figure.

    Args:
        model: maps token ids (batch, time) to logits (batch, time, vocabulary).
        tokens: (n_tokens,) token ids of the whole text, at least two.
        byte_lengths: (vocab_size,) UTF-8 bytes that each token stands for.
        context_length: tokens a prediction may look back on.
        compiled: whether the forward pass goes through ``mx.compile``.
        streams: take batches in turn; none means MLX's default stream.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: np.ndarray,
        byte_lengths: np.ndarray,
        context_length: int,
        compiled: bool,
        streams: Sequence[mx.Stream] = (),
    ):
        self._model = model
        self._windows = _windows(np.asarray(tokens), context_length)
        self._n_tokens = len(tokens) - 1
        self._n_bytes = int(byte_lengths[np.asarray(tokens[1:])].sum())
        self._at_once = max(1, _TOKENS_AT_ONCE // context_length)
        self._streams = list(streams) or [mx.default_stream(mx.default_device())]
        # A compiled function stays on the stream that it was traced on.
        self._nats_of: list[Any] = [
            partial(mx.compile, inputs=[model.state])(partial(self._token_nats)) if compiled else self._token_nats
            for _ in self._streams
        ]

    def __call__(self) -> Score:
        """Score the model's weights as they are now. Leaves the model in the mode that it was in."""
        return Score(self._total(self._starts), self._n_tokens, self._n_bytes)

    def warm(self) -> None:
        """Compile for both shapes of batch (the last is smaller), so that the first scoring is no slower."""
        self._total({*self._starts[: len(self._streams)], self._starts[-1]})

    def _total(self, starts: Iterable[int]) -> float:
        was_training = self._model.training
        self._model.eval()
        nats = sum(np.asarray(batch).sum(dtype=np.float64) for batch in self._scored_ahead(starts))
        self._model.train(was_training)
        return float(nats)

    def _scored_ahead(self, starts: Iterable[int]) -> Iterator[mx.array]:
        """Yield the nats of each batch, in order, while the streams are at the next ones already."""
        under_way: deque[mx.array] = deque()
        for start in sorted(starts):
            under_way.append(self._scored(start))
            if len(under_way) > len(self._streams):
                yield under_way.popleft()
        yield from under_way

    def _scored(self, start: int) -> mx.array:
        turn = start // self._at_once % len(self._streams)
        with mx.stream(self._streams[turn]):
            scored = self._nats_of[turn](*self._batch(start))
            mx.async_eval(scored)
        return scored

    @property
    def _starts(self) -> range:
        """The first window of every batch."""
        return range(0, len(self._windows[0]), self._at_once)

    def _batch(self, start: int) -> list[mx.array]:
        return [mx.array(array[start : start + self._at_once]) for array in self._windows]

    def _token_nats(self, inputs: mx.array, targets: mx.array, weights: mx.array) -> mx.array:
        return token_nats(self._model(inputs), targets) * weights


def _windows(tokens: np.ndarray, context_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs, targets and weights, each (n_windows, context_length); padding weighs nothing."""
    n_windows = math.ceil((len(tokens) - 1) / context_length)
    missing = n_windows * context_length - (len(tokens) - 1)
    padded = np.pad(tokens.astype(np.int32), (0, missing))
    weights = np.pad(np.ones(len(tokens) - 1, np.float32), (0, missing))
    shape = (n_windows, context_length)
    return padded[:-1].reshape(shape), padded[1:].reshape(shape), weights.reshape(shape)
