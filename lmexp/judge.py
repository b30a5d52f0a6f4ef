"""The judge: bits per byte on a fixed text. The same code for every arm; no config can tune it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

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

    The text is cut into consecutive windows of ``context_length`` targets. Weights are used as they are (float32), dropout
    is off, sums are kept in double precision: the same weights always give the same figure.

    Args:
        tokens: (n_tokens,) token ids of the whole text, at least two.
        byte_lengths: (vocab_size,) UTF-8 bytes that each token stands for.
        context_length: tokens a prediction may look back on.
        compiled: whether the forward pass goes through ``mx.compile``.
    """

    def __init__(self, tokens: np.ndarray, byte_lengths: np.ndarray, context_length: int, compiled: bool):
        self._inputs, self._targets, self._weights = _windows(np.asarray(tokens), context_length)
        self._n_tokens = len(tokens) - 1
        self._n_bytes = int(byte_lengths[np.asarray(tokens[1:])].sum())
        self._at_once = max(1, _TOKENS_AT_ONCE // context_length)
        self._compiled = compiled
        self._nats_of: dict[int, Callable[..., mx.array]] = {}

    def __call__(self, model: nn.Module) -> Score:
        """Score the model. Leaves it in the mode (training or evaluation) that it was in."""
        was_training = model.training
        model.eval()
        nats_of = self._nats_of.setdefault(id(model), self._forward(model))
        nats = sum(nats_of(*batch).item() for batch in self._batches())
        model.train(was_training)
        return Score(nats, self._n_tokens, self._n_bytes)

    def _batches(self) -> Any:
        for start in range(0, len(self._inputs), self._at_once):
            rows = slice(start, start + self._at_once)
            yield tuple(mx.array(array[rows]) for array in (self._inputs, self._targets, self._weights))

    def _forward(self, model: nn.Module) -> Callable[..., mx.array]:
        def total_nats(inputs: mx.array, targets: mx.array, weights: mx.array) -> mx.array:
            logits = model(inputs).astype(mx.float32)
            return (nn.losses.cross_entropy(logits, targets, reduction="none") * weights).sum()

        return partial(mx.compile, inputs=[model.state])(total_nats) if self._compiled else total_nats


def _windows(tokens: np.ndarray, context_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs, targets (int32) and weights (float32), each (n_windows, context_length); padding weighs nothing."""
    n_windows = math.ceil((len(tokens) - 1) / context_length)
    missing = n_windows * context_length - (len(tokens) - 1)
    padded = np.pad(tokens.astype(np.int32), (0, missing))
    weights = np.pad(np.ones(len(tokens) - 1, np.float32), (0, missing))
    shape = (n_windows, context_length)
    return padded[:-1].reshape(shape), padded[1:].reshape(shape), weights.reshape(shape)
