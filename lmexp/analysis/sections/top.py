"""What stands above everything else: the answer, what it rests on, and what a reader must know before believing it."""

from collections.abc import Sequence
from typing import Any

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.cells import REGISTERED
from lmexp.analysis.pictures import counted
from lmexp.analysis.sections.shared import short, time_text

_TIMES = "\N{MULTIPLICATION SIGN}"


def top(analysis: Analysis, notes: Sequence[str]) -> dict[str, Any]:
    """Return the head of the page."""
    of_the_plan = [note for note in notes if note.startswith(("plan.yaml", "The lock"))]
    return {
        "lede": lede(analysis),
        "facts": _facts(analysis),
        "banner": _banner(analysis),
        "changes": [*_amendments(analysis), *[("Deviation", text) for text in analysis.source.deviations]]
        + [("Note", note) for note in of_the_plan],
        "notes": [*[note for note in notes if note not in of_the_plan], *analysis.remarks],
    }


def lede(analysis: Analysis) -> list[str]:
    """Answer the question, then say what became of the hypotheses; a breach of the protocol comes first.

    Of runs that are not registered only the estimates are told: the banner says why nothing is judged.
    """
    if not analysis.registered and analysis.verdicts:
        return [analysis.answer or "There is nothing to report yet."]
    said = [analysis.joint, analysis.answer] if analysis.breach else [analysis.answer, analysis.joint]
    return [text for text in said if text]


def _facts(analysis: Analysis) -> list[tuple[str, str, str]]:
    """Return (label, value, full text) for the lines under the title."""
    plan, accounting = analysis.plan, analysis.accounting
    primary = plan.primary
    facts = [
        ("Design", _design(analysis), ""),
        ("Runs that count", f"{accounting.n_used:,} of {len(accounting.cells):,} planned", ""),
        ("Measure", f"{analysis.measures[0].label}, {primary.unit}, {primary.direction} is better", primary.name),
        ("Standing", _standing(analysis), ""),
        _hashes(analysis),
    ]
    days = sorted(str(text)[:10] for text in analysis.used["started_at"].dropna())
    if days:
        facts.append(("Ran", days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}", ""))
    return facts


def _hashes(analysis: Analysis) -> tuple[str, str, str]:
    plan = analysis.source.sha256
    if analysis.lock is None or not analysis.registered:
        return "Plan", short(plan), plan
    lock = analysis.lock.current.sha256
    return "Plan, lock", f"{short(plan)}, {short(lock)}", f"plan {plan}, lock {lock}"


def _design(analysis: Analysis) -> str:
    """Return the size of the design, of both stages where there are two."""
    plan, source = analysis.plan, analysis.source
    if source.confirmation is None:
        return f"{counted(len(plan.arms), 'arm')} {_TIMES} {counted(len(plan.seeds), 'seed')}"
    sweep = f"{counted(len(source.arms), 'arm')} {_TIMES} {counted(len(source.seeds), 'seed')}"
    return f"{sweep}, then {counted(len(plan.arms), 'arm')} {_TIMES} {counted(len(plan.seeds), 'fresh seed')}"


def _standing(analysis: Analysis) -> str:
    if not analysis.registered:
        return "exploratory"
    if analysis.amendments:
        return "registered, amended after data"
    return "registered"


def _banner(analysis: Analysis) -> dict[str, Any] | None:
    """Say why nothing is judged, and what to do about it; None for registered runs."""
    if analysis.registered:
        return None
    name, lock = analysis.source.name, analysis.lock
    no_lock = "No lock shows that this plan was fixed before its runs."
    why = no_lock if lock is None else f"The plan is locked, but these runs do not follow its lock ({_how(analysis)})."
    judged = "So nothing is judged: the estimates and intervals below describe these runs, and confirm nothing."
    after = "Runs made from then on are judged; those made before stay exploratory."
    steps = [f"lmexp plan lock {name}"] if lock is None else []
    return {
        "title": "Exploratory: nothing here is registered",
        "text": f"{why} {judged}",
        "commands": [*steps, f"lmexp run -m experiment={name}"],
        "after": after if lock is None else "Runs of that command, without overrides, follow the lock and are judged.",
    }


def _how(analysis: Analysis) -> str:
    settings = analysis.accounting.settings
    return settings if settings != REGISTERED else "none of them"


def _amendments(analysis: Analysis) -> list[tuple[str, str]]:
    """Return every amendment of the lock with its time, its reason, and whether runs could be seen by then."""
    entries = analysis.lock.entries[1:] if analysis.lock else ()
    return [
        (
            "Amendment after data" if entry.runs_existed else "Amendment before data",
            f"{time_text(entry.at)}, when {counted(entry.runs_existed, 'run')} existed: {entry.reason}",
        )
        for entry in entries
    ]
