"""Where lmexp finds its own files and keeps its caches."""

import os
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
