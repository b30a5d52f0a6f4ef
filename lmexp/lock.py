"""The lock of a plan: an append-only chain of entries, each with all that was promised before the runs were made.

``lock.json`` lies beside ``plan.yaml``. The first entry locks the plan; every later one amends it, says why, and says
whether runs existed by then. An entry holds the plan and the hash of every cell's frozen config, and its own hash
covers both, its time and the entry before it: no entry can be changed without changing all that follow, and every run
that follows the plan carries the hash of the entry it was made under.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmexp.errors import UserError
from lmexp.files import write_text
from lmexp.plan import Plan, canonical_json, plan_of

LOCK_FILE = "lock.json"
LOCKED, AMENDED = "lock", "amendment"


@dataclass(frozen=True)
class Entry:
    """One entry of the chain.

    ``cells`` gives, for each cell (:func:`cell_key`), the SHA-256 of its frozen config without the keys that the plan
    leaves free. ``runs_existed`` counts the runs that the plan already had when the entry was written.
    """

    kind: str
    at: str  # ISO 8601, UTC
    reason: str | None
    runs_existed: int
    plan: Mapping[str, Any]
    cells: Mapping[str, str]
    lmexp_version: str
    git_commit: str | None
    previous: str | None  # hash of the entry before
    sha256: str

    @property
    def computed_sha256(self) -> str:
        """The hash that the entry should carry."""
        content = {key: value for key, value in dataclasses.asdict(self).items() if key != "sha256"}
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()

    @property
    def plan_sha256(self) -> str:
        """The hash of the plan as this entry promises it."""
        return hashlib.sha256(canonical_json(self.plan).encode()).hexdigest()


@dataclass(frozen=True)
class Lock:
    """The chain of a plan's entries, oldest first, never empty."""

    entries: tuple[Entry, ...]
    path: Path

    @property
    def current(self) -> Entry:
        """The entry that holds now."""
        return self.entries[-1]

    @property
    def amended_after_data(self) -> tuple[Entry, ...]:
        """The amendments that were made when runs of the plan existed."""
        return tuple(entry for entry in self.entries[1:] if entry.runs_existed)

    def plan(self) -> Plan:
        """Return the plan as the current entry promises it, whatever the file says by now."""
        return plan_of(dict(self.current.plan), self.path.with_name("plan.yaml"))

    def faults(self) -> list[str]:
        """Return what is wrong with the chain: an entry that was edited, or one that does not follow the one before."""
        faults, previous = [], None
        for place, entry in enumerate(self.entries):
            if entry.computed_sha256 != entry.sha256:
                faults.append(
                    f"entry {place} of {self.path.name} was edited: its content has another hash than it says"
                )
            if entry.previous != previous:
                faults.append(f"entry {place} of {self.path.name} does not follow the entry before it")
            previous = entry.sha256
        return faults


def cell_key(arm: str, seed: int) -> str:
    """Return the name of a cell in a lock."""
    return f"{arm} seed {seed}"


def sealed(**content: Any) -> Entry:
    """Return an entry with its hash. ``content``: every field but ``sha256``."""
    entry = Entry(**content, sha256="")
    return dataclasses.replace(entry, sha256=entry.computed_sha256)


def read_lock(plan: Plan) -> Lock | None:
    """Return the lock of a plan, None when it has none. An edited chain is returned as it is: see ``faults``.

    Raises:
        UserError: the file is not a lock.
    """
    path = plan.path.with_name(LOCK_FILE)
    if not path.exists():
        return None
    try:
        entries = tuple(Entry(**entry) for entry in json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it from your version control.") from error
    if not entries:
        raise UserError(f"{path} holds no entry; restore it from your version control, or remove it.")
    return Lock(entries, path)


def append(plan: Plan, entry: Entry) -> Lock:
    """Add an entry to a plan's chain, or start the chain."""
    path = plan.path.with_name(LOCK_FILE)
    before = read_lock(plan)
    lock = Lock((*(before.entries if before else ()), entry), path)
    text = json.dumps([dataclasses.asdict(each) for each in lock.entries], indent=1, ensure_ascii=False)
    write_text(path, text + "\n")
    return lock
