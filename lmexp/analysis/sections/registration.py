"""The chain of entries that promised what is judged, how to check it, and what it cannot prove."""

from typing import Any

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.pictures import counted
from lmexp.analysis.sections.shared import short, time_text
from lmexp.lock import Entry


def registration(analysis: Analysis) -> dict[str, Any] | None:
    """Return the entries of the plan's lock; None for a plan without one."""
    lock = analysis.lock
    if lock is None:
        return None
    entries = lock.entries
    return {
        "has_reasons": any(entry.reason for entry in entries),
        "entries": [_entry(place, entry) for place, entry in enumerate(entries)],
        "command": f"lmexp plan verify {analysis.source.name}",
        "is_followed": analysis.registered,
    }


def _entry(place: int, entry: Entry) -> dict[str, str]:
    return {
        "name": f"{place}: {entry.kind}",
        "at": time_text(entry.at),
        "sha256": entry.sha256,
        "short": short(entry.sha256),
        "plan_sha256": entry.plan_sha256,
        "plan_short": short(entry.plan_sha256),
        "commit": short(entry.git_commit) if entry.git_commit else "not recorded",
        "cells": f"{len(entry.cells):,}",
        "runs": counted(entry.runs_existed, "run") if entry.runs_existed else "none",
        "reason": entry.reason or "",
    }
