"""What a step lowers, and what is measured on the way."""

from collections.abc import Callable, Iterator

import mlx.core as mx

from lmexp.model.language_model import LanguageModel
from lmexp.model.likelihood import token_nats

# Measured on one batch: ``loss_nats``, a mean over its tokens; for a mixture of experts also ``expert_tokens``,
# (routed layers, n_experts) int32, how many tokens each expert got.
Measured = dict[str, mx.array]
# (model, inputs, targets) -> what a step lowers, a scalar, and what was measured. It changes nothing in the model.
Objective = Callable[[LanguageModel, mx.array, mx.array], tuple[mx.array, Measured]]


def next_token_loss(model: LanguageModel, inputs: mx.array, targets: mx.array) -> tuple[mx.array, Measured]:
    """Return the mean cost of the targets in nats per token; where the model has them, further tokens' beside it.

    What is measured is the next token's cost alone, so that it can be compared between models.

    Args:
        model: in training mode.
        inputs, targets: (batch, time).
    """
    hidden, loads = model.hidden_and_loads(inputs)
    loss = next_nats = token_nats(model.logits(hidden), targets).mean()
    if model.spec.future_tokens:
        futures, more_loads = model.future_hidden(hidden, inputs)
        further = list(_further_nats(model, futures, targets))
        loss, loads = loss + model.spec.future_weight * sum(further) / len(further), loads + more_loads
    measured = {"loss_nats": next_nats}
    return loss, measured | {"expert_tokens": mx.stack(loads)} if loads else measured


def _further_nats(model: LanguageModel, futures: list[mx.array], targets: mx.array) -> Iterator[mx.array]:
    """Yield the mean cost at each depth: k further on, the last k positions have no target."""
    for depth, hidden in enumerate(futures, start=1):
        yield token_nats(model.logits(hidden), targets[:, depth:]).mean()


def load_max_over_mean(expert_tokens: mx.array) -> mx.array:
    """Return the load of the busiest expert over the mean, in the layer where that is worst; 1 means even."""
    load = expert_tokens.astype(mx.float32)
    return (load.max(axis=1) / load.mean(axis=1)).max()
