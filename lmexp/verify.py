"""``lmexp plan verify``: recompute everything that a lock promises, and say what does not agree.

What is checked, in this order: the chain of entries, the file of the plan, the configs of the cells as this version of
lmexp composes them, every run that claims to be registered, every cell, the confirmation, and witnesses outside.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from lmexp import __version__, results
from lmexp.anchors import Commit, commits, first_commit, witnesses
from lmexp.compose import frozen_cells, results_folder
from lmexp.config import RunConfig
from lmexp.errors import UserError
from lmexp.evidence import Evidence, Launched, copies, edited, follows_now, read_launched, weigh
from lmexp.lock import LOCK_FILE, Entry, Finding, Lock, cell_key, changes, moment, read_lock_beside
from lmexp.plan import Plan, canonical_json, cells, confirmation_cells, find_plans, parse_plan, read_plan
from lmexp.stages import choose

_MOST_NAMED = 6


@dataclass(frozen=True)
class Verification:
    """What was recomputed of a lock; ``history`` is of git, ``evidence_sha256`` one hash over all that counts."""

    lock: Lock
    history: list[Commit] | None
    findings: tuple[Finding, ...]
    accounting: str
    evidence_sha256: str
    n_counted: int

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.is_fault for finding in self.findings)


def verify(name: str, overrides: Sequence[str] = ()) -> Verification:
    """Recompute everything that the lock of a plan promises.

    Args:
        name: a plan that is locked.
        overrides: ``paths.results=DIR`` when the runs are not where they usually are.

    Raises:
        UserError: the plan is unknown or not locked, its lock cannot be read, or another override.
    """
    lock = locked(name)
    runs, history = read_launched(plan_results(name, overrides)), commits(lock)
    findings = [Finding(True, f"{fault}.") for fault in lock.faults()] + [*_plan_findings(lock)]
    try:
        plan, evidence = lock.plan(), weigh(lock, runs)
    except UserError as error:
        findings.append(Finding(True, f"The plan in {lock.name(lock.current)} cannot be read: {error}"))
        return Verification(lock, history, tuple(findings), f"Runs: {len(runs)} launched, none judged.", digest([]), 0)
    findings += [*_config_findings(lock, plan, runs), *_run_findings(lock, plan, evidence)]
    findings += [*_cell_findings(plan, evidence), *_witness_findings(lock, history, evidence)]
    counted = list(evidence.counted.values())
    return Verification(lock, history, tuple(findings), _accounting(evidence), digest(counted), len(counted))


def locked(name: str) -> Lock:
    """Return the lock of a plan, whether or not the plan's file can (still) be read.

    Raises:
        UserError: the plan is unknown, not locked, or its lock is damaged.
    """
    here = Path("experiments").resolve() / name / "plan.yaml"
    path = here if here.with_name(LOCK_FILE).exists() else find_plans().get(name)
    lock = None if path is None else read_lock_beside(path)
    if lock is None:
        raise UserError(f"{read_plan(name).name} is not locked; lock it with lmexp plan lock {name}.")
    return lock


def plan_results(name: str, overrides: Sequence[str]) -> Path:
    """Return the folder of a plan's runs.

    Raises:
        UserError: an override other than ``paths.results=DIR``.
    """
    if other := [item for item in overrides if not item.startswith("paths.results=")]:
        raise UserError(f"'{other[0]}' is of no use here: the lock says what runs; only paths.results=DIR is taken.")
    return results_folder(overrides) / name


def digest(counted: Sequence[Launched]) -> str:
    """Return one hash over the runs that count: whoever was sent it can tell later that none of them has changed.

    It is the SHA-256 of the sorted SHA-256 hashes, one a line, of what each run's marker should hold. As long as every
    run counts, ``sha256sum */DONE | cut -c1-64 | sort | sha256sum`` gives the same.
    """
    hashes = sorted(hashlib.sha256(results.seal(run.folder).encode()).hexdigest() for run in counted)
    return hashlib.sha256("".join(f"{each}\n" for each in hashes).encode()).hexdigest()


def _plan_findings(lock: Lock) -> Iterator[Finding]:
    """Compare the plan's file with what the current entry holds."""
    path = lock.path.with_name("plan.yaml")
    try:
        plan = parse_plan(path)
    except (UserError, OSError) as error:
        yield Finding(True, f"The plan was changed since it was locked, and cannot be read now: {error}")
        return
    if plan.sha256 != lock.current.plan_sha256:
        changed = changes(lock.current.plan, plan.content)
        yield Finding(True, f"{path.name} was edited since it was locked: {_listed(changed, '; ')}.")


