"""Benchmarks by launches: every replicate is a process of its own, and the sides take turns in a random order."""

import importlib
import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

from lmexp import platform
from lmexp.bench import rows
from lmexp.bench.summary import Launch, table
from lmexp.compose import results_folder
from lmexp.config import FrozenRun, to_mapping
from lmexp.errors import UserError
from lmexp.results import make_writable
from lmexp.streams import stream_seed

OURS = "lmexp"
_TABLE_WIDTH = 100  # characters; a narrower table cuts its numbers
_DEVICES = {"metal": "gpu", "cuda": "gpu", "cpu": "cpu"}


@dataclass(frozen=True)
class Side:
    """One of what is compared: ``launch`` starts its process for a repeat and returns its figures by name."""

    name: str
    launch: Callable[[int], Mapping[str, float]]


@dataclass(frozen=True)
class Benchmark:
    """What to launch and how to show it.

    Attributes:
        title: what is measured on what.
        sides: the first is ours; ratios are ours over each other side's.
        units: of every figure, in the order in which they are shown.
        config_sha256: of the config that all sides share; None where there is none.
        resources: what lasts until the last launch has ended, such as a temporary folder.
    """

    title: str
    sides: Sequence[Side]
    units: Mapping[str, str]
    config_sha256: str | None = None
    resources: ExitStack = field(default_factory=ExitStack)


def bench(given: Namespace) -> int:
    """Carry out ``lmexp bench WHAT``: launch, print the table, write the rows.

    Returns:
        The exit code: 0, or 130 when it was interrupted.

    Raises:
        UserError: a mistake in what was asked, or a side that failed; what was measured before is kept.
    """
    if given.repeats < 1:
        raise UserError(f"--repeats {given.repeats} must be at least 1: the launches of each side.")
    if not getattr(given, "seconds", 1.0) > 0:
        raise UserError(f"--seconds {given.seconds:g} must be above 0: the measured time of a launch.")
    folder = make_writable(results_folder(given.overrides) / "bench" / given.what)
    benchmark = _asked(given)
    launches: list[Launch] = []
    try:
        with benchmark.resources:
            _launch_all(benchmark, given.repeats, launches)
    except KeyboardInterrupt:  # unlike a sweep, a benchmark starts anew
        print(f"lmexp: interrupted after {len(launches)} launches.", file=sys.stderr)
        return 130
    finally:
        _tell(benchmark, launches, given, folder)
    return 0


def _asked(given: Namespace) -> Benchmark:
    made: Benchmark = importlib.import_module(f"lmexp.bench.{given.what}").benchmark(given)
    return made


def _launch_all(benchmark: Benchmark, repeats: int, launches: list[Launch]) -> None:
    """Add to ``launches`` as they end, so that those before a failure are kept."""
    with Console(stderr=True).status("") as status:
        for repeat in range(repeats):
            for side in in_turn(benchmark.sides, repeat):
                status.update(f"launch {len(launches) + 1} of {repeats * len(benchmark.sides)}: {side.name}")
                started_at = datetime.now(UTC).isoformat(timespec="seconds")
                launches.append(Launch(side.name, repeat, started_at, side.launch(repeat)))


def in_turn(sides: Sequence[Side], repeat: int) -> list[Side]:
    """Return the sides in the order of this repeat: random, so that no side is always first, yet ever the same."""
    return Random(stream_seed(0, "bench", repeat)).sample(list(sides), len(sides))


def _tell(benchmark: Benchmark, launches: Sequence[Launch], given: Namespace, folder: Path) -> None:
    if not launches:
        return
    shared = {
        "what": given.what,
        "config_sha256": benchmark.config_sha256,
        "overrides": " ".join(given.overrides) or None,
    }
    console = Console()
    console.width = max(console.width, _TABLE_WIDTH)
    console.print(table(benchmark.title, launches, [side.name for side in benchmark.sides], benchmark.units))
    path = rows.write(folder, launches, benchmark.units, shared)
    console.print(f"Rows: {path}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Measurement:
    """A function of this room that is called in a process of its own (:mod:`lmexp.bench.child`).

    Attributes:
        function: its module and name, such as ``"train:ours"``.
        run: the config; the only thing that all sides share.
        seconds: measured time.
        options: what else it reads.
        product_threads: with how many of them lmexp readies the process for MLX (:func:`lmexp.platform.prepare`); None
            leaves it as it is, for what stands for others' code.
    """

    function: str
    run: FrozenRun
    seconds: float
    options: Mapping[str, Any]
    product_threads: int | None = 1

    def __call__(self, repeat: int) -> dict[str, float]:
        """Launch the process and return its figures; a repeat is a seed of its own."""
        message = {
            "function": self.function,
            "product_threads": self.product_threads,
            "device": _DEVICES.get(platform.mlx_backend()),
            "run": to_mapping(self.run),
            "repeat": repeat,
            "seconds": self.seconds,
            "options": dict(self.options),
        }
        is_ours = self.product_threads is not None
        command = [sys.executable, "-m", "lmexp.bench.child"]
        output = run_process(command, json.dumps(message), None, **(platform.environment() if is_ours else {}))
        figures: dict[str, float] = json.loads(output.splitlines()[-1])
        return figures


def run_process(command: Sequence[str], message: str = "", folder: Path | None = None, **environment: str) -> str:
    """Run a command to its end and return what it printed.

    Args:
        command: its program and arguments.
        message: its standard input.
        folder: where it runs; None means here.
        environment: variables beside those of this process.

    Raises:
        UserError: with the last line that it said, when it failed.
    """
    everything = {**os.environ, **environment}
    done = subprocess.run(
        command, input=message, capture_output=True, text=True, check=False, cwd=folder, env=everything
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        if len(said) > 1:
            print(done.stderr, file=sys.stderr)
        raise UserError(f"{said[-1].removeprefix('lmexp: ')} (a launch ended with exit code {done.returncode})")
    return done.stdout
