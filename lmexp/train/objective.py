"""What a step lowers, and what is measured on the way."""

from collections.abc import Callable, Iterator, Sequence

import mlx.core as mx
from mlx.utils import tree_map

from lmexp.model.language_model import LanguageModel

# Measured on one batch: ``loss_nats``, a mean over its tokens; for a mixture of experts also ``expert_tokens``,
# (routed layers, n_experts) int32, how many tokens each expert got.
Measured = dict[str, mx.array]
# (model, inputs, targets, keys of dropout) -> what a step lowers, a scalar, and what was measured. It changes nothing
# in the model.
Objective = Callable[[LanguageModel, mx.array, mx.array, mx.array | None], tuple[mx.array, Measured]]


def next_token_loss(
    model: LanguageModel,
    inputs: mx.array,
    targets: mx.array,
    keys: mx.array | None = None,
    checkpoint: bool = False,
) -> tuple[mx.array, Measured]:
    """Return the mean cost of the targets in nats per token; where the model has them, further tokens' beside it.

    What is measured is the next token's cost alone, so that it can be compared between models.

    Args:
        model: in training mode.
        inputs, targets: (batch, time).
        keys: of dropout, (batch, places, 2); None: nothing is dropped.
        checkpoint: keep each layer's input only, and compute the layer again for the gradient.
    """
    hidden, loads = model.hidden_and_loads(inputs, keys=keys, checkpoint=checkpoint)
    loss = next_nats = model.mean_nats(hidden, targets)
    if model.spec.future_tokens:
        futures, more_loads = model.future_hidden(hidden, inputs, keys)
        further = list(_further_nats(model, futures, targets))
        loss, loads = loss + model.spec.future_weight * sum(further) / len(further), loads + more_loads
    measured = {"loss_nats": next_nats}
    return loss, measured | {"expert_tokens": mx.stack(loads)} if loads else measured


def over_streams(objective: Objective, streams: Sequence[mx.Stream]) -> Objective:
    """Return the same objective, computed for equal parts of the batch on streams of their own.

    As many streams are used as divide the batch. What an example's masks are depends on its own keys, not on how many
    streams there are.
    """

    def split(
        model: LanguageModel, inputs: mx.array, targets: mx.array, keys: mx.array | None
    ) -> tuple[mx.array, Measured]:
        n_parts = max(count for count in range(1, len(streams) + 1) if inputs.shape[0] % count == 0)
        if n_parts == 1:
            return objective(model, inputs, targets, keys)
        losses, measured = [], []
        parts = zip(streams[:n_parts], *(split_batch(each, n_parts) for each in (inputs, targets, keys)), strict=True)
        for stream, *part in parts:
            with mx.stream(stream):
                loss, of_part = objective(model, *part)
            losses.append(loss)
            measured.append(of_part)
        return mx.stack(losses).mean(), put_together(measured)

    return split


def split_batch(array: mx.array | None, n_parts: int) -> list[mx.array] | list[None]:
    """Cut (batch, ...) into equal parts of the batch; None into as many."""
    return [None] * n_parts if array is None else list(mx.split(array, n_parts))


def put_together(measured: Sequence[Measured]) -> Measured:
    """Put together what equal parts of a batch measured: whole numbers are counts, which add up; the rest are means."""
    total: Measured = tree_map(lambda *parts: sum(parts), *measured)
    return {
        name: value if mx.issubdtype(value.dtype, mx.integer) else value / len(measured)
        for name, value in total.items()
    }


def _further_nats(model: LanguageModel, futures: list[mx.array], targets: mx.array) -> Iterator[mx.array]:
    """Yield the mean cost at each depth: k further on, the last k positions have no target."""
    for depth, hidden in enumerate(futures, start=1):
        yield model.mean_nats(hidden, targets[:, depth:])


def load_max_over_mean(expert_tokens: mx.array) -> mx.array:
    """Return the load of the busiest expert over the mean, in the layer where that is worst; 1 means even."""
    load = expert_tokens.astype(mx.float32)
    return (load.max(axis=1) / load.mean(axis=1)).max()
