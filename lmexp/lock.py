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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmexp.errors import UserError
from lmexp.files import write_text
from lmexp.plan import Plan, canonical_json, plan_of

LOCK_FILE = "lock.json"
LOCKED, AMENDED = "lock", "amendment"
_ABSENT, _MOST_SAID = "nothing", 90


@dataclass(frozen=True)
class Finding:
    """One thing that was found when a lock or its runs were checked: a fault, or a remark worth knowing."""

    is_fault: bool
    text: str


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

    def entry(self, sha256: object) -> Entry | None:
        """Return the entry with this hash, None when the chain has none."""
        return next((entry for entry in self.entries if entry.sha256 == sha256), None)

    def name(self, entry: Entry) -> str:
        """Return what to call an entry: its place in the chain."""
        return f"entry {self.entries.index(entry)}"

    def faults(self) -> list[str]:
        """Return what is wrong with the chain: an entry that was edited, or one that does not follow the one before."""
        chain = enumerate(zip((None, *self.entries), self.entries, strict=False))
        return [
            f"entry {place} of {self.path.name} {fault}"
            for place, (before, entry) in chain
            for fault in _faults(before, entry)
        ]


def _faults(before: Entry | None, entry: Entry) -> list[str]:
    """Return what is wrong with an entry after the one before it, None for the first."""
    faults = []
    if entry.computed_sha256 != entry.sha256:
        faults.append("was edited: its content has another hash than it says")
    if entry.previous != (before and before.sha256):
        faults.append("does not follow the entry before it")
    if (entry.kind, bool(entry.reason)) != ((LOCKED, False) if before is None else (AMENDED, True)):
        faults.append("must be a lock" if before is None else "must be an amendment with a reason")
    made, made_before = moment(entry.at), moment(before.at) if before else None
    if made is None or (made_before is not None and made < made_before):
        faults.append(f"says that it was made at {entry.at}, which cannot be")
    return faults


def changes(before: Any, after: Any, where: str = "") -> list[str]:
    """Say what differs between two plans' contents, one field a line."""
    if canonical_json(before) == canonical_json(after):
        return []
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = list(dict.fromkeys((*before, *after)))
        return [
            line
            for key in keys
            for line in changes(before.get(key, _ABSENT), after.get(key, _ABSENT), f"{where}.{key}".lstrip("."))
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for place, pair in pairs for line in changes(*pair, f"{where}[{place}]")]
    return [f"{where}: {_said(before)} became {_said(after)}"]


def _said(value: object) -> str:
    text = str(value) if value == _ABSENT else canonical_json(value)
    return text if len(text) <= _MOST_SAID else text[: _MOST_SAID - 1] + "\N{HORIZONTAL ELLIPSIS}"


def now() -> str:
    """Return the time as entries and rows give it: ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def moment(text: object) -> datetime | None:
    """Read a time; None when it is not one, or lacks its zone."""
    try:
        read = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return read if read.tzinfo else None


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
    return read_lock_beside(plan.path)


def read_lock_beside(plan_path: Path) -> Lock | None:
    """Return the lock beside a ``plan.yaml``, which need not be a plan (any more); see :func:`read_lock`."""
    path = plan_path.with_name(LOCK_FILE)
    if not path.exists():
        return None
    try:
        entries = tuple(_entry(content) for content in json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it from your version control.") from error
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}); mend its permissions.") from error
    if not entries:
        raise UserError(f"{path} holds no entry; restore it from your version control, or remove it.")
    return Lock(entries, path)


def _entry(content: Any) -> Entry:
    entry = Entry(**content)
    texts = (entry.kind, entry.at, entry.sha256, entry.previous or "", entry.reason or "", *entry.cells.values())
    if not isinstance(entry.plan, dict) or type(entry.runs_existed) is not int:
        raise TypeError("an entry's plan must be a mapping, its runs_existed a whole number")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("an entry's times, reasons and hashes must be texts")
    return entry


def append(plan: Plan, entry: Entry) -> Lock:
    """Add an entry to a plan's chain, or start the chain.

    Raises:
        UserError: the file cannot be written.
    """
    path = plan.path.with_name(LOCK_FILE)
    before = read_lock(plan)
    lock = Lock((*(before.entries if before else ()), entry), path)
    text = json.dumps([dataclasses.asdict(each) for each in lock.entries], indent=1, ensure_ascii=False)
    try:
        write_text(path, text + "\n")
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror}); mend the folder's permissions.") from error
    return lock


def state(plan: Plan) -> str:
    """Say in a few words where a plan stands: not locked, locked, amended, edited since."""
    try:
        lock = read_lock(plan)
    except UserError:
        return "lock damaged"
    if lock is None:
        return "not locked"
    if lock.faults():
        return "lock damaged"
    count = len(lock.entries) - 1
    words = "locked" if not count else "amended once" if count == 1 else f"amended {count} times"
    return words if lock.current.plan_sha256 == plan.sha256 else f"{words}, edited since"
