"""Measure what is learned in a given time: ``python benchmarks/minutes.py SECONDS [--sides A,B] [KEY=VALUE]``.

Sides, each in a process of its own, one after the other, on the same tokens, cut into the same training and validation
text, and scored alike: bits per byte of the whole validation text, every token but the first predicted once, at 20
equal parts of the time; the best and the last score are printed. Only training is charged: building, compiling, three
warm-up steps (undone) and scoring are not.

- ``lmexp``: ``lmexp run`` with the overrides given.
- ``torch``: a GPT as nanoGPT trains it on Shakespeare (6 layers, 384 wide, learned positions, dropout 0.2, AdamW at
  1e-3 with betas 0.9 and 0.99, cosine), in PyTorch, compiled, bfloat16 on a GPU.
- ``lmxlab``: that package's trainer with its defaults (AdamW at 3e-4, cosine) on its LLaMA of llama_small's shape with
  dropout 0.2; uncompiled, since version 0.4.0 ends in an error when compiled (it needs Python 3.12).

Overrides such as ``data.context_length=256 data.batch_size=64`` hold for all sides as far as they are about data.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

_N_SCORES = 20
_STEPS_AHEAD = 10  # handed to the device before it is waited for
_TOKENS_AT_ONCE = 8192  # scored together
_WARMUP = 0.02  # of the time; nanoGPT warms up for 100 of 5,000 steps


class Side(Protocol):
    """A trainer, ready to take its first step."""

    def step(self, index: int, progress: float) -> None:
        """Take a step without waiting for it; ``progress`` in [0, 1) is the time used."""

    def wait(self) -> None:
        """Wait until the device has finished all steps."""

    def nats(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """Return the total cost of targets (batch, time) in nats, dropout off."""


def main() -> None:
    """Run every side and print one line for each; with ``--one``, run that side in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--sides", default="lmexp,torch", help="of lmexp,torch,lmxlab (default: %(default)s)")
    parser.add_argument("--one", choices=["torch", "lmxlab"], help=argparse.SUPPRESS)
    given, overrides = parser.parse_known_args()
    if given.one:
        print(json.dumps(_peer(given.one, given.seconds, overrides)))
        return
    sides = given.sides.split(",")
    if unknown := set(sides) - {"lmexp", "torch", "lmxlab"}:
        parser.error(f"--sides knows lmexp, torch and lmxlab, not {', '.join(sorted(unknown))}.")
    for side in sides:
        found = _lmexp(given.seconds, overrides) if side == "lmexp" else _in_a_process(side, given.seconds, overrides)
        print(
            f"{side:8} {found['best']:.4f} best, {found['last']:.4f} last bits/byte; {found['steps']:,.0f} steps in "
            f"{found['seconds']:.1f} s; {found['n_params']:,.0f} parameters",
            flush=True,
        )


def _lmexp(seconds: float, overrides: list[str]) -> dict[str, float]:
    from lmexp.results import read_runs

    with tempfile.TemporaryDirectory() as folder:
        budget = [f"budget.seconds={seconds:g}", f"budget.evaluations={_N_SCORES}", f"paths.results={folder}"]
        command = [sys.executable, "-m", "lmexp", "run", *budget, *overrides]
        _carried_out(command)
        [row] = read_runs(Path(folder) / "adhoc").to_dict("records")
    names = {"best": "val_bpb_best", "last": "val_bpb", "steps": "steps", "seconds": "train_seconds"}
    return {"n_params": row["n_params"]} | {ours: row[name] for ours, name in names.items()}


def _in_a_process(side: str, seconds: float, overrides: list[str]) -> dict[str, float]:
    command = [sys.executable, __file__, str(seconds), "--one", side, *overrides]
    found: dict[str, float] = json.loads(_carried_out(command).splitlines()[-1])
    return found


def _carried_out(command: list[str]) -> str:
    """Return what a command prints; what it says of its errors goes to ours."""
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def _peer(name: str, seconds: float, overrides: list[str]) -> dict[str, float]:
    """Train a peer for that long and score it on the way."""
    if name == "lmxlab":  # PyTorch's CUDA libraries and MLX's do not share a process
        from lmexp import platform

        platform.prepare()
    from lmexp.compose import compose_run
    from lmexp.data import Batches, load_dataset

    data = compose_run(overrides).config.data
    dataset = load_dataset(data)
    lengths = dataset.tokenizer.byte_lengths
    batches = Batches(dataset.train.tokens, lengths, data.batch_size, data.context_length, seed=0)
    side, n_params = {"torch": _torch, "lmxlab": _lmxlab}[name](batches, dataset.tokenizer.padded_vocab_size, seconds)
    used, steps, scores = 0.0, 0, [math.inf]
    while used < seconds:
        started = time.perf_counter()
        for _ in range(_STEPS_AHEAD):
            side.step(steps, min(used / seconds, 1.0))
            steps += 1
        side.wait()
        used += time.perf_counter() - started
        if used >= seconds * len(scores) / _N_SCORES:
            scores.append(_bits_per_byte(side.nats, np.asarray(dataset.val.tokens), lengths, data.context_length))
    scores.append(_bits_per_byte(side.nats, np.asarray(dataset.val.tokens), lengths, data.context_length))
    return {"best": min(scores), "last": scores[-1], "steps": steps, "seconds": used, "n_params": n_params}


