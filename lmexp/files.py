"""Where lmexp finds its own files, keeps its caches, and how it writes: all of a file, or nothing."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_path

from lmexp.errors import UserError

_PACKAGE = Path(__file__).parent


def installed_folder(name: str) -> Path:
    """Return ``conf`` or ``experiments``: inside the installed wheel, or beside the package in a checkout."""
    inside_wheel = _PACKAGE / name
    return inside_wheel if inside_wheel.is_dir() else _PACKAGE.parent / name


def cache_folder(name: str) -> Path:
    """Return (and create) the cache folder for one purpose; ``LMEXP_CACHE`` moves all of them.

    Raises:
        UserError: the folder cannot be created.
    """
    folder = Path(os.environ.get("LMEXP_CACHE") or user_cache_path("lmexp")) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot create the cache {folder} ({error.strerror}); name another: LMEXP_CACHE=DIR."
        ) from error
    return folder


def shared_data(name: str) -> Path | None:
    """Return the file or folder of this name under ``LMEXP_DATA``, where a user keeps downloads; None if not there."""
    folder = os.environ.get("LMEXP_DATA")
    path = Path(folder, name) if folder else None
    return path if path and path.exists() else None


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, fsync it and rename it: all of it appears, or nothing.

    Two writers at once are safe: the last one wins.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last through a power cut (a folder's entry is data of the folder)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
