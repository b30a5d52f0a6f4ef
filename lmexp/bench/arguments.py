"""What ``lmexp bench`` can be asked. Imports nothing heavy: ``lmexp --help`` reads it."""

import argparse
from collections.abc import Callable
from typing import Any

TRAIN_PEERS = ("bare", "stock", "torch")

_OVERRIDES = "what a run would be given, such as model=gpt_tiny data.batch_size=64 precision=bfloat16 paths.results=DIR"


def add_benchmarks(parser: argparse.ArgumentParser, command: Callable[[Any], int]) -> None:
    """Add one parser per benchmark, with the options that it reads."""
    parser.set_defaults(command=command)
    kinds = parser.add_subparsers(metavar="WHAT", required=True)
    train = _add(kinds, "train", "tokens per second of the training loop, and the share of the machine it uses", 30.0)
    train.add_argument(
        "--against",
        action="append",
        default=[],
        choices=TRAIN_PEERS,
        help="bare: a minimal compiled MLX loop; stock: the same with MLX as it comes; torch: PyTorch, eager and "
        "compiled (pip install 'lmexp[bench]'); may be given several times",
    )


def _add(kinds: argparse._SubParsersAction, what: str, words: str, seconds: float | None) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = kinds.add_parser(what, help=words)
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="launches of each side (default: %(default)s)"
    )
    if seconds is not None:
        words = "measured time of a launch (default: %(default)s)"
        parser.add_argument("--seconds", type=float, default=seconds, metavar="S", help=words)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=_OVERRIDES)
    parser.set_defaults(what=what)
    return parser
