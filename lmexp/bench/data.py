"""``lmexp bench data``: how fast text becomes batches; no device takes part."""

import time
from argparse import Namespace
from collections.abc import Callable

from lmexp.bench.child import Task
from lmexp.bench.harness import OURS, Benchmark, Measurement, Side
from lmexp.compose import compose_run, single_overrides
from lmexp.data import Batches, load_dataset
from lmexp.data.corpora import open_corpus

_UNITS = {
    "load_seconds": "s",
    "batch_tokens_per_second": "tokens/s",
    "encode_tokens_per_second": "tokens/s",
    "encode_bytes_per_second": "bytes/s",
}


def benchmark(given: Namespace) -> Benchmark:
    """Return the benchmark of a config's data."""
    run = compose_run(single_overrides(given.overrides))
    data = run.config.data
    title = f"Data: {data.corpus}, {data.tokenizer} tokens, batches of {data.batch_size} x {data.context_length}"
    launch = Measurement("data:measure", run, given.seconds, {}, product_threads=None)
    return Benchmark(title, [Side(OURS, launch)], _UNITS, run.config.sha256)


def measure(task: Task) -> dict[str, float]:
    """Load the cached tokens, draw batches for half of the time, and tokenise the text for the other half."""
    config, data = task.config, task.config.data
    load_dataset(data)  # makes the cache where there is none
    started = time.perf_counter()
    dataset = load_dataset(data)
    load_seconds = time.perf_counter() - started
    text = open_corpus(data).read().train
    sizes = data.batch_size, data.context_length
    batches = Batches(dataset.train.tokens, dataset.tokenizer.byte_lengths, *sizes, config.seed)

    def draw(index: int) -> int:
        return batches[index].inputs.size

    def encode(index: int) -> int:
        return len(dataset.tokenizer.encode(text))

    bytes_per_token = dataset.train.n_bytes / dataset.train.n_tokens
    encoded = _per_second(encode, task.seconds / 2)
    return {
        "load_seconds": load_seconds,
        "batch_tokens_per_second": _per_second(draw, task.seconds / 2),
        "encode_tokens_per_second": encoded,
        "encode_bytes_per_second": encoded * bytes_per_token,
    }


def _per_second(work: Callable[[int], int], seconds: float) -> float:
    """Return how much ``work`` gets done in a second, after one call that is not counted."""
    work(0)
    done, calls, started = 0, 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - started < seconds:
        calls += 1
        done += work(calls)
    return done / (time.perf_counter() - started)
