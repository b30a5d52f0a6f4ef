"""The PyTorch side of ``minutes.py``: a GPT, and how nanoGPT trains it on Shakespeare."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WIDTH, _HEADS, _LAYERS, _DROPOUT = 384, 6, 6, 0.2
_RATE, _FINAL, _WARMUP = 1e-3, 0.1, 0.02  # the peak, the end as a part of it, and the part of the time that leads to it


class Trainer:
    """A model and fused AdamW, compiled by three steps that were undone: a ``Side`` of ``minutes.py``.

    Args:
        batches: token ids by step.
        vocab_size: rows of the embedding.
    """

    def __init__(self, batches: Any, vocab_size: int):
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("high")
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.batches = batches
        self.model = Gpt(vocab_size, batches[0].inputs.shape[1]).to(self.device)
        self.n_params = sum(weight.numel() for weight in self.model.parameters())
        self._compiled = torch.compile(self.model)
        self._optimizer = torch.optim.AdamW(_groups(self.model), betas=(0.9, 0.99), fused=True)
        before = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        for index in range(3):
            self.step(index, 0.0)
        self.wait()
        self.model.load_state_dict(before)
        self._optimizer.state.clear()

    def step(self, index: int, progress: float) -> None:
        """Take a step without waiting for it; ``progress`` in [0, 1) is the time used."""
        batch = self.batches[index]
        for group in self._optimizer.param_groups:
            group["lr"] = _rate(progress)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            loss = self._compiled(self._on_device(batch.inputs), self._on_device(batch.targets)) / batch.targets.size
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def wait(self) -> None:
        """Wait until the device has finished all steps."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def nats(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """Return the total cost of targets (batch, time) in nats, dropout off."""
        self.model.eval()
        with torch.no_grad():
            found = self.model(self._on_device(inputs), self._on_device(targets)).item()
        self.model.train()
        return float(found)

    def _on_device(self, tokens: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64)).to(self.device, non_blocking=True)


class Gpt(nn.Module):
    """Learned positions, norms before, GELU, no biases, a tied head; (inputs, targets) -> total nats."""

    def __init__(self, vocab_size: int, context_length: int):
        super().__init__()
        self.token, self.place = nn.Embedding(vocab_size, _WIDTH), nn.Embedding(context_length, _WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(_LAYERS))
        self.norm = nn.LayerNorm(_WIDTH, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                into_residual = name.endswith(("outward.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * _LAYERS) if into_residual else 0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the total cost of targets (batch, time) in nats."""
        x = F.dropout(self.token(inputs) + self.place.weight[: inputs.shape[1]], _DROPOUT, self.training)
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.token.weight)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(_WIDTH, bias=False) for _ in range(2))
        self.inward, self.outward = nn.Linear(_WIDTH, 3 * _WIDTH, bias=False), nn.Linear(_WIDTH, _WIDTH, bias=False)
        self.up, self.down = nn.Linear(_WIDTH, 4 * _WIDTH, bias=False), nn.Linear(4 * _WIDTH, _WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.inward(self.norms[0](x)).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True, dropout_p=_DROPOUT if self.training else 0.0)
        x = x + F.dropout(self.outward(mixed.transpose(1, 2).flatten(2)), _DROPOUT, self.training)
        return x + F.dropout(self.down(F.gelu(self.up(self.norms[1](x)))), _DROPOUT, self.training)


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]


def _rate(progress: float) -> float:
    """Return the learning rate: up linearly, then down a cosine."""
    if progress < _WARMUP:
        return _RATE * (progress + 1e-3) / _WARMUP  # the first steps are at no progress yet
    fallen = (progress - _WARMUP) / (1 - _WARMUP)
    return _RATE * (_FINAL + (1 - _FINAL) * (1 + math.cos(math.pi * fallen)) / 2)
