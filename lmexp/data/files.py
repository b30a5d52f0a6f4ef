"""Files of the data room: shared ones that a user put in place, and writing so that no reader sees half a file."""

import contextlib
import os
import secrets
from pathlib import Path


def shared_data(name: str) -> Path | None:
    """Return the file or folder of this name under ``LMEXP_DATA``, where a user keeps downloads; None if not there."""
    folder = os.environ.get("LMEXP_DATA")
    path = Path(folder, name) if folder else None
    return path if path and path.exists() else None


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name beside ``path``, fsync, rename. Two writers at once are safe: the last one wins."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):  # the rename took it
            temporary.unlink()