def _config_findings(lock: Lock, plan: Plan, runs: Sequence[Launched]) -> Iterator[Finding]:
    """Compose every cell anew, from the locked plan, and compare."""
    configs, errors = frozen_cells(plan)
    for arm, error in errors.items():
        yield Finding(True, f"{arm} does not compose any more: {error}")
    now = {key: config.sha256_without(plan.free) for key, config in configs.items()}
    promised = {key: sha256 for key, sha256 in lock.current.cells.items() if key in now or not errors}
    changed = [key for key in promised if promised[key] != now.get(key)]
    if changed:
        why = next((said for key in changed if (said := _config_changes(key, configs.get(key), plan, lock, runs))), "")
        text = f"{_cells(changed)} of {len(lock.current.cells)} would have another config now than when locked"
        what = f"conf/, the text or lmexp itself ({_versions(lock.current)}) changed"
        yield Finding(True, f"{text}: {what} ({_listed(changed)}){why}.")
    if added := [key for key in now if key not in lock.current.cells]:
        yield Finding(True, f"{lock.name(lock.current)} holds no config of {_cells(added)}: {_listed(added)}.")


def _versions(entry: Entry) -> str:
    return __version__ if entry.lmexp_version == __version__ else f"{entry.lmexp_version} then, {__version__} now"


def _config_changes(key: str, config: RunConfig | None, plan: Plan, lock: Lock, runs: Sequence[Launched]) -> str:
    """Say what changed in a cell's config, if a run has kept the config that was locked."""
    for run in runs:
        if config and run.config and run.cell and cell_key(*run.cell) == key and follows_now(lock, plan, run):
            before, after = _deciding(run.config), _deciding(config)
            return f"; {key}: {_listed(changes(before, after), '; ')}" if changes(before, after) else ""
    return ""


def _deciding(config: RunConfig) -> dict[str, object]:
    """Return what a config's hash covers."""
    naming = ("experiment", "arm", "overrides", "plan_sha256", "lock_sha256")
    content = {key: value for key, value in asdict(config).items() if key not in naming}
    content["data"].pop("path")
    return content


def _run_findings(lock: Lock, plan: Plan, evidence: Evidence) -> Iterator[Finding]:
    for run, faults in evidence.faults.items():
        yield Finding(True, f"{run.name} does not count: {'; '.join(faults)}.")
    for first, second in copies(evidence.runs):
        if first.claims or second.claims:
            text = f"{first.name} and {second.name} agree to the last digit in what no two runs share"
            yield Finding(True, f"{text}: one is a copy of the other.")
    yield from _lost_attempts(evidence.runs)
    yield from _set_aside(lock, plan, evidence)
    yield from _earlier_entries(lock, evidence)
    yield from _exploratory(lock, plan, evidence)
    yield from _unequal(plan, evidence)


def _lost_attempts(runs: Sequence[Launched]) -> Iterator[Finding]:
    """Find gaps in the numbers of the attempts that were set aside."""
    for home in dict.fromkeys(run.home for run in runs):
        numbers = {int(run.folder.name) for run in runs if run.home == home and run.folder.parent.name == "attempts"}
        if lost := sorted(set(range(1, max(numbers, default=0))) - numbers):
            yield Finding(True, f"{home}/attempts has lost {', '.join(map(str, lost))}: attempts are never removed.")


