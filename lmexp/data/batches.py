"""Batches as a pure function of (tokens, shape, seed, step): resumed by an integer, the same for every arm."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lmexp.errors import UserError
from lmexp.streams import stream_seed


@dataclass(frozen=True)
class Batch:
    """One step's tokens.

    Attributes:
        inputs: (batch, time) int32.
        targets: (batch, time) int32: the token after each input.
        n_bytes: UTF-8 bytes that the targets stand for.
    """

    inputs: np.ndarray
    targets: np.ndarray
    n_bytes: int


class Batches:
    """All batches of a split, by step, without end.

    An epoch cuts the text into consecutive windows of ``context_length`` targets, from a random first token, and takes
    them in a random order; both are drawn from the seed's own stream for that epoch. So an epoch predicts each token
    of its windows once, and every epoch cuts elsewhere. A batch takes the next ``batch_size`` windows, across the end
    of an epoch where need be.

    Args:
        split_tokens: (n_tokens,) ids; a memory map will do.
        byte_lengths: (vocab_size,) bytes of each token.
        batch_size: windows per batch.
        context_length: tokens per window.
        seed: the run's seed.

    Raises:
        UserError: if the text is too short for one window, whatever its first token.
    """

    def __init__(
        self, split_tokens: np.ndarray, byte_lengths: np.ndarray, batch_size: int, context_length: int, seed: int
    ):
        # One window fewer than would fit when the first token is 0: then as many fit for any first token, and which
        # epoch a step lies in is a division.
        self.windows_per_epoch = len(split_tokens) // context_length - 1
        if self.windows_per_epoch < 1:
            raise UserError(
                f"The text is too short: {len(split_tokens)} tokens, but data.context_length={context_length} needs "
                f"{2 * context_length}; give more text or lower data.context_length."
            )
        # (n_tokens - context_length, context_length + 1): row i is the window whose first input is token i. No copy.
        self._windows = np.lib.stride_tricks.sliding_window_view(np.asarray(split_tokens), context_length + 1)
        self._byte_lengths = byte_lengths
        self._batch_size, self._context_length, self._seed = batch_size, context_length, seed
        self._epoch_starts = lru_cache(maxsize=2)(self._draw_epoch)  # only for speed: a pure function, remembered

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0; the same whatever was asked for before."""
        if step < 0:
            raise IndexError(f"step {step} is negative: steps count from 0")
        tokens = self._windows[self._starts(step)].astype(np.int32)
        targets = tokens[:, 1:]
        return Batch(tokens[:, :-1], targets, int(self._byte_lengths[targets].sum()))

    def _starts(self, step: int) -> np.ndarray:
        """Return (batch,): the first input token of each window of a batch."""
        ordinals = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        epochs, places = np.divmod(ordinals, self.windows_per_epoch)
        parts = [self._epoch_starts(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
        return np.concatenate(parts)

    def _draw_epoch(self, epoch: int) -> np.ndarray:
        """Return (windows_per_epoch,): where each window of an epoch starts, in the order in which they are taken."""
        generator = np.random.Generator(np.random.PCG64(stream_seed(self._seed, "data", epoch)))
        phase = generator.integers(self._context_length)
        return phase + self._context_length * generator.permutation(self.windows_per_epoch)
