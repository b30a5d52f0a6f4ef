"""One run on one page: build, warm, train, judge, record."""

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from lmexp import STARTED_AT, platform, results
from lmexp.config import FrozenRun, RunConfig, save
from lmexp.costs.generation import time_generation
from lmexp.costs.longest import Task, longest_length
from lmexp.data import Batches, Dataset, Split, fingerprint, load_dataset
from lmexp.errors import UserError
from lmexp.files import write_atomic, write_text
from lmexp.judge import Judge, Score
from lmexp.model.initial import initialise
from lmexp.model.language_model import LanguageModel
from lmexp.train.budget import Clock
from lmexp.train.loop import DivergedError, Log, train
from lmexp.train.objective import next_token_loss
from lmexp.train.spec import CompileSpec
from lmexp.train.step import Stepper

CHECKPOINT, BEST, LAST = "checkpoint", "best.safetensors", "last.safetensors"
WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Observation:
    """What a run tells while it goes on; None where not known (yet)."""

    phase: str
    progress: float | None = None
    step: int | None = None
    train_loss_nats: float | None = None
    tokens_per_second: float | None = None
    val_bpb: float | None = None
    seconds_left: float | None = None


Observe = Callable[[Observation], None]


def run(frozen: FrozenRun, observe: Observe) -> dict[str, Any]:
    """Carry out one run and write its folder. Whatever happens, its row says so.

    Args:
        frozen: the config, and a folder that this process has claimed.
        observe: is told how the run goes.

    Returns:
        The row of ``run.parquet``; its ``status`` says how the run ended.

    Raises:
        KeyboardInterrupt, UserError: after the row is written.
    """
    folder = frozen.folder
    results.set_attempt_aside(folder)
    save(frozen)
    row = frozen.config.row() | _environment()
    log = Log(lambda clock, log: observe(_training(clock, log)))
    try:
        observe(Observation("preparing the text"))
        _check_text(frozen.config)
        dataset = load_dataset(frozen.config.data)
        with platform.device_lock(on_wait=lambda holder: observe(Observation(f"waiting for {holder}"))):
            observe(Observation("probing the machine"))
            row["probe_before"] = platform.probe()
            if frozen.config.decode.n_tokens is None:
                _train(frozen, dataset, row, log, observe)
            else:
                _decode(frozen.config, dataset, row, observe)
            row["probe_after"] = platform.probe()
        row["status"] = "ok"
    except BaseException as error:
        row["status"], row["error"] = _status(error), _sentence(error)
        write_text(folder / results.ERROR_FILE, traceback.format_exc())
        if isinstance(error, KeyboardInterrupt | UserError):
            raise
    finally:
        results.write_steps(folder, [{"run_id": row["run_id"], **point} for point in log.points])
        results.write_run(folder, row)
        results.finish(folder, results.DONE if row["status"] == "ok" else results.FAILED)
    return row


def _train(frozen: FrozenRun, dataset: Dataset, row: dict[str, Any], log: Log, observe: Observe) -> None:
    """Do the work. ``row`` is filled as soon as something is known, so that an interrupted run keeps it."""
    config = frozen.config
    observe(Observation("compiling and warming up"))
    started = time.perf_counter()
    model = build_model(config, dataset)
    row |= {"n_params": model.n_params, "n_params_non_embedding": model.n_params_non_embedding}
    compiled, row["warnings"] = what_can_be_compiled(config)
    stepper = make_stepper(config, model, compiled.step)
    batches = make_batches(config, dataset)
    step_seconds = stepper.warm([batches[index] for index in range(WARM_UP_STEPS)])
    judge = make_judge(config, dataset, model, dataset.val, compiled.evaluation)
    judge.warm()
    row["compile_seconds"] = time.perf_counter() - started

    clock = make_clock(config, model)
    evaluate = _Evaluation(
        judge,
        _Checkpoint(frozen.folder, model, dataset),
        announce=lambda: observe(replace(_training(clock, log), phase="evaluating")),
    )
    platform.reset_peak_memory()
    row["time_to_first_step_seconds"] = time.perf_counter() - STARTED_AT
    clock.start(step_seconds, row["compile_seconds"] if config.budget.charge_compile else 0.0)
    _check_budget(config, clock, step_seconds)
    try:
        train(stepper, batches, clock, lambda done: config.optimizer.lr * config.schedule.rate(done), evaluate, log)
    finally:
        row |= _totals(clock, log, evaluate)
    if evaluate.latest is not None:  # training ended, so the latest score is that of the final weights
        row |= {"val_loss_nats": evaluate.latest.loss_nats, "val_bpb": evaluate.latest.bits_per_byte}

    observe(Observation("scoring the test text", progress=1.0))
    evaluate.checkpoint.save(LAST)
    model.load_weights(str(evaluate.checkpoint.path(BEST)))
    row["test_bpb"] = make_judge(config, dataset, model, dataset.test, compiled.evaluation)().bits_per_byte


