"""Measure what the laboratory costs: ``python benchmarks/spine.py overhead | blas | budget | startup``.

Each figure is taken side by side in one call, every replicate a process of its own, sides in turn; close other programs
first. Nothing here belongs to the test suite.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lmexp.results import read_row

_MODEL = ("model=llama_small", "data=shakespeare")


def main() -> None:
    """Run the benchmark that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["overhead", "blas", "budget", "startup", "bare"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0, help="training time of one run")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for both sides, such as data.context_length=64")
    given = parser.parse_intermixed_args()
    {"overhead": overhead, "blas": blas, "budget": budget, "startup": startup, "bare": bare}[given.what](given)


def overhead(given: argparse.Namespace) -> None:
    """Compare ``lmexp run`` with a bare compiled MLX loop over the same model, batch and tokens."""
    pairs = []
    for seed in range(given.repeats):
        ours = _run([*_MODEL, *given.overrides, f"budget.seconds={given.seconds}", f"seed={seed}"])["tokens_per_second"]
        theirs = float(_python(__file__, "bare", "--seconds", str(given.seconds), *given.overrides).split()[-1])
        pairs.append((ours, theirs))
        print(f"lmexp {ours:9.1f} tok/s   bare {theirs:9.1f} tok/s   ratio {ours / theirs:.4f}", flush=True)
    _summarise([ours / theirs for ours, theirs in pairs], "lmexp / bare")


def blas(given: argparse.Namespace) -> None:
    """Compare the BLAS that lmexp chooses with the one in the wheel, in the bare loop: evaluating takes minutes."""
    ratios = []
    for _ in range(given.repeats):
        loop = [__file__, "bare", "--seconds", str(given.seconds), *given.overrides]
        fast, slow = (float(_python(*loop, LMEXP_BLAS=choice).split()[-1]) for choice in ("", "off"))
        ratios.append(fast / slow)
        print(f"chosen {fast:9.1f} tok/s   off {slow:9.1f} tok/s   ratio {fast / slow:.2f}", flush=True)
    _summarise(ratios, "chosen / off")


def budget(given: argparse.Namespace) -> None:
    """Show how far runs end from their budget."""
    worst = 0.0
    for seed in range(given.repeats):
        row = _run([*given.overrides, f"budget.seconds={given.seconds}", f"seed={seed}", "budget.evaluations=1"])
        step = row["train_seconds"] / row["steps"]
        over = row["train_seconds"] - given.seconds
        worst = max(worst, over)
        print(
            f"train_seconds {row['train_seconds']:.4f}  error {over:+.4f} s = {over / step:+.2f} steps of {step:.4f} s"
        )
    print(f"worst overrun {worst:+.4f} s = {worst / given.seconds:+.2%} of the budget")


def startup(given: argparse.Namespace) -> None:
    """Time from the shell to the first counted step of the tiny model, and of ``lmexp --help``."""
    firsts = []
    for seed in range(given.repeats):
        row = _run(["model=gpt_tiny", *given.overrides, "budget.seconds=2", "budget.evaluations=1", f"seed={seed}"])
        firsts.append(row["time_to_first_step_seconds"])
    _summarise(firsts, "seconds to the first counted step")
    helps = []
    for _ in range(given.repeats):
        started = time.perf_counter()
        _python("-m", "lmexp", "--help")
        helps.append(time.perf_counter() - started)
    _summarise(helps, "seconds of lmexp --help")


def bare(given: argparse.Namespace) -> None:
    """Train the same model on the same loss in the plainest compiled loop, and print its tokens per second."""
    from lmexp import platform

    platform.prepare()
    from functools import partial

    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim

    from lmexp.compose import compose_run
    from lmexp.data import Batches, load_dataset
    from lmexp.run import build_model
    from lmexp.train.step import next_token_loss

    config = compose_run([*_MODEL, *given.overrides]).config
    dataset = load_dataset(config.data)
    model = build_model(config, dataset)
    size, length = config.data.batch_size, config.data.context_length
    batches = Batches(dataset.train.tokens, dataset.tokenizer.byte_lengths, size, length, 0)
    optimizer = optim.AdamW(learning_rate=1e-3, betas=[0.9, 0.95], weight_decay=0.1, bias_correction=True)
    state = [model.state, optimizer.state, mx.random.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(inputs: mx.array, targets: mx.array) -> mx.array:
        loss, gradient = nn.value_and_grad(model, next_token_loss)(model, inputs, targets)
        gradient, _ = optim.clip_grad_norm(gradient, 1.0)
        optimizer.update(model, gradient)
        return loss

    def take(index: int) -> None:
        batch = batches[index]
        mx.eval(step(mx.array(batch.inputs), mx.array(batch.targets)), state)

    for index in range(3):
        take(index)
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < given.seconds:
        take(3 + steps)
        steps += 1
    print(steps * size * length / (time.perf_counter() - started))


def _run(overrides: list[str], **environment: str) -> dict:
    """Run one config in a process and a results folder of its own; return its row."""
    with tempfile.TemporaryDirectory() as results:
        _python("-m", "lmexp", "run", *overrides, f"paths.results={results}", **environment)
        folder = next(Path(results).glob("*/*/run.parquet")).parent
        row = read_row(folder)
    assert row is not None
    return row


def _python(*arguments: str, **environment: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def _summarise(values: list[float], name: str) -> None:
    spread = f"min {min(values):.4f}, max {max(values):.4f}"
    print(f"{name}: median {statistics.median(values):.4f} ({spread}, n={len(values)})")


if __name__ == "__main__":
    main()
