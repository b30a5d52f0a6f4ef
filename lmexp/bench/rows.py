"""The rows of a benchmark: one for each launch, side and figure."""

import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmexp import __version__, platform
from lmexp.bench.summary import Launch
from lmexp.files import write_atomic

_TEXT, _WHOLE, _REAL = pa.string(), pa.int64(), pa.float64()

SCHEMA = pa.schema(
    {
        "what": _TEXT,
        "side": _TEXT,
        "repeat": _WHOLE,
        "order": _WHOLE,  # of the launch among all of the call
        "figure": _TEXT,
        "value": _REAL,
        "unit": _TEXT,
        "config_sha256": _TEXT,  # null where a benchmark has no config
        "overrides": _TEXT,
        "threads": _WHOLE,  # that matrix products may use on a CPU
        "started_at": _TEXT,  # ISO 8601, UTC
        "host": _TEXT,
        "device": _TEXT,
        "chip": _TEXT,
        "platform": _TEXT,
        "git_commit": _TEXT,
        "git_dirty": pa.bool_(),
        "versions": _TEXT,  # of what takes part, such as "lmexp 0.1.0, mlx 0.32.4"
    }
)
_PARTS = ("mlx", "numpy", "torch")


def write(folder: Path, launches: Sequence[Launch], units: Mapping[str, str], shared: Mapping[str, Any]) -> Path:
    """Write the rows of one call into a file of its own, named by the moment, and return its path.

    Args:
        folder: exists.
        launches: in the order in which they were made.
        units: of every figure.
        shared: the columns that all rows have in common, beside those that say what the machine is.
    """
    shared = {**_machine(), **shared}
    rows = [
        {
            **shared,
            "side": launch.side,
            "repeat": launch.repeat,
            "order": order,
            "figure": figure,
            "value": float(value),
            "unit": units[figure],
            "started_at": launch.started_at,
        }
        for order, launch in enumerate(launches)
        for figure, value in launch.figures.items()
    ]
    path = folder / f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%f')}Z.parquet"
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    write_atomic(path, lambda temporary: pq.write_table(table, temporary))
    return path


def _machine() -> dict[str, Any]:
    """Say what this machine and its software are. This wakes MLX: do it when nothing is being timed."""
    platform.prepare()
    facts = platform.facts()
    return {
        "threads": platform.compute_cores(),
        "host": facts.host,
        "device": facts.device,
        "chip": facts.chip,
        "platform": facts.platform,
        "git_commit": facts.git_commit,
        "git_dirty": facts.git_dirty,
        "versions": _versions(),
    }


def _versions() -> str:
    installed = {"lmexp": __version__, "python": sys.version.split()[0]}
    for name in _PARTS:
        if platform.is_installed(name):
            installed[name] = importlib.metadata.version(name)
    return ", ".join(f"{name} {version}" for name, version in installed.items())
