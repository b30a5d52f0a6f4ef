"""``lmexp bench decode``: greedy decoding of one text after prompts of given lengths, against mlx_lm."""

import importlib.util
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from lmexp.bench.harness import OURS, Benchmark, Measurement, Side
from lmexp.compose import compose_run, single_overrides
from lmexp.errors import UserError
from lmexp.model.spec import ModelSpec

if TYPE_CHECKING:
    from lmexp.bench.child import Task
    from lmexp.model.language_model import LanguageModel

_DEFAULT = ("model=llama_small",)
_UNCOUNTED_TOKENS = 4  # after the first, in which kernels are compiled and buffers taken

# Continues a prompt by so many tokens, one at a time; a token that is handed out is known to the host.
Generate = Callable[[list[int], int], Iterable[object]]


def benchmark(given: Namespace) -> Benchmark:
    """Return the benchmark; for each length the time to the first token, and the rate of those after it.

    Raises:
        UserError: mlx_lm is not installed or does not know this kind of model, or a number out of range.
    """
    lengths = checked_lengths(given.lengths)
    if given.tokens < 1:
        raise UserError(f"--tokens {given.tokens} must be at least 1.")
    run = compose_run([*_DEFAULT, *single_overrides(given.overrides)])
    options = {"lengths": lengths, "tokens": given.tokens}
    sides = [Side(OURS, Measurement("decode:ours", run, 1.0, options))]
    if "mlx_lm" in given.against:
        _check_mlx_lm(run.config.model)
        sides.append(Side("mlx_lm", Measurement("decode:mlx_lm", run, 1.0, options)))
    units = {figure: unit for length in lengths for figure, unit in _units(length).items()}
    title = f"Decoding {given.tokens} tokens of one text, {run.config.arm}, {run.config.precision.compute}, greedily"
    return Benchmark(title, sides, units, run.config.sha256)


def checked_lengths(typed: str) -> list[int]:
    """Return the lengths of prompts, given as ``512,4096``.

    Raises:
        UserError: not whole numbers from 1 up.
    """
    parts = typed.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"--lengths {typed} must be whole numbers from 1 up, such as --lengths 512,4096.")
    return sorted({int(part) for part in parts})


def _units(length: int) -> dict[str, str]:
    return {f"first_token_seconds_after_{length}": "s", f"tokens_per_second_after_{length}": "tokens/s"}


def _check_mlx_lm(spec: ModelSpec) -> None:
    if importlib.util.find_spec("mlx_lm") is None:
        raise UserError("--against mlx_lm needs mlx-lm, which is not installed: pip install mlx-lm.")
    from lmexp.bench.mlx_lm_model import check

    check(spec)


def ours(task: "Task") -> dict[str, float]:
    """Decode with lmexp's decoder, initial weights."""
    from lmexp.decoding.decoder import Decoder
    from lmexp.decoding.options import Sampling
    from lmexp.decoding.sampling import row_keys

    model, greedy, keys = _model(task), Sampling(temperature=0), row_keys(0, 1)
    return _figures(task, lambda prompt, n_tokens: Decoder(model, [prompt], n_tokens, greedy, keys))


def mlx_lm(task: "Task") -> dict[str, float]:
    """Decode with mlx_lm's loop, a model of the same sizes, random weights."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    from lmexp.bench.mlx_lm_model import build

    same = _model(task)
    peer = build(same.spec, same.padded_vocab_size, same.context_length)
    peer.set_dtype(getattr(mx, task.config.precision.compute))
    peer.eval()
    mx.eval(peer.parameters())
    return _figures(task, lambda prompt, n_tokens: generate_step(mx.array(prompt), peer, max_tokens=n_tokens))


def _model(task: "Task") -> "LanguageModel":
    """Build the config's model with room for the longest prompt and what follows it."""
    import mlx.core as mx

    from lmexp.data import load_dataset
    from lmexp.model.initial import initialise
    from lmexp.model.language_model import LanguageModel

    tokenizer, room = load_dataset(task.config.data).tokenizer, max(task.options["lengths"]) + _n_tokens(task)
    model = LanguageModel(task.config.model, tokenizer.vocab_size, tokenizer.padded_vocab_size, room)
    initialise(model, task.config.seed)
    model.set_dtype(getattr(mx, task.config.precision.compute))
    model.eval()
    mx.eval(model.parameters())
    return model


def _n_tokens(task: "Task") -> int:
    """Return how many tokens are decoded after a prompt."""
    return 1 + _UNCOUNTED_TOKENS + int(task.options["tokens"])


def _figures(task: "Task", generate: Generate) -> dict[str, float]:
    """Time a rehearsed generation after each length of prompt."""
    from lmexp.data import load_dataset

    text, figures = load_dataset(task.config.data).train.tokens, dict[str, float]()
    for length in task.options["lengths"]:
        prompt = np.resize(text, length).tolist()  # the text, from its start again where it is shorter
        for _ in range(2):  # the first builds kernels and fills the allocator's cache
            seconds = timed(generate(prompt, _n_tokens(task)))
        figures |= dict(zip(_units(length), seconds, strict=True))
    return figures


def timed(
    tokens: Iterable[object], uncounted: int = _UNCOUNTED_TOKENS, now: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Return the seconds to the first token, and tokens per second once ``uncounted`` more have come.

    Args:
        tokens: each is there when it is handed out; more than ``uncounted`` + 1.
        uncounted: after the first.
        now: the time in seconds.
    """
    started = now()
    times = [now() for _ in tokens]
    counted = times[uncounted:]
    return times[0] - started, (len(counted) - 1) / (counted[-1] - counted[0])
