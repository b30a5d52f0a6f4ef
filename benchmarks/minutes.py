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
import importlib.util
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
_MOST_STEPS_AHEAD = 10  # handed to the device before it is waited for; fewer where they take 1% of the time
_TOKENS_AT_ONCE = 8192  # scored together


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
    if missing := [side for side in sides if importlib.util.find_spec(side) is None]:
        parser.error(f"{', '.join(missing)} cannot be imported: install it, or leave it out of --sides.")
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
    ahead = 1
    while used < seconds:
        started = time.perf_counter()
        for _ in range(ahead):
            side.step(steps, used / seconds)
            steps += 1
        side.wait()
        used += time.perf_counter() - started
        ahead = max(1, min(_MOST_STEPS_AHEAD, int(seconds / 100 * steps / used)))
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
    from nano_gpt import Trainer

    side = Trainer(batches, vocab_size)
    return side, side.n_params


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
