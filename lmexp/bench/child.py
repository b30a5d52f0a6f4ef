"""A process of its own for one launch: ``python -m lmexp.bench.child``.

What to measure arrives as one JSON message on standard input; the figures leave as the last line of standard output.
"""

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmexp import platform
from lmexp.config import RunConfig, from_mapping
from lmexp.errors import UserError


@dataclass(frozen=True)
class Task:
    """What a launch measures.

    Attributes:
        config: the model, the data and all that a step needs; its seed counts the repeats.
        device: ``cpu`` or ``gpu``; None when it has to be asked of MLX.
        seconds: how long to measure.
        options: what else the benchmark reads.
    """

    config: RunConfig
    device: str | None
    seconds: float
    options: Mapping[str, Any]


def main() -> int:
    """Measure what standard input asks; return 0, or 2 for a mistake of the user's."""
    message = json.load(sys.stdin)
    try:
        print(f"\n{json.dumps(_measured(message))}")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _measured(message: Mapping[str, Any]) -> dict[str, float]:
    if message["product_threads"] is not None:
        platform.prepare(message["product_threads"])
    config = from_mapping(message["run"], Path()).config
    config = replace(config, seed=config.seed + message["repeat"])
    task = Task(config, message["device"], message["seconds"], message["options"])
    room, _, name = message["function"].partition(":")
    measure = getattr(importlib.import_module(f"lmexp.bench.{room}"), name)
    with platform.device_lock(task.device):
        figures: dict[str, float] = measure(task)
    return figures


if __name__ == "__main__":
    sys.exit(main())
