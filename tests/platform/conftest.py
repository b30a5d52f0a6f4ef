import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

# What would let the machine that runs the tests decide their outcome.
_FOREIGN = ("LMEXP_", "GLIBC_TUNABLES", "MKL_", "LD_PRELOAD", "TMPDIR", "CUDA_VISIBLE_DEVICES", "TIKTOKEN_CACHE_DIR")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which everything lmexp writes lands in tmp_path, each kind in a folder of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    own = {"LMEXP_CACHE": tmp_path / "cache", "HOME": tmp_path / "home", "TMPDIR": tmp_path / "tmp"}
    return kept | {name: str(path) for name, path in own.items()}


@pytest.fixture
def run_python(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run code in a fresh Python process, which fails the test when it fails; options are environment variables."""

    def run(code: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | variables, cwd=tmp_path, capture_output=True, text=True
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def no_tools(tmp_path: Path) -> str:
    """A PATH on which there is no compiler."""
    folder = tmp_path / "no_tools"
    folder.mkdir()
    return str(folder)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the tests do in this process out of the user's cache, too."""
    monkeypatch.setenv("LMEXP_CACHE", str(tmp_path / "cache"))
