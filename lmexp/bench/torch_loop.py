"""Training in PyTorch as its users would: the same model, loss, clipping and AdamW; eager or compiled."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmexp.bench.child import Task
from lmexp.bench.pace import tokens_per_second
from lmexp.bench.torch_model import TorchModel
from lmexp.data import Batches, load_dataset
from lmexp.errors import UserError
from lmexp.train.spec import OptimizerSpec


def train(task: Task) -> dict[str, float]:
    """Train at a constant rate; ``options``: ``compiled``, and ``threads`` for a CPU."""
    config, device = task.config, _device(task.device)
    torch.set_num_threads(task.options["threads"])
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as MLX multiplies there
    dataset = load_dataset(config.data)
    data, tokenizer = config.data, dataset.tokenizer
    batches = Batches(dataset.train.tokens, tokenizer.byte_lengths, data.batch_size, data.context_length, config.seed)
    model = TorchModel(config.model, tokenizer.vocab_size, tokenizer.padded_vocab_size, data.context_length).to(device)
    trainer = Trainer(model, config.optimizer, config.precision.compute, task.options["compiled"])

    def step(index: int) -> None:
        batch = batches[index]
        trainer.step(_on(device, batch.inputs), _on(device, batch.targets))

    tokens_per_step = data.batch_size * data.context_length
    return {"tokens_per_second": tokens_per_second(step, _wait(device), tokens_per_step, task.seconds)}


class Trainer:
    """A model, fused AdamW, and the step that changes them.

    Args:
        model: on its device.
        spec: AdamW's.
        compute: ``bfloat16`` computes under autocast, with float32 weights.
        compiled: through ``torch.compile``: recorded graphs (``reduce-overhead``) on CUDA, its default elsewhere.
    """

    def __init__(self, model: TorchModel, spec: OptimizerSpec, compute: str, compiled: bool):
        self.model, self.spec, self.compute, self.compiled = model, spec, compute, compiled
        self.device = next(model.parameters()).device.type
        self.optimizer = _make_adamw(model, spec)
        mode = "reduce-overhead" if self.device == "cuda" else "default"
        self._loss: Callable[[Tensor, Tensor], Tensor] = (
            torch.compile(model.loss, mode=mode) if compiled else model.loss
        )

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Take one step and return its loss, without waiting for a GPU."""
        if self.compiled:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.compute == "bfloat16"):
            loss = self._loss(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def _make_adamw(model: TorchModel, spec: OptimizerSpec) -> torch.optim.AdamW:
    """Make the optimizer that decays matrices and leaves vectors alone, as ours does."""
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": spec.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas, eps = tuple(spec.options["betas"]), spec.options["eps"]
    return torch.optim.AdamW([group for group in groups if group["params"]], spec.lr, betas, eps, fused=True)


def _device(device: str | None) -> str:
    """Return PyTorch's name of the device on which MLX computes."""
    if device != "gpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    raise UserError("PyTorch finds no GPU here where MLX has one: install a build of it for this GPU.")


def _on(device: str, tokens: np.ndarray) -> Tensor:
    """Hand token ids to the device as PyTorch wants them, 64 bits wide."""
    return torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64)).to(device, non_blocking=True)


def _wait(device: str) -> Callable[[], None]:
    return {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize, "cpu": lambda: None}[device]