def _set_aside(lock: Lock, plan: Plan, evidence: Evidence) -> Iterator[Finding]:
    """Say of every registered run that is what it says, and does not count, why it does not."""
    counted = set(evidence.counted.values())
    for run in evidence.runs:
        if run.claims and run not in evidence.faults and run not in counted:
            yield Finding(False, f"{run.name} is set aside: {_why_aside(lock, plan, evidence, run)}.")


def _why_aside(lock: Lock, plan: Plan, evidence: Evidence, run: Launched) -> str:
    if run.row is None:
        return "it was started, and killed before it could write a row"
    if run.status != "ok":
        return f"it ended as {run.status} ({run.row['error'] or 'no reason given'})"
    if not follows_now(lock, plan, run):
        entry = lock.entry(run.row["lock_sha256"])
        return f"it follows {lock.name(entry) if entry else 'no entry'}, and the cell was amended since"
    assert run.cell is not None
    if plan.repeats == "refuse":
        return "its cell ran more than once, which the plan refuses"
    return f"its cell ran more than once, and {evidence.repeated[run.cell][0].name}, which started first, counts"


def _earlier_entries(lock: Lock, evidence: Evidence) -> Iterator[Finding]:
    """Say what the amendments mean for the runs that were made before them."""
    for place, entry in enumerate(lock.entries[:-1]):
        kept = sum(run.row is not None and run.row["lock_sha256"] == entry.sha256 for run in evidence.counted.values())
        if kept:
            text = f"{_count(kept, 'run')} made under entry {place} count"
            yield Finding(False, f"{text}: what was amended left their configs alone.")
    for entry in lock.amended_after_data:
        text = f"{lock.name(entry)} was made when {_count(entry.runs_existed, 'registered run')} existed"
        yield Finding(False, f"{text}: verdicts deviate from the plan ({entry.reason}).")
    for place in range(1, len(lock.entries)):
        yield from _denied_runs(lock, place, evidence)


def _denied_runs(lock: Lock, place: int, evidence: Evidence) -> Iterator[Finding]:
    """Check an amendment that says that no run existed against the runs of the entries before it."""
    entry, older = lock.entries[place], {each.sha256 for each in lock.entries[:place]}
    made = moment(entry.at)
    followed = [run for run in evidence.runs if run.row and run.row["lock_sha256"] in older]
    ended = [run.name for run in followed if made and run.ended_at and run.ended_at < made]
    if ended and not entry.runs_existed:
        text = f"entry {place} says that no run existed when it was made, but {_count(len(ended), 'run')} had ended"
        yield Finding(True, f"{text} by then ({_listed(ended)}).")


def _exploratory(lock: Lock, plan: Plan, evidence: Evidence) -> Iterator[Finding]:
    """Count the runs that never claimed to be registered; an edit of one that was sealed is a fault all the same."""
    why: Counter[str] = Counter()
    for run in evidence.runs:
        if run.claims:
            continue
        if _is_sealed(run):
            for name in edited(run):
                yield Finding(True, f"{run.name}: {name} was edited or lost after the run ended.")
        why[_why_exploratory(lock, plan, run)] += 1
    for reason, count in why.items():
        yield Finding(False, f"{_count(count, 'run')} exploratory: {reason}.")
    first = lock.entries[0]
    before = sum(_is_before(first, run) for run in evidence.runs if not run.claims)
    if before > first.runs_existed:
        said = f"{first.runs_existed} existed when it was made, but {before} of those here"
        yield Finding(False, f"entry 0 says that {said} had started by then.")


def _is_sealed(run: Launched) -> bool:
    """Tell whether a run's marker vouches for anything; markers of old were empty."""
    markers = [run.folder / name for name in (results.DONE, results.FAILED)]
    return any(marker.exists() and marker.stat().st_size for marker in markers)


def _is_before(entry: Entry, run: Launched) -> bool:
    made = moment(entry.at)
    return made is not None and run.started_at is not None and run.started_at < made