def _bits_per_byte(
    nats_of: Callable[[np.ndarray, np.ndarray], float], tokens: np.ndarray, byte_lengths: np.ndarray, context: int
) -> float:
    """Score as `lmexp.judge` does, which imports MLX: consecutive windows, the last one shorter."""
    n_whole = (len(tokens) - 1) // context
    whole = tokens[: n_whole * context].reshape(n_whole, context)
    targets = tokens[1 : n_whole * context + 1].reshape(n_whole, context)
    at_once = max(1, _TOKENS_AT_ONCE // context)
    total = sum(
        nats_of(whole[first : first + at_once], targets[first : first + at_once])
        for first in range(0, n_whole, at_once)
    )
    rest = tokens[n_whole * context :]
    if len(rest) > 1:
        total += nats_of(rest[None, :-1], rest[None, 1:])
    return total / (math.log(2) * int(byte_lengths[tokens[1:]].sum()))


def _torch(batches: Any, vocab_size: int, seconds: float) -> tuple[Side, int]:
    import torch
    import torch.nn.functional as F
    from torch import nn

    device = "cuda" if torch.cuda.is_available() else "cpu"
    width, n_heads, n_layers, dropout = 384, 6, 6, 0.2
    context = batches[0].inputs.shape[1]

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
            self.inward, self.outward = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
            self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

        def forward(self, x: Any) -> Any:
            heads = self.inward(self.norms[0](x)).unflatten(-1, (3, n_heads, -1)).permute(2, 0, 3, 1, 4)
            rate = dropout if self.training else 0.0
            mixed = F.scaled_dot_product_attention(*heads, is_causal=True, dropout_p=rate)
            x = x + F.dropout(self.outward(mixed.transpose(1, 2).flatten(2)), dropout, self.training)
            return x + F.dropout(self.down(F.gelu(self.up(self.norms[1](x)))), dropout, self.training)

    class Gpt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.place = nn.Embedding(vocab_size, width), nn.Embedding(context, width)
            self.blocks = nn.ModuleList(Block() for _ in range(n_layers))
            self.norm = nn.LayerNorm(width, bias=False)
            for name, weight in self.named_parameters():
                if weight.ndim == 2:
                    last = name.endswith(("outward.weight", "down.weight"))
                    nn.init.normal_(weight, std=0.02 / math.sqrt(2 * n_layers) if last else 0.02)

        def forward(self, inputs: Any, targets: Any) -> Any:
            x = F.dropout(self.token(inputs) + self.place.weight[: inputs.shape[1]], dropout, self.training)
            for block in self.blocks:
                x = block(x)
            logits = F.linear(self.norm(x), self.token.weight)
            return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model = Gpt().to(device)
    groups = [[w for w in model.parameters() if w.ndim == 2], [w for w in model.parameters() if w.ndim < 2]]
    optimizer = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": 0.1}, {"params": groups[1], "weight_decay": 0.0}],
        betas=(0.9, 0.99),
        fused=True,
    )
    compiled = torch.compile(model)

    def on(tokens: np.ndarray) -> Any:
        return torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64)).to(device, non_blocking=True)

    class Trainer:
        def step(self, index: int, progress: float) -> None:
            batch, remaining = batches[index], (1 + math.cos(math.pi * progress)) / 2
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min((progress + 1e-3) / _WARMUP, 0.1 + 0.9 * remaining)
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = compiled(on(batch.inputs), on(batch.targets)) / batch.targets.size
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        def wait(self) -> None:
            if device == "cuda":
                torch.cuda.synchronize()

        def nats(self, inputs: np.ndarray, targets: np.ndarray) -> float:
            model.eval()
            with torch.no_grad():
                found = model(on(inputs), on(targets)).item()
            model.train()
            return float(found)

    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    side = Trainer()
    for index in range(3):
        side.step(index, 0.0)
    side.wait()
    model.load_state_dict(before)
    optimizer.state.clear()
    return side, sum(weight.numel() for weight in model.parameters())


def _lmxlab(batches: Any, vocab_size: int, seconds: float) -> tuple[Side, int]:
    import mlx.core as mx
    import mlx.nn as nn
    from lmxlab.models.base import LanguageModel
    from lmxlab.models.llama import llama_config
    from lmxlab.training.config import TrainConfig
    from lmxlab.training.trainer import Trainer as TheirTrainer
    from mlx.utils import tree_flatten

    batch_size, context = batches[0].inputs.shape

    def made(n_steps: int) -> Any:
        mx.random.seed(0)
        config = llama_config(vocab_size, 256, 8, 4, 6, d_ff=680, max_seq_len=context, tie_embeddings=True, dropout=0.2)
        training = TrainConfig(max_steps=n_steps, batch_size=batch_size, compile_step=False)
        return TheirTrainer(LanguageModel(config), training)

    def take(trainer: Any, index: int) -> None:
        batch = batches[index]
        trainer.model.train()
        trainer.train_step((mx.array(batch.inputs), mx.array(batch.targets)))

    # Its schedule counts steps, so their number is taken from a trial.
    trial = made(1000)
    take(trial, 0)
    started = time.perf_counter()
    for index in range(5):
        take(trial, index)
    trainer = made(max(200, round(seconds / ((time.perf_counter() - started) / 5))))

    class Trainer:
        def step(self, index: int, progress: float) -> None:
            take(trainer, index)

        def wait(self) -> None:
            """Its steps wait by themselves."""

        def nats(self, inputs: np.ndarray, targets: np.ndarray) -> float:
            trainer.model.eval()
            logits, _ = trainer.model(mx.array(inputs))
            return float(nn.losses.cross_entropy(logits, mx.array(targets), reduction="sum").item())

    return Trainer(), sum(weight.size for _, weight in tree_flatten(trainer.model.parameters()))


if __name__ == "__main__":
    main()
