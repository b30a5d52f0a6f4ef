"""The plainest MLX loop over the same model, loss and tokens: what lmexp's own loop must not lose to."""

from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_map

from lmexp.bench.child import Task
from lmexp.bench.pace import tokens_per_second
from lmexp.data import load_dataset
from lmexp.run import build_model, make_batches
from lmexp.train.objective import next_token_loss


def bare(task: Task) -> dict[str, float]:
    """Train with AdamW at a constant rate, compiled and in the precision that the config says."""
    config, spec = task.config, task.config.optimizer
    dataset = load_dataset(config.data)
    model, batches = build_model(config, dataset), make_batches(config, dataset)
    dtype = getattr(mx, config.precision.compute)
    optimizer = optim.AdamW(spec.lr, weight_decay=spec.weight_decay, bias_correction=True, **spec.options)
    optimizer.init(model.trainable_parameters())
    state = [model.state, optimizer.state]

    def loss_of(parameters: Any, inputs: mx.array, targets: mx.array) -> mx.array:
        model.update(tree_map(lambda weight: weight.astype(dtype), parameters))
        return next_token_loss(model, inputs, targets)[0]

    def update(inputs: mx.array, targets: mx.array) -> mx.array:
        parameters = model.trainable_parameters()
        loss, gradient = mx.value_and_grad(loss_of)(parameters, inputs, targets)
        model.update(parameters)
        gradient, _ = optim.clip_grad_norm(gradient, spec.clip_norm)
        optimizer.update(model, gradient)
        return loss

    compiled = mx.compile(update, inputs=state, outputs=state) if config.compile.step else update

    def step(index: int) -> None:
        batch = batches[index]
        mx.async_eval(compiled(mx.array(batch.inputs), mx.array(batch.targets)), state)

    tokens_per_step = config.data.batch_size * config.data.context_length
    return {"tokens_per_second": tokens_per_second(step, lambda: mx.eval(state), tokens_per_step, task.seconds)}