def _why_exploratory(lock: Lock, plan: Plan, run: Launched) -> str:
    if run.row is None or run.config is None:
        return "without a row or a config that can be read"
    if run.row["overrides"]:
        return f"started with {run.row['overrides']}"
    if _is_before(lock.entries[0], run):
        known = ", with configs that it promises: what they give was known" if follows_now(lock, plan, run) else ""
        return f"from before the plan was locked{known}"
    if not follows_now(lock, plan, run):
        return "of another version of the plan or its configs"
    return "frozen before the plan was locked and started after it, or their registration was taken away"


def _unequal(plan: Plan, evidence: Evidence) -> Iterator[Finding]:
    """Say in what the runs that count differ, though no config promised that they would not."""
    counted = [run for run in evidence.counted.values() if run.row and run.config]
    for key in plan.free:
        values = Counter(canonical_json(_at(_deciding(run.config), key)) for run in counted if run.config)
        if len(values) > 1:
            said = _listed([f"{value} in {_count(n, 'run')}" for value, n in values.items()])
            yield Finding(False, f"{key}, which the plan leaves free, differs among the runs that count: {said}.")
    codes = Counter((run.row["git_commit"], run.row["git_dirty"]) for run in counted if run.row)
    if len(codes) > 1 or any(dirty for _, dirty in codes):
        said = _listed([f"{_code(commit, dirty)} in {_count(n, 'run')}" for (commit, dirty), n in codes.items()])
        yield Finding(False, f"Which code made the runs that count is not one thing: {said}.")


def _code(commit: str | None, dirty: bool | None) -> str:
    return f"git {str(commit)[:12]}{' with uncommitted changes' if dirty else ''}" if commit else "no git commit"


def _at(node: Any, key: str) -> Any:
    """Return the value of a dotted key; None where there is none."""
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _cell_findings(plan: Plan, evidence: Evidence) -> Iterator[Finding]:
    """Find the cells that have no run that counts."""
    sweep = [(cell.arm, cell.seed) for cell in cells(plan)]
    if plan.confirmation is None:
        yield from _missing(plan, evidence, sweep)
        return
    fresh, chosen = {(cell.arm, cell.seed) for cell in confirmation_cells(plan)}, _choices(plan, evidence)
    wanted = [(arm, seed) for arm in dict.fromkeys(chosen.values()) for seed in plan.confirmation.seeds]
    yield from _missing(plan, evidence, [*sweep, *wanted])
    for gap in choose(plan, _rows(evidence)).gaps:
        yield Finding(True, f"The confirmation cannot be complete: {gap}.")
    for cell in sorted(fresh & set(evidence.counted)):
        yield from _confirmation_faults(plan, evidence, cell, chosen)


def _rows(evidence: Evidence) -> list:
    return [run.row for run in evidence.counted.values() if run.row is not None]


def _choices(plan: Plan, evidence: Evidence) -> dict[str, str]:
    return dict(choose(plan, _rows(evidence)).chosen)


def _confirmation_faults(
    plan: Plan, evidence: Evidence, cell: tuple[str, int], chosen: dict[str, str]
) -> Iterator[Finding]:
    """Check that a run at a fresh seed was called for by the sweep, and by a sweep that had ended."""
    assert plan.confirmation is not None
    run, names = evidence.counted[cell], [name for name, arm in chosen.items() if arm == cell[0]]
    if not names:
        yield Finding(True, f"{run.name} confirms {cell[0]}, which the sweep did not choose.")
        return
    rivals = [(arm, seed) for name in names for arm in plan.confirmation.competitions[name] for seed in plan.seeds]
    before = [evidence.counted[rival] for rival in rivals]
    last = max(before, key=lambda rival: rival.ended_at.timestamp() if rival.ended_at else 0.0)
    if run.started_at and last.ended_at and run.started_at.timestamp() + 1 <= last.ended_at.timestamp():
        text = f"{run.name} started at {run.started_at.isoformat()}, before the sweep could choose it"
        yield Finding(True, f"{text}: {last.name} ended at {last.ended_at.isoformat(timespec='seconds')} or later.")


