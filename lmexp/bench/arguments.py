"""What ``lmexp bench`` can be asked. Imports nothing heavy: ``lmexp --help`` reads it."""

import argparse
from collections.abc import Callable
from typing import Any

TRAIN_PEERS = ("bare", "stock", "torch")

_REPEATS = "launches of each side (default: %(default)s)"
_SECONDS = "measured time of a launch (default: %(default)s)"
_OVERRIDES = "what a run would be given, such as model=gpt_tiny data.batch_size=64 precision=bfloat16 paths.results=DIR"


def add_benchmarks(parser: argparse.ArgumentParser, command: Callable[[Any], int]) -> None:
    """Add one parser per benchmark, with the options that it reads."""
    parser.set_defaults(command=command)
    kinds = parser.add_subparsers(metavar="WHAT", required=True)
    train = _add(
        kinds, "train", "tokens per second of the training loop, and the share of the machine it uses", seconds=30.0
    )
    train.add_argument(
        "--against",
        action="append",
        default=[],
        choices=TRAIN_PEERS,
        help="bare: a minimal compiled MLX loop; stock: the same with MLX as it comes; torch: PyTorch, eager and "
        "compiled (pip install 'lmexp[bench]'); may be given several times",
    )

    _add(kinds, "data", "drawing batches, tokenising, loading what is cached", seconds=4.0)
    _add(kinds, "startup", "from the shell to the first counted step, to the help, to the config")
    sweep = _add(kinds, "sweep", "what a cell of a sweep costs beside its own work")
    sweep.add_argument("--cells", type=int, default=4, metavar="N", help="runs of the sweep (default: %(default)s)")
    _add(kinds, "budget", "how far from its budget of seconds a run ends", seconds=20.0)
    memory = _add(kinds, "memory", "whether memory grows with the steps", repeats=1)
    memory.add_argument("--steps", type=int, default=10_000, metavar="N", help="of training (default: %(default)s)")


def _add(kinds: Any, what: str, words: str, seconds: float | None = None, repeats: int = 5) -> argparse.ArgumentParser:
    """Add a benchmark and the options that all have in common; those without a time of their own take no seconds."""
    parser: argparse.ArgumentParser = kinds.add_parser(what, help=words, description=words)
    parser.add_argument("--repeats", type=int, default=repeats, metavar="N", help=_REPEATS)
    if seconds is not None:
        parser.add_argument("--seconds", type=float, default=seconds, metavar="S", help=_SECONDS)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=_OVERRIDES)
    parser.set_defaults(what=what)
    return parser
