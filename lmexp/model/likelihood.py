"""What predicting a token cost: the one cross-entropy that training lowers and the judge reports."""

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from lmexp.model.gradient import with_gradient

# Logits that may be in memory at once in training: more than a small vocabulary ever has. Each piece adds its gradient
# to that of the whole weight, so pieces must be large: on a CPU 333 tokens of a vocabulary of 50,304 (64 MiB in
# float32), which cost 3% of the time; on a GPU 1 GiB in bfloat16 (118M parameters, 32 x 1,024 tokens on an H200: 1% of
# the time; a quarter of that size costs 5%).
_MOST_LOGITS = {mx.DeviceType.cpu: 1 << 24, mx.DeviceType.gpu: 1 << 29}

# (hidden (tokens, d_model), weight (vocabulary, d_model)) -> logits (tokens, vocabulary)
Head = Callable[[mx.array, mx.array], mx.array]


def token_nats(logits: mx.array, targets: mx.array) -> mx.array:
    """Return the cost of each target in nats, computed in float32.

    Args:
        logits: (batch, time, vocabulary), unnormalised.
        targets: (batch, time) token ids.

    Returns:
        (batch, time) float32: -log softmax(logits)[target].
    """
    if mx.default_device() == mx.gpu:
        return mx.fast.cross_entropy(logits, targets)  # one kernel, which adds up in float32
    logits = logits.astype(mx.float32)
    # On a CPU, MLX's own logsumexp is one scalar loop forward and another backward; written out, a compiled function
    # fuses it into vector code and keeps the exponentials for the gradient: half the time at a vocabulary of 2,048.
    largest = mx.stop_gradient(logits.max(axis=-1, keepdims=True))
    total = mx.exp(logits - largest).sum(axis=-1)
    chosen = mx.take_along_axis(logits - largest, targets[..., None], axis=-1).squeeze(-1)
    return mx.log(total) - chosen


def mean_nats(head: Head, hidden: mx.array, weight: mx.array, targets: mx.array) -> mx.array:
    """Return the mean cost of all targets in nats, to be differentiated, without ever holding too many logits.

    Where all logits would be more than 2**24 (2**29 on a GPU), the tokens are taken in pieces, one after the other, and
    the gradient of a piece is computed along with its cost: its logits are gone before those of the next are made, and
    nothing is computed twice.

    Args:
        head: maps normed states to logits.
        hidden: (batch, time, d_model).
        weight: (vocabulary, d_model), what the head multiplies by.
        targets: (batch, time) token ids.

    Returns:
        A float32 scalar: the mean of `token_nats`.
    """
    n_pieces = math.ceil(targets.size * weight.shape[0] / _most_logits())
    if n_pieces == 1:
        return token_nats(head(hidden, weight), targets).mean()
    return _mean_in_pieces(head, hidden.reshape(-1, hidden.shape[-1]), weight, targets.reshape(-1), n_pieces)


def _most_logits() -> int:
    return _MOST_LOGITS[mx.default_device().type]


def _mean_in_pieces(head: Head, hidden: mx.array, weight: mx.array, targets: mx.array, n_pieces: int) -> mx.array:
    size = math.ceil(targets.size / n_pieces)
    cuts = list(range(size, targets.size, size))

    # By the weight's transpose, (d_model, vocabulary), since its gradient comes out of the product like that: arrays
    # that lie alike are added up fastest.
    def share(hidden: mx.array, transposed: mx.array, targets_: mx.array) -> mx.array:
        return token_nats(head(hidden, transposed.T), targets_).sum() / targets.size

    def mean_and_gradients(hidden: mx.array, weight: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        transposed = weight.T
        of_hidden: list[mx.array] = []
        totals: list[mx.array] = []  # the mean, and its gradient by the weight, of the pieces so far
        for states, answers in zip(mx.split(hidden, cuts), mx.split(targets, cuts), strict=True):
            # MLX takes what is independent in an order of its own: a piece must wait for all that the last one leaves.
            if totals:
                states = mx.depends([states], [*totals, of_hidden[-1]])[0]
            nats, (to_states, to_weight) = mx.value_and_grad(share, argnums=(0, 1))(states, transposed, answers)
            found = [nats, to_weight.astype(mx.float32)]
            totals = [total + more for total, more in zip(totals, found, strict=True)] if totals else found
            of_hidden.append(to_states)
        mean, of_weight = totals
        return mean, mx.concatenate(of_hidden), of_weight.T.astype(weight.dtype)

    def gradient(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, ...]:
        return tuple((cotangents[0] * known).astype(known.dtype) for known in outputs[1:])

    mean: mx.array = with_gradient(mean_and_gradients, gradient)(hidden, weight)[0]
    return mean