def _decode(config: RunConfig, dataset: Dataset, row: dict[str, Any], observe: Observe) -> None:
    """Generate against the clock; the model is as it starts out, since what it says does not change what it costs."""
    n_tokens, limit = config.decode.n_tokens, config.decode.memory_limit_bytes
    assert n_tokens is not None
    model = build_model(config, dataset)
    row |= {"n_params": model.n_params, "n_params_non_embedding": model.n_params_non_embedding}
    model.set_dtype(getattr(mx, config.precision.compute))
    mx.eval(model.parameters())

    def tell(count: int, tokens_per_second: float) -> None:
        left = (n_tokens - count) / tokens_per_second
        observe(Observation("generating", count / n_tokens, tokens_per_second=tokens_per_second, seconds_left=left))

    observe(Observation("generating", progress=0.0))
    found = time_generation(model, int(dataset.val.tokens[0]), n_tokens, tell)
    row |= {
        "decode_tokens_per_second": found.tokens_per_second,
        "cache_bytes_per_token_per_layer": found.cache_bytes_per_token_per_layer,
        "decode_peak_memory_bytes": found.peak_memory_bytes,
    }
    if limit is not None:
        observe(Observation("looking for the longest sequence", progress=1.0))
        sizes = (model.vocab_size, model.padded_vocab_size, model.context_length)
        row["longest_length_tokens"] = longest_length(Task(config.model, *sizes, config.precision.compute, limit))


def _check_text(config: RunConfig) -> None:
    if fingerprint(config.data) != config.data_fingerprint:
        raise UserError(
            f"The text of data.path={config.data.path} was changed after this run was frozen; start the command again."
        )


def build_model(config: RunConfig, dataset: Dataset) -> LanguageModel:
    """Build the model for this text and draw its initial weights from the run's seed."""
    tokenizer = dataset.tokenizer
    model = LanguageModel(config.model, tokenizer.vocab_size, tokenizer.padded_vocab_size, config.data.context_length)
    initialise(model, config.seed)
    return model


def make_judge(config: RunConfig, dataset: Dataset, model: LanguageModel, split: Split, compiled: bool) -> Judge:
    """Make the judge of one split: the same windows and bytes whatever the arm."""
    return Judge(
        model,
        split.tokens,
        dataset.tokenizer.byte_lengths,
        config.data.context_length,
        compiled,
        platform.compute_streams(_flops_per_step(config, model)),
    )


def make_stepper(config: RunConfig, model: LanguageModel, compiled: bool) -> Stepper:
    """Make what takes the steps of this config."""
    streams = platform.compute_streams(_flops_per_step(config, model))
    objective = partial(next_token_loss, checkpoint=config.train.checkpoint)
    return Stepper(model, objective, config.optimizer, config.precision, compiled, config.seed, streams)


def make_batches(config: RunConfig, dataset: Dataset) -> Batches:
    """Make the batches of a run: a function of its seed and of the text."""
    data = config.data
    return Batches(
        dataset.train.tokens, dataset.tokenizer.byte_lengths, data.batch_size, data.context_length, config.seed
    )


def make_clock(config: RunConfig, model: LanguageModel) -> Clock:
    """Make the clock of a run's budget, not yet running."""
    return Clock(config.budget, _tokens_per_step(config), _flops_per_step(config, model), time.perf_counter)


def _tokens_per_step(config: RunConfig) -> int:
    return config.data.batch_size * config.data.context_length


def _flops_per_step(config: RunConfig, model: LanguageModel) -> float:
    return model.flops_per_token * _tokens_per_step(config)