def _missing(plan: Plan, evidence: Evidence, wanted: Sequence[tuple[str, int]]) -> Iterator[Finding]:
    """Say which cells have no run that counts; those of exploratory arms enter no test, so they are no fault."""
    tried = {run.cell for run in evidence.runs if run.claims}
    open_cells = [cell for cell in wanted if cell not in evidence.counted]
    for is_fault in (True, False):
        gaps = [cell for cell in open_cells if (cell[0] not in plan.exploratory) == is_fault]
        never = [cell_key(*cell) for cell in gaps if cell not in tried]
        failed = [cell_key(*cell) for cell in gaps if cell in tried]
        if never:
            yield Finding(is_fault, f"{_cells(never)} missing: no registered run of {_listed(never)}.")
        if failed:
            yield Finding(is_fault, f"{_cells(failed)} missing: no run of {_listed(failed)} counts (see why above).")


def _witness_findings(lock: Lock, history: list[Commit] | None, evidence: Evidence) -> Iterator[Finding]:
    yield from witnesses(lock, history)
    commit = first_commit(history, lock.current)
    starts = [run.started_at for run in evidence.counted.values() if run.started_at]
    if commit and starts and (made := moment(commit.date)) and made > min(starts):
        first = min(starts).isoformat()
        yield Finding(False, f"That commit is later than the first run that counts ({first}): commit before you run.")


def _accounting(evidence: Evidence) -> str:
    exploratory = sum(not run.claims for run in evidence.runs)
    counts, faulty = len(evidence.counted), len(evidence.faults)
    aside = len(evidence.runs) - exploratory - counts - faulty
    parts = f"{counts} count, {aside} set aside, {faulty} not believed, {exploratory} exploratory"
    return f"Runs: {len(evidence.runs)} launched: {parts}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _cells(keys: Sequence[str]) -> str:
    return _count(len(keys), "cell")


def _listed(names: Sequence[str], separator: str = ", ") -> str:
    rest = len(names) - _MOST_NAMED
    return separator.join(names[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def print_verification(name: str, overrides: Sequence[str]) -> int:
    """Print what was found, one line each; return 0 when nothing is wrong, else 1.

    Raises:
        UserError: as :func:`verify`.
    """
    found, console = verify(name, overrides), Console(soft_wrap=True, highlight=False)
    for line in (*chain_lines(found.lock, found.history), found.accounting):
        console.print(Text(line))
    for finding in found.findings:
        label, style = ("FAULT  ", "red") if finding.is_fault else ("", "")
        console.print(Text(label + finding.text, style=style))
    evidence = f"evidence sha256 {found.evidence_sha256} ({_count(found.n_counted, 'run')})" if found.n_counted else ""
    faults = _count(sum(finding.is_fault for finding in found.findings), "fault")
    words, style = ("verified", "bold green") if found.is_clean else (f"not verified, {faults}", "bold red")
    console.print(Text(f"{words}  {evidence or 'no run counts yet'}", style=style))
    return 0 if found.is_clean else 1


def chain_lines(lock: Lock, history: list[Commit] | None) -> list[str]:
    """Return a line for each entry of a lock: when, why, what existed, its hash and the git commit that holds it."""
    return [_entry_line(lock, entry, first_commit(history, entry)) for entry in lock.entries]


def _entry_line(lock: Lock, entry: Entry, commit: Commit | None) -> str:
    reason = f': "{entry.reason}"' if entry.reason else ""
    existed = f"{_count(entry.runs_existed, 'run')} existed"
    held = f"git {commit.short}" if commit else "in no git commit"
    return f"{lock.name(entry)}  {entry.kind} of {entry.at}{reason}  {existed}  sha256 {entry.sha256}  {held}"
