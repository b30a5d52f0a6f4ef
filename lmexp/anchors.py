"""What others can say of when a lock was made: git, signed tags, time stamps of an authority (RFC 3161).

The times in a lock come from a clock that its owner can set, so they prove nothing. Each function here asks a witness
outside the lock; where git or openssl is missing, it says so in one sentence and finds no fault.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lmexp.lock import Entry, Finding, Lock

TOKEN_SUFFIX, AUTHORITY_SUFFIX = ".tsr", ".tsr.pem"
_MOST_TAGS = 20  # that are tried: each asks gpg or ssh


@dataclass(frozen=True)
class Commit:
    """A git commit that changed a lock, with the hashes of the entries that it holds."""

    sha: str
    date: str  # ISO 8601, as the committer's clock had it
    entries: frozenset[str]

    @property
    def short(self) -> str:
        """What a person needs to find it."""
        return self.sha[:12]


def commits(lock: Lock) -> list[Commit] | None:
    """Return the commits that changed the lock, oldest first; None outside a git repository, or without git."""
    folder = lock.path.parent.resolve()
    log = _git(folder, "log", "--reverse", "--full-history", "--format=%H %cI", "--", lock.path.name)
    if log is None:
        inside = _git(folder, "rev-parse", "--is-inside-work-tree") is not None
        return [] if inside else None  # a repository without a commit has no log either
    found = (line.partition(" ") for line in log.splitlines())
    return [Commit(sha, date, _entries_at(folder, sha, lock.path.name)) for sha, _, date in found]


def _entries_at(folder: Path, sha: str, name: str) -> frozenset[str]:
    try:
        return frozenset(str(entry["sha256"]) for entry in json.loads(_git(folder, "show", f"{sha}:./{name}") or "[]"))
    except (ValueError, TypeError, KeyError):
        return frozenset()


def first_commit(history: list[Commit] | None, entry: Entry) -> Commit | None:
    """Return the commit that first held an entry."""
    return next((commit for commit in history or [] if entry.sha256 in commit.entries), None)


def witnesses(lock: Lock, history: list[Commit] | None) -> list[Finding]:
    """Return what git (:func:`commits`), its signed tags and a time-stamping authority say of the current entry."""
    return [*_git_findings(lock, history), *_token_findings(lock)]


def _git_findings(lock: Lock, history: list[Commit] | None) -> Iterator[Finding]:
    if history is None:
        yield Finding(False, f"{lock.path.parent} is in no git repository that git can read: no commit holds the lock.")
        return
    yield from _rewritten(lock, history)
    commit = first_commit(history, lock.current)
    if commit is None:
        yield Finding(False, f"No git commit holds {lock.name(lock.current)} yet: commit {lock.path.name}.")
        return
    yield Finding(False, _commit_text(lock, commit))
    yield from _tag_findings(lock.path.parent, commit)


def _rewritten(lock: Lock, history: list[Commit]) -> Iterator[Finding]:
    """Find entries that were committed and are gone: a chain only ever grows."""
    known, told = {entry.sha256 for entry in lock.entries}, set[str]()
    for commit in history:
        for sha256 in sorted(commit.entries - known - told):
            told.add(sha256)
            held = f"git commit {commit.short} holds an entry that the lock lacks ({sha256[:12]})"
            yield Finding(True, f"{held}: the lock was rewritten.")


def _commit_text(lock: Lock, commit: Commit) -> str:
    branches = _git(lock.path.parent, "branch", "--remotes", "--contains", commit.sha, "--format=%(refname:lstrip=2)")
    pushed = [name for name in (branches or "").split() if not name.endswith("/HEAD")]
    held = f"git commit {commit.short} of {commit.date} is the first to hold {lock.name(lock.current)}"
    if not pushed:
        return f"{held}; no remote branch known here has it, so nobody else can confirm that date."
    return f"{held}; {pushed[0]} has it too, and whoever keeps that can confirm the date."


def _tag_findings(folder: Path, commit: Commit) -> Iterator[Finding]:
    """Tell whether a signed tag holds the commit. Tags without a signature say no more than the commit does."""
    form = "--format=%(objecttype) %(refname:lstrip=2)"
    listed = _git(folder, "for-each-ref", "refs/tags", f"--contains={commit.sha}", form) or ""
    names = [line.partition(" ")[2] for line in listed.splitlines() if line.startswith("tag ")]
    signed = [name for name in names[:_MOST_TAGS] if _is_signed(folder, name)]
    for name in signed:
        if _git(folder, "verify-tag", name) is not None:
            yield Finding(False, f"The signed tag {name} holds that commit, and its signature verifies.")
            return
    if signed:
        text = f"The tag {signed[0]} is signed, but its signature does not verify here (git verify-tag {signed[0]})."
        yield Finding(False, text)


def _is_signed(folder: Path, tag: str) -> bool:
    return "-----BEGIN " in (_git(folder, "cat-file", "tag", tag) or "")


def code_commit() -> str | None:
    """Return the commit of lmexp's own code; None when it is installed from elsewhere than a checkout."""
    checkout = Path(__file__).resolve().parents[1]
    return _git(checkout, "rev-parse", "HEAD") if (checkout / ".git").exists() else None


def _git(folder: Path, *arguments: str) -> str | None:
    """Ask git; None when it fails or is missing."""
    command = ["git", "-C", str(folder), "--no-optional-locks", "-c", "log.showSignature=false", *arguments]
    return _output(command)


def _token_findings(lock: Lock) -> Iterator[Finding]:
    """Check the time-stamp token beside the lock, if there is one, against the current entry and then older ones."""
    token = lock.path.with_name(lock.path.name + TOKEN_SUFFIX)
    authority = lock.path.with_name(lock.path.name + AUTHORITY_SUFFIX)
    if not token.exists():
        return
    if not authority.exists():
        wanted = f"put the authority's certificate beside it, as {authority.name}"
        yield Finding(False, f"{token.name} was not checked: {wanted}.")
        return
    if _output(["openssl", "version"]) is None:
        yield Finding(False, f"{token.name} was not checked: openssl is not here.")
        return
    stamped = next((e for e in reversed(lock.entries) if _is_stamped(token, authority, e)), None)
    if stamped is None:
        yield Finding(True, f"{token.name} stamps no entry of this lock, or {authority.name} does not vouch for it.")
        return
    when = _stamp_time(token)
    yield Finding(False, f"{token.name} stamps {lock.name(stamped)} at {when}, by the authority in {authority.name}.")
    if stamped is not lock.current:
        yield Finding(False, f"{token.name} does not cover {lock.name(lock.current)}: ask for a new one.")


def _is_stamped(token: Path, authority: Path, entry: Entry) -> bool:
    where = ["-in", str(token), "-CAfile", str(authority)]
    return _output(["openssl", "ts", "-verify", "-digest", entry.sha256, *where]) is not None


def _stamp_time(token: Path) -> str:
    said = _output(["openssl", "ts", "-reply", "-in", str(token), "-text"]) or ""
    found = re.search(r"Time stamp: (.+)", said)
    return found[1].strip() if found else "an unknown time"


def _output(command: list[str]) -> str | None:
    """Return what a command prints; None when it fails or is missing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