def _check_budget(config: RunConfig, clock: Clock, step_seconds: float) -> None:
    if not clock.fits_another_step:
        budget = config.budget
        raise UserError(
            f"budget.{budget.unit}={budget.amount:g} does not hold a single step (one takes {step_seconds:.2g} s and "
            f"{clock.tokens_per_step} tokens here); raise it, or make data.batch_size smaller."
        )


def what_can_be_compiled(config: RunConfig) -> tuple[CompileSpec, str | None]:
    """Return what to compile, and a warning when the machine cannot do what the config asks."""
    wanted = config.compile
    if not (wanted.step or wanted.evaluation) or mx.default_device() != mx.cpu or platform.has_cpp_compiler():
        return wanted, None
    warning = "mx.compile needs a C++ compiler on a CPU and found none: this run is not compiled (see `lmexp doctor`)"
    print(f"lmexp: {warning}", file=sys.stderr)
    return CompileSpec(step=False, evaluation=False), warning


class _Checkpoint:
    """The weights of a run on disk, beside the tokenizer that they belong to."""

    def __init__(self, folder: Path, model: LanguageModel, dataset: Dataset):
        self.folder, self.model = folder / CHECKPOINT, model
        self.folder.mkdir(exist_ok=True)
        dataset.tokenizer.save(self.folder)

    def path(self, name: str) -> Path:
        return self.folder / name

    def save(self, name: str) -> None:
        write_atomic(self.path(name), lambda path: self.model.save_weights(str(path)))


class _Evaluation:
    """Scores the validation text, and saves the weights whenever they are the best so far."""

    def __init__(self, judge: Judge, checkpoint: _Checkpoint, announce: Callable[[], None]):
        self.judge, self.checkpoint, self.announce = judge, checkpoint, announce
        self.seconds = 0.0
        self.training_peak_bytes = 0
        self.latest: Score | None = None
        self.best_bpb = float("inf")

    def __call__(self) -> float:
        self.announce()
        self.training_peak_bytes = max(self.training_peak_bytes, platform.peak_memory_bytes())
        started = time.perf_counter()
        self.latest = self.judge()
        self.seconds += time.perf_counter() - started  # of the judge alone: checkpoints are another matter
        bpb = self.latest.bits_per_byte
        if bpb < self.best_bpb:
            self.best_bpb = bpb
            self.checkpoint.save(BEST)
        platform.reset_peak_memory()  # what the judge needed is not the training's
        return bpb


def _totals(clock: Clock, log: Log, evaluate: _Evaluation) -> dict[str, Any]:
    """Return what the clock and the log know at the end, or at the point where training broke off."""
    spent = clock.stepping_seconds or None
    return {
        "train_seconds": clock.seconds,
        "eval_seconds": evaluate.seconds,
        "steps": clock.synced_steps,
        "tokens": clock.tokens,
        "tokens_per_second": spent and clock.tokens / spent,
        "steps_per_second": spent and clock.synced_steps / spent,
        "peak_memory_bytes": max(evaluate.training_peak_bytes, platform.peak_memory_bytes()),
        "train_loss_nats": log.train_loss_nats,
        "val_bpb_best": log.best and log.best["val_bpb"],
        "step_at_best": log.best and log.best["step"],
    }


def _environment() -> dict[str, Any]:
    """Return what a row says of the machine and the code."""
    facts = platform.facts()
    return {
        "git_commit": facts.git_commit,
        "git_dirty": facts.git_dirty,
        "host": facts.host,
        "device": facts.device,
        "chip": facts.chip,
        "mlx_version": facts.mlx_version,
        "blas": platform.prepare(),
    }


def _training(clock: Clock, log: Log) -> Observation:
    return Observation(
        "training",
        progress=clock.progress,
        step=clock.steps,
        train_loss_nats=log.train_loss_nats,
        tokens_per_second=clock.tokens / clock.stepping_seconds if clock.stepping_seconds else None,
        val_bpb=log.latest_val_bpb,
        seconds_left=clock.seconds_left,
    )


def _status(error: BaseException) -> str:
    if isinstance(error, DivergedError):
        return "diverged"
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "interrupted"
    words = str(error).lower()
    # MLX reports a failed allocation as a RuntimeError; the words differ by backend.
    out_of_memory = isinstance(error, MemoryError) or "out of memory" in words or "unable to allocate" in words
    return "oom" if out_of_memory else "failed"


def _sentence(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
