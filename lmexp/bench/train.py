"""``lmexp bench train``: the real training loop on real data, against plainer loops and PyTorch."""

import importlib.util
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from lmexp import platform
from lmexp.bench.harness import OURS, Benchmark, Measurement, Side
from lmexp.compose import compose_run, single_overrides
from lmexp.config import FrozenRun, RunConfig
from lmexp.errors import UserError
from lmexp.model.spec import ModelSpec

if TYPE_CHECKING:
    from lmexp.bench.child import Task

DEFAULT = ("model=llama_small",)
_UNITS = {
    "tokens_per_second": "tokens/s",
    "model_gflops_per_second": "GFLOP/s",
    "ceiling_gflops_per_second": "GFLOP/s",
    "share_of_ceiling": "1",
    "peak_memory_mib": "MiB",
}
_CEILING_SECONDS = 1.0  # for each size of product


def benchmark(given: Namespace) -> Benchmark:
    """Return the benchmark; each peer of ``given.against`` is one side or two.

    Raises:
        UserError: a config that a peer cannot follow, or PyTorch is not installed.
    """
    run = compose_run([*DEFAULT, *single_overrides(given.overrides)])
    config, threads = run.config, platform.compute_cores()
    if given.against:
        _check_step(run)
    if "torch" in given.against:
        _check_torch(config.model)
    measured = {OURS: Measurement("train:ours", run, given.seconds, {})}
    peers = {
        # A bare loop has one stream, so all cores share each product.
        "bare": {"bare": Measurement("bare:bare", run, given.seconds, {}, product_threads=threads)},
        "stock": {"stock": Measurement("bare:bare", run, given.seconds, {}, product_threads=None)},
        "torch": {
            f"torch {name}": Measurement(
                "torch_loop:train", run, given.seconds, {"compiled": name == "compiled", "threads": threads}, None
            )
            for name in ("eager", "compiled")
        },
    }
    for peer in given.against:
        measured |= peers[peer]
    shape = f"{config.data.batch_size} x {config.data.context_length} tokens a step, {config.precision.compute}"
    title = f"Training {config.arm}, {shape}, {threads} cores if on a CPU"
    return Benchmark(title, [Side(*side) for side in measured.items()], _UNITS, config.sha256)


def _check_step(run: FrozenRun) -> None:
    """The loops that ours is compared with know one optimizer and whole batches, keep all activations, drop nothing."""
    optimizer = run.config.optimizer
    if run.config.train.checkpoint:
        raise UserError(
            "--against compares loops that keep all activations; leave train.checkpoint=true or --against out."
        )
    if dropout := run.config.model.dropout:
        raise UserError(f"--against compares loops that drop nothing; leave model.dropout={dropout} or --against out.")
    if optimizer.name != "adamw" or optimizer.micro_batches != 1:
        raise UserError(
            f"--against knows optimizer=adamw with optimizer.micro_batches=1 only, not {optimizer.name} with "
            f"{optimizer.micro_batches}; choose these, or leave --against out."
        )


def _check_torch(spec: ModelSpec) -> None:
    if importlib.util.find_spec("torch") is None:
        raise UserError("--against torch needs PyTorch, which is not installed: pip install 'lmexp[bench]'.")
    from lmexp.bench.torch_model import check

    check(spec)


def ours(task: "Task") -> dict[str, float]:
    """Train with lmexp's own step and loop, its clock, log and schedule among it; the judge is left out."""
    import mlx.core as mx

    from lmexp.bench.ceiling import product_flops_per_second

    budget = replace(task.config.budget, seconds=task.seconds, steps=None, tokens=None, flops=None, evaluations=1)
    config = replace(task.config, budget=budget)
    loop = run_loop(config)
    ceiling = product_flops_per_second(getattr(mx, config.precision.compute), min(_CEILING_SECONDS, task.seconds))
    flops_per_second = loop.tokens_per_second * loop.flops_per_token
    return {
        "tokens_per_second": loop.tokens_per_second,
        "model_gflops_per_second": flops_per_second / 1e9,
        "ceiling_gflops_per_second": ceiling / 1e9,
        "share_of_ceiling": flops_per_second / ceiling,
        "peak_memory_mib": loop.peak_memory_bytes / 2**20,
    }


class Loop(NamedTuple):
    """What a training loop did: pauses of its clock count as time here, since a user pays for them too."""

    tokens_per_second: float
    flops_per_token: float
    peak_memory_bytes: int


def run_loop(config: RunConfig, observe: Callable[[int], None] = lambda steps: None) -> Loop:
    """Train to the end of the budget as a run does, but for the judge, whose score is a constant here.

    Args:
        config: budget included.
        observe: told how many steps are done, whenever the loop has waited for the device.
    """
    from lmexp import run
    from lmexp.data import load_dataset
    from lmexp.train.loop import Log, train

    dataset = load_dataset(config.data)
    model, batches = run.build_model(config, dataset), run.make_batches(config, dataset)
    stepper = run.make_stepper(config, model, run.what_can_be_compiled(config)[0].step)
    clock, log = run.make_clock(config, model), Log(lambda clock, log: observe(clock.synced_steps))
    step_seconds = stepper.warm([batches[index] for index in range(run.WARM_UP_STEPS)])
    platform.reset_peak_memory()
    started = time.perf_counter()
    clock.start(step_seconds)
    train(stepper, batches, clock, lambda done: config.optimizer.lr * config.schedule.rate(done), lambda: 0.0, log)
    tokens_per_second = clock.tokens / (time.perf_counter() - started)
    return Loop(tokens_per_second, model.flops_per_token, platform.peak_memory_bytes())
