"""One process per device: two runs never share an accelerator under a wall-clock budget."""

import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lmexp.errors import UserError
from lmexp.files import cache_folder

_POLL_SECONDS = 0.2


@contextmanager
def device_lock(device: str | None = None, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a device for as long as the body runs; wait while another process holds it.

    The operating system takes the lock back when its holder dies, however it dies.

    Args:
        device: ``cpu`` or ``gpu``; None for the one on which MLX computes by default.
        on_wait: told once who holds the device (``"process 4711"``) when this process must wait.

    Raises:
        UserError: when the lock's file cannot be written.
    """
    path = _lock_path(_default_device() if device is None else device)
    lock = FileLock(path, poll_interval=_POLL_SECONDS)
    _acquire(lock, path, on_wait or (lambda holder: None))
    try:
        _holder_file(path).write_text(str(os.getpid()))
        yield
    finally:
        _holder_file(path).unlink(missing_ok=True)
        lock.release()


def holder(device: str) -> str | None:
    """Return who holds the device (``"process 4711"``), or None when it is free.

    Raises:
        UserError: when the lock's file cannot be written.
    """
    path = _lock_path(device)
    lock = FileLock(path)
    with _explained(path):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return _name_holder(path)
    lock.release()
    return None


def holder_here() -> str | None:
    """Return who holds the CPU or the GPU of this process, whichever MLX computes on: this does not import it."""
    return holder("gpu") or holder("cpu")


def _acquire(lock: FileLock, path: Path, on_wait: Callable[[str], None]) -> None:
    with _explained(path):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait(_name_holder(path))
            lock.acquire()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise UserError(f"The lock {path} cannot be written: give yourself the folder, or set LMEXP_CACHE.") from error


def _lock_path(device: str) -> Path:
    """Return one file per device and machine (a home folder may be shared by several).

    A process uses the first of the GPUs that it sees, so processes pinned to different ones do not exclude each other.
    """
    if device == "gpu":
        device = f"gpu-{os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',')[0] or '0'}"
    name = re.sub(r"[^A-Za-z0-9.-]", "_", f"{platform.node()}-{device}")
    return cache_folder("locks") / f"{name}.lock"


def _holder_file(path: Path) -> Path:
    return path.with_suffix(".pid")


def _name_holder(path: Path) -> str:
    """Say who holds the lock. The file may not be written yet, or be left from a process that was killed."""
    try:
        process = int(_holder_file(path).read_text())
        os.kill(process, 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return "another process"
    except PermissionError:  # it lives, and is another user's
        pass
    return f"process {process}"


def _default_device() -> str:
    from lmexp.platform.device import default_device

    return default_device()
