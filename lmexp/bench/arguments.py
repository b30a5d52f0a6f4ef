"""What ``lmexp bench`` can be asked. Imports nothing heavy: ``lmexp --help`` reads it."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# What can stand beside ours, and what it is.
TRAIN_PEERS = {
    "bare": "a minimal MLX loop",
    "stock": "the same with MLX as it comes",
    "torch": "the same model in PyTorch, eager and compiled (pip install 'lmexp[bench]')",
}
DECODE_PEERS = {"mlx_lm": "mlx_lm's loop with a model of the same sizes (pip install mlx-lm)"}

_REPEATS = "launches of each side (default: %(default)s)"
_SECONDS = "measured time of a launch (default: %(default)s)"
_OVERRIDES = "what a run would be given, such as model=gpt_tiny data.batch_size=64 precision=bfloat16 paths.results=DIR"


def add_benchmarks(parser: argparse.ArgumentParser, command: Callable[[Any], int]) -> None:
    """Add one parser per benchmark, with the options that it reads."""
    parser.set_defaults(command=command)
    kinds = parser.add_subparsers(metavar="WHAT", required=True)
    train_words = "tokens per second of the training loop, and the share of the machine it uses"
    train = _add(kinds, "train", train_words, seconds=30.0)
    _add_peers(train, TRAIN_PEERS)
    decode = _add(kinds, "decode", "tokens per second of greedy decoding after prompts of given lengths")
    _add_peers(decode, DECODE_PEERS)
    decode.add_argument("--lengths", default="512,4096", metavar="N,N", help="of prompts (default: %(default)s)")
    decode.add_argument("--tokens", type=int, default=100, metavar="N", help="timed (default: %(default)s)")
    _add(kinds, "data", "drawing batches, tokenising, loading what is cached", seconds=4.0)
    _add(kinds, "startup", "from the shell to the first counted step, to the help, to the config")
    sweep = _add(kinds, "sweep", "what a cell of a sweep costs beside its own work")
    sweep.add_argument("--cells", type=int, default=4, metavar="N", help="runs of the sweep (default: %(default)s)")
    _add(kinds, "budget", "how far from its budget of seconds a run ends", seconds=20.0)
    memory = _add(kinds, "memory", "whether memory grows with the steps", repeats=1)
    memory.add_argument("--steps", type=int, default=10_000, metavar="N", help="of training (default: %(default)s)")
    _add_report(_add(kinds, "report", "what the report of a large experiment costs", repeats=1))


def _add_peers(parser: argparse.ArgumentParser, peers: Mapping[str, str]) -> None:
    words = "; ".join(f"{name}: {what}" for name, what in peers.items()) + "; may be given several times"
    parser.add_argument("--against", action="append", default=[], choices=tuple(peers), help=words)


def _add_report(parser: argparse.ArgumentParser) -> None:
    numbers = (
        ("arms", 10, "of the invented experiment"),
        ("seeds", 100, "of the invented experiment"),
        ("points", 200, "log points of a run"),
        ("cores", 1, "that the report may use, where the system can hold a process to some"),
    )
    for name, default, words in numbers:
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{words} (default: %(default)s)")
    rules = ("none", "mser5", "change_point")
    parser.add_argument("--warm-up", default="none", choices=rules, help="the plan's rule for launches")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the experiment is written, or found again")


def _add(kinds: Any, what: str, words: str, seconds: float | None = None, repeats: int = 5) -> argparse.ArgumentParser:
    """Add a benchmark and the options that all have in common; those without a time of their own take no seconds."""
    parser: argparse.ArgumentParser = kinds.add_parser(what, help=words, description=words)
    parser.add_argument("--repeats", type=int, default=repeats, metavar="N", help=_REPEATS)
    if seconds is not None:
        parser.add_argument("--seconds", type=float, default=seconds, metavar="S", help=_SECONDS)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=_OVERRIDES)
    parser.set_defaults(what=what)
    return parser
