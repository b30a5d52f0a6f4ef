"""What this machine is, what code runs on it, and how much memory MLX used."""

import importlib.metadata
import os
import platform as host_platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from lmexp.platform.cores import usable_cores

_CONTROL_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CHECKOUT = Path(__file__).resolve().parents[2]
# What decides a result. Rows and reports are written beside the plans, so experiments/ would always look changed.
_CODE = ("lmexp", "hydra_plugins", "conf")


@dataclass(frozen=True)
class Facts:
    """The environment of a run: enough to tell later why two runs differ."""

    host: str
    device: str  # cpu or gpu: where MLX computes by default
    chip: str
    mlx_version: str
    memory_bytes: int  # of the GPU where it has its own, else of the machine (or the container's limit)
    cores: int  # that this process may use
    git_commit: str | None  # None outside a checkout
    git_dirty: bool | None  # whether the code (not the results) differs from the commit
    platform: str


def facts() -> Facts:
    """Look at the machine and at the code."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", *_CODE)
    return Facts(
        host=host_platform.node(),
        device=default_device(),
        chip=str(mx.device_info(mx.default_device())["device_name"]),
        mlx_version=importlib.metadata.version("mlx"),
        memory_bytes=_memory_bytes(),
        cores=usable_cores(),
        git_commit=commit,
        git_dirty=None if changes is None else changes != "",
        platform=host_platform.platform(),
    )


def default_device() -> str:
    """Return ``cpu`` or ``gpu``: where MLX computes unless told otherwise."""
    return mx.default_device().type.name


def _memory_bytes() -> int:
    info = mx.device_info(mx.default_device())
    own = info.get("total_memory", info.get("memory_size"))
    return machine_memory_bytes() if own is None else int(own)


def machine_memory_bytes() -> int:
    """Return the machine's memory, or the control group's limit where that is less."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _CONTROL_GROUP_LIMIT
    text = limit.read_text().strip() if limit.is_file() else "max"
    return physical if text == "max" else min(physical, int(text))


def _git(*arguments: str) -> str | None:
    """Ask git about the package's checkout; None when the package is installed elsewhere, or git is missing."""
    if not (_CHECKOUT / ".git").exists():
        return None
    command = ["git", "-C", str(_CHECKOUT), "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


class _Peak:
    """The highest memory seen before MLX's own counter was last set back."""

    bytes_before = 0


def reset_peak_memory() -> None:
    """Begin to measure peak memory anew."""
    _Peak.bytes_before = 0
    mx.reset_peak_memory()


def peak_memory_bytes() -> int:
    """Return the most bytes that MLX arrays held at one moment since `reset_peak_memory`, on any device.

    MLX counts what its allocator gave out, on CPU too: Python, the BLAS's buffers and memory kept for reuse are not in
    it, so it is less than the size of the process.
    """
    return max(_Peak.bytes_before, mx.get_peak_memory())


@contextmanager
def untouched_peak() -> Iterator[None]:
    """Run the body off the record: its allocations do not count in `peak_memory_bytes`."""
    before = peak_memory_bytes()
    try:
        yield
    finally:
        # MLX's counter starts again from zero: what is still held counts from the next allocation on, and until then
        # ``before`` holds it.
        _Peak.bytes_before = before
        mx.reset_peak_memory()
