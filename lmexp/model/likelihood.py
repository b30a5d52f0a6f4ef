"""What predicting a token cost: the one cross-entropy that training lowers and the judge reports."""

import mlx.core as mx
import mlx.nn as nn


def token_nats(logits: mx.array, targets: mx.array) -> mx.array:
    """Return the cost of each target in nats, computed in float32.

    Args:
        logits: (batch, time, vocabulary), unnormalised.
        targets: (batch, time) token ids.

    Returns:
        (batch, time) float32: -log softmax(logits)[target].
    """
    logits = logits.astype(mx.float32)
    if mx.default_device() == mx.gpu:
        return nn.losses.cross_entropy(logits, targets, reduction="none")
    # On a CPU, MLX's own logsumexp is one scalar loop forward and another backward; written out, a compiled function
    # fuses it into vector code and keeps the exponentials for the gradient: half the time at a vocabulary of 2,048.
    largest = mx.stop_gradient(logits.max(axis=-1, keepdims=True))
    total = mx.exp(logits - largest).sum(axis=-1)
    chosen = mx.take_along_axis(logits - largest, targets[..., None], axis=-1).squeeze(-1)
    return mx.log(total) - chosen
