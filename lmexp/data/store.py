"""Tokenised text on disk: a file of token ids and, beside it, a json file that says what they are.

Both are written atomically, the ids first. What is written depends on the key alone, so that two processes building the
same entry at once write the same bytes and either may win. A file that does not match its description is built again.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmexp.errors import UserError
from lmexp.files import cache_folder, write_atomic

_log = logging.getLogger(__name__)

Key = dict[str, str | int]


@dataclass(frozen=True)
class Entry:
    """One cached corpus.

    Attributes:
        tokens: (n_tokens,) uint16 or uint32, a read-only memory map.
        facts: what ``save`` was told about them.
    """

    tokens: np.ndarray
    facts: dict[str, Any]


def load(name: str, key: Key) -> Entry | None:
    """Return the entry of this key, or None if it is not there or damaged.

    Args:
        name: how its files' names begin, for people who look into the cache.
        key: everything that the tokens depend on.
    """
    ids, description = _files(name, key)
    try:
        return _read(ids, description, key)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as damage:
        _log.warning("The cached tokens %s are damaged (%s) and are made again", ids, damage)
        return None


def save(name: str, key: Key, tokens: np.ndarray, facts: dict[str, Any]) -> None:
    """Write an entry, in place of any that has the same key."""
    ids, description = _files(name, key)
    content = tokens.tobytes()
    sha256 = hashlib.sha256(content).hexdigest()
    written = {"key": key, "dtype": str(tokens.dtype), "n_bytes": len(content), "sha256": sha256, "facts": facts}
    try:
        write_atomic(ids, lambda path: path.write_bytes(content))
        write_atomic(description, lambda path: path.write_bytes(json.dumps(written).encode()))
    except OSError as error:
        raise UserError(
            f"The cache {ids.parent} cannot be written ({error.strerror}): free some space or let LMEXP_CACHE name "
            "another folder."
        ) from error


def _read(ids: Path, description: Path, key: Key) -> Entry:
    """Raises ValueError, KeyError or TypeError when anything differs from what was saved."""
    written = json.loads(description.read_bytes())
    if written["key"] != key:
        raise ValueError("it belongs to another key")
    if ids.stat().st_size != written["n_bytes"]:
        raise ValueError(f"{ids.stat().st_size} bytes where {written['n_bytes']} were written")
    tokens = np.memmap(ids, dtype=written["dtype"], mode="r") if written["n_bytes"] else np.empty(0, written["dtype"])
    if hashlib.sha256(tokens.data).hexdigest() != written["sha256"]:
        raise ValueError("another sha256")
    return Entry(tokens, written["facts"])


def _files(name: str, key: Key) -> tuple[Path, Path]:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder("data")
    return folder / f"{name}-{digest}.tokens", folder / f"{name}-{digest}.json"
