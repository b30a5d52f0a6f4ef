"""``lmexp run`` from the outside, as a user starts it: in processes and a results folder of its own."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmexp.bench.harness import run_process
from lmexp.results import read_row, run_folders

LMEXP = (sys.executable, "-m", "lmexp")


def rows_of(arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Carry out ``lmexp run ARGUMENTS`` and return the row of every run; nothing of it stays on disk.

    Raises:
        UserError: it failed, with its last words.
    """
    with tempfile.TemporaryDirectory() as results:
        run_process([*LMEXP, "run", *without_results(arguments), f"paths.results={results}"])
        folders = [folder for name in sorted(Path(results).iterdir()) for folder in run_folders(name)]
        return [row for folder in folders if (row := read_row(folder)) is not None]


def without_results(overrides: Sequence[str]) -> list[str]:
    """Return the overrides but for ``paths.results``, which says where a benchmark's rows go, not those of its runs."""
    return [item for item in overrides if not item.startswith("paths.results=")]
