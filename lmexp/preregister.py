"""``lmexp plan lock``, ``amend`` and ``show``: what must hold before a plan can be locked, and writing it down.

A plan is locked only when nothing is left to decide: which runs there will be and with which configs, what is measured,
which tests decide, and that these tests can decide anything at all.
"""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lmexp import __version__
from lmexp.anchors import code_commit, commits
from lmexp.compose import NAMING_KEYS, faulty_overrides, frozen_cells
from lmexp.config import SECTIONS, RunConfig
from lmexp.criteria import parse
from lmexp.design import Reach, reaches
from lmexp.errors import UserError, unknown
from lmexp.evidence import read_launched
from lmexp.files import write_text
from lmexp.lock import (
    AMENDED,
    LOCK_FILE,
    LOCKED,
    Entry,
    Lock,
    append,
    cell_key,
    changes,
    moment,
    now,
    read_lock,
    sealed,
)
from lmexp.plan import NO_TEST, Plan, cells, check_measured, confirmation_cells, parse_plan, read_plan
from lmexp.results import is_speed_or_duration, launched_folders
from lmexp.statistics import power
from lmexp.verify import chain_lines, plan_results

_FEWEST_SEEDS = 2  # that leave an error to judge by
_WANTED_FRESH_SEEDS = 5
_SURE = 0.8  # the power at which effects are called detectable


def problems(plan: Plan) -> list[str]:
    """Return every reason why a plan cannot be locked, one sentence each; none when it can."""
    return _problems(plan, *frozen_cells(plan))


def _problems(plan: Plan, configs: dict[str, RunConfig], errors: dict[str, UserError]) -> list[str]:
    return [
        *_design_problems(plan),
        *_metric_problems(plan),
        *_test_problems(plan),
        *_name_problems(plan),
        *_confirmation_problems(plan),
        *_composing_problems(plan, errors),
        *_twin_problems(plan, configs),
        *_free_problems(plan, configs),
        *_naming_problems(plan),
    ]


def _design_problems(plan: Plan) -> Iterator[str]:
    tests = (plan.analysis.omnibus, plan.analysis.contrasts)
    if not plan.hypotheses and set(tests) == {NO_TEST}:
        yield "It has neither a hypothesis nor a test, so there is nothing that a lock would hold it to; write one."
    if len(plan.judged_arms) < 2:
        yield f"It judges {len(plan.judged_arms)} arm: nothing can be compared; give design.arms at least two."
    if plan.control is None and len(plan.judged_arms) > 1:
        yield "It has no design.control: name the arm that the others are compared with."
    if len(plan.judged_seeds) < _FEWEST_SEEDS:
        yield f"It judges {len(plan.judged_seeds)} seed, which leaves no error to judge by; give it two or more."
    for hypothesis in plan.hypotheses:
        if parse(hypothesis.supported_if) == parse(hypothesis.falsified_if):
            yield f"{hypothesis.id} is supported and falsified by the same result; change one of its criteria."


def _metric_problems(plan: Plan) -> Iterator[str]:
    for name in dict.fromkeys(plan.metrics):
        try:
            check_measured(replace(plan, primary=replace(plan.primary, name=name), secondary=()))
        except UserError as error:
            yield f"No run of this version of lmexp measures {name}. {_without_choices(error)}"
    sesoi, unit = plan.primary.sesoi, plan.primary.unit
    if sesoi is None:
        yield (
            f"metrics.primary has no sesoi: say which difference in {unit} is the smallest of interest, "
            "or nobody can tell arms that are equal from too few seeds."
        )
    elif not 0 < sesoi < math.inf:
        yield f"metrics.primary.sesoi is {sesoi:g}, but it must be above 0, in {unit}."


def _without_choices(error: UserError) -> str:
    """Leave out the long list of all that would have been right."""
    return str(error).partition(" The choices are ")[0].removesuffix(":")


def _test_problems(plan: Plan) -> Iterator[str]:
    """Name the tests that can never reject: no data that the design can give have a p as small as their alpha."""
    if len(plan.judged_arms) < 2 or len(plan.judged_seeds) < _FEWEST_SEEDS:
        return  # said already
    size = f"{len(plan.judged_arms)} arms and {len(plan.judged_seeds)} seeds"
    try:
        powerless = [reach for reach in reaches(plan) if not reach.can_reject]
    except ValueError as error:
        yield f"A test has nothing to go by: {error}."
        return
    for reach in powerless:
        yield (
            f"The test {reach.name} cannot reach its alpha of {reach.alpha:g}: with {size} its smallest p is "
            f"{reach.smallest_p:.3g}; give it more seeds, or choose a test that can."
        )
    if plan.analysis.omnibus == "two_way_blocked" and (gaps := set(plan.grid().values()) - set(plan.judged_arms)):
        yield f"two_way_blocked needs every crossing of its factors, and {sorted(gaps)[0]} is not judged."


def _name_problems(plan: Plan) -> Iterator[str]:
    """Name the arms whose runs would have no folder, or one folder on disks that ignore case."""
    for arm in plan.arms:
        if arm != arm.strip(" .") or any(mark in arm for mark in '/\\:*?"<>|') or not arm.isprintable():
            yield f"The arm {arm!r} cannot name a folder; use letters, digits, - and _."
    for first, second in combinations(plan.arms, 2):
        if _on_disk(first) == _on_disk(second):
            yield f"The arms {first} and {second} would share their folders where case is ignored; rename one."


def _on_disk(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _confirmation_problems(plan: Plan) -> Iterator[str]:
    if plan.confirmation is None:
        return
    competitions = plan.confirmation.competitions
    for (first, arms), (second, others) in combinations(competitions.items(), 2):
        if both := [arm for arm in arms if arm in others]:
            yield f"The arm {both[0]} competes for {first} and for {second}: were it chosen twice, they would be equal."
    competing = {arm for arms in competitions.values() for arm in arms}
    for arm in plan.exploratory:
        if arm in competing:
            yield f"The arm {arm} is exploratory and competes in the confirmation; let it do one of the two."


def _composing_problems(plan: Plan, errors: dict[str, UserError]) -> Iterator[str]:
    """Say of each arm which of its keys and choices this version of lmexp lacks; the same words once for all arms."""
    arms_of: dict[str, list[str]] = {}
    faulty = faulty_overrides({arm: plan.overrides(arm) for arm in errors})
    for arm, error in errors.items():
        for each in faulty[arm] or [error]:
            said = _without_choices(each) if str(each).startswith("Unknown key") else str(each)
            arms_of.setdefault(said, []).append(arm)
    for said, arms in arms_of.items():
        none = "No arm composes" if len(arms) == len(plan.arms) else f"{_joined(arms)} {_does(arms)} not compose"
        yield f"{none} with this version of lmexp: {said}"


def _does(arms: Sequence[str]) -> str:
    return "does" if len(arms) == 1 else "do"


def _joined(arms: Sequence[str]) -> str:
    return arms[0] if len(arms) == 1 else f"{', '.join(arms[:-1])} and {arms[-1]}"


def _twin_problems(plan: Plan, configs: dict[str, RunConfig]) -> Iterator[str]:
    """Name the arms that are one arm under several names."""
    alike: dict[str, list[str]] = {}
    for cell in cells(plan, seeds=plan.seeds[:1]):
        if config := configs.get(cell_key(cell.arm, cell.seed)):
            alike.setdefault(config.sha256_without(plan.free), []).append(cell.arm)
    for arms in alike.values():
        if len(arms) > 1:
            yield f"{_joined(arms)} compose to the same config: they would be the same runs under several names."


def _free_problems(plan: Plan, configs: dict[str, RunConfig]) -> Iterator[str]:
    """Name what design.free cannot leave free: keys that no config has, and what an arm is made of."""
    known = sorted({key for config in configs.values() for section in SECTIONS for key in _keys(config, section)})
    for key in plan.free:
        if configs and key not in known:
            yield str(unknown("key under design.free", key, known))
        for arm, overrides in plan.arms.items():
            own = [item.partition("=")[0].lstrip("+~") for item in overrides]
            if any(f"{item}.".startswith(f"{key}.") for item in own):
                yield f"design.free leaves {key} to the command line, but {arm} is made by setting it; choose one."


def _naming_problems(plan: Plan) -> Iterator[str]:
    """Name the overrides that say which run it is, not what it does: the cell decides that, and they are dropped."""
    everything = [*plan.base, *(item for overrides in plan.arms.values() for item in overrides)]
    for item in dict.fromkeys(everything):
        if item.partition("=")[0].lstrip("+~") in NAMING_KEYS:
            yield f"The override {item} says which run it is, which each cell does by itself; take it out."


def _keys(config: RunConfig, section: str) -> Iterator[str]:
    pending = [(section, asdict(getattr(config, section)))]
    while pending:
        where, node = pending.pop()
        yield where
        if isinstance(node, dict):
            pending += [(f"{where}.{key}", value) for key, value in node.items()]


def power_lines(plan: Plan) -> list[str]:
    """Say what each test of a plan can find, and how small the error must be for it to find what matters."""
    if len(plan.judged_arms) < 2 or len(plan.judged_seeds) < _FEWEST_SEEDS:
        return ["Nothing: tests need two arms and two seeds."]
    try:
        lines = [_reach_line(plan, reach) for reach in reaches(plan)]
    except ValueError as error:
        return [f"Nothing: {error}."]
    return [*lines, *_equivalence_line(plan)]


def _reach_line(plan: Plan, reach: Reach) -> str:
    smallest = f"smallest p {reach.smallest_p:.3g}" if reach.smallest_p else "no smallest p"
    if reach.detectable is None:
        return f"{reach.name}: what it can find depends on more than the number of seeds; {smallest}"
    error = reach.largest_error(plan.primary.sesoi) if plan.primary.sesoi else None
    wanted = f"; finds the sesoi when sigma_e is below {_amount(plan, error)}" if error is not None else ""
    return f"{reach.name}: {reach.detectable}{wanted}; {smallest}"


def _equivalence_line(plan: Plan) -> list[str]:
    """Say how small the error must be before two arms can be shown to be equal within the sesoi."""
    n_arms, n_seeds, sesoi = len(plan.judged_arms), len(plan.judged_seeds), plan.primary.sesoi
    alpha = plan.analysis.alpha
    if sesoi is None or not 0 < sesoi < math.inf or not alpha < 0.5:
        return []
    margin = power.tost_margin(math.sqrt(2 / n_seeds), (n_arms - 1) * (n_seeds - 1), alpha, _SURE)
    return [f"equivalence: shows equal arms to be so when sigma_e is below {_amount(plan, sesoi / margin)}"]


def _amount(plan: Plan, value: float) -> str:
    if is_speed_or_duration(plan.primary.name):  # compared on logarithms: a difference is a fraction
        return f"{value:.2g} in logarithms, about {value:.1%}"
    return f"{value:.3g} {plan.primary.unit}".strip()


def lock_plan(name: str, overrides: Sequence[str]) -> int:
    """Lock a plan, and print what that means.

    Raises:
        UserError: it cannot be locked (every reason is given), it was changed since it was locked, or the folder cannot
            be written.
    """
    root, plan = plan_results(name, overrides), read_plan(name)
    lock = read_lock(plan)
    if lock is not None:
        _refuse_changed(plan, lock)
        print(f"{name} is locked since {lock.entries[0].at} and unchanged: sha256 {lock.current.sha256}")
        return 0
    promised = _promised(plan, "locked")
    existed = len(launched_folders(root))
    own = _own_copy(plan)
    lock = append(own, _entry(own, LOCKED, None, existed, None, promised))
    _tell(own, lock, "Locked", existed, is_copy=own.path != plan.path)
    return 0


def _refuse_changed(plan: Plan, lock: Lock) -> None:
    """Refuse to lock again what was changed since it was locked."""
    _refuse_faults(lock)
    if found := _changes(plan, lock, _hashes(plan, frozen_cells(plan)[0])):
        raise UserError(
            f"{plan.name} was locked at {lock.entries[0].at} and changed since ({'; '.join(found)}). Undo that, or "
            f"say why: lmexp plan amend {plan.name} --reason TEXT."
        )


def _refuse_faults(lock: Lock) -> None:
    if faults := lock.faults():
        raise UserError(f"{lock.path} was tampered with: {'; '.join(faults)}. Restore it from your version control.")


def _changes(plan: Plan, lock: Lock, promised: dict[str, str]) -> list[str]:
    """Return what an amendment would record: changed fields of the plan, and cells that compose differently."""
    before = lock.current.cells
    moved = [key for key in dict.fromkeys((*before, *promised)) if before.get(key) != promised.get(key)]
    composed = [f"{len(moved)} of {len(promised)} cells have another config"] if moved else []
    return changes(lock.current.plan, plan.content) + composed


def _promised(plan: Plan, verb: str) -> dict[str, str]:
    """Return the hash of every cell's frozen config.

    Raises:
        UserError: the plan cannot be locked; the message gives every reason on a line of its own.
    """
    configs, errors = frozen_cells(plan)
    if found := _problems(plan, configs, errors):
        reasons = "\n".join(f"  - {problem}" for problem in found)
        raise UserError(f"{plan.path} cannot be {verb}:\n{reasons}")
    return _hashes(plan, configs)


def _hashes(plan: Plan, configs: dict[str, RunConfig]) -> dict[str, str]:
    return {key: config.sha256_without(plan.free) for key, config in configs.items()}


def _own_copy(plan: Plan) -> Plan:
    """Return the plan as it stands under the working directory: an installed one is copied there, lock and all.

    Raises:
        UserError: the copy cannot be written.
    """
    home = Path("experiments").resolve()
    if plan.path.resolve().is_relative_to(home):
        return plan
    folder = home / plan.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in (plan.path, plan.path.with_name(LOCK_FILE)):
            if path.exists():
                write_text(folder / path.name, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot write to {folder} ({error.strerror}); go to a folder of your own.") from error
    return parse_plan(folder / plan.path.name)


def _entry(
    plan: Plan, kind: str, reason: str | None, existed: int, before: Entry | None, promised: dict[str, str]
) -> Entry:
    return sealed(
        kind=kind,
        at=now(),
        reason=reason,
        runs_existed=existed,
        plan=plan.content,
        cells=promised,
        lmexp_version=__version__,
        git_commit=code_commit(),
        previous=before.sha256 if before else None,
    )


def amend_plan(name: str, reason: str, overrides: Sequence[str]) -> int:
    """Add an amendment to a plan's lock, and print what that means.

    Raises:
        UserError: no reason, no lock, nothing changed, or the plan cannot be locked as it is now.
    """
    root, plan = plan_results(name, overrides), read_plan(name)
    lock = read_lock(plan)
    if lock is None:
        raise UserError(f"{name} is not locked, so it can be edited freely; lock it with lmexp plan lock {name}.")
    if not (reason := " ".join(reason.split())):
        raise UserError("An amendment needs a reason that others can read: --reason TEXT.")
    _refuse_faults(lock)
    _refuse_early(lock)
    promised = _promised(plan, "amended")
    found = _changes(plan, lock, promised)
    if not found:
        raise UserError(f"Nothing has changed since {lock.name(lock.current)} of {name}: there is nothing to amend.")
    existed = sum(run.claims and run.row is not None for run in read_launched(root))
    own = _own_copy(plan)
    lock = append(own, _entry(own, AMENDED, reason, existed, lock.current, promised))
    for line in found:
        print(f"Changed: {line}")
    _tell(own, lock, "Amended", existed, is_copy=own.path != plan.path)
    return 0


def _refuse_early(lock: Lock) -> None:
    """Refuse to write an entry that would be older than the one before it."""
    last, today = moment(lock.current.at), moment(now())
    if last and today and today < last:
        raise UserError(f"The clock says {now()}, but the lock has an entry of {lock.current.at}; set the clock.")


def _tell(plan: Plan, lock: Lock, done: str, existed: int, is_copy: bool) -> None:
    """Print what was written down, what the tests can find, and what to type next."""
    where = _relative(lock.path)
    lines = [f"{done} {plan.name}: {lock.name(lock.current)} of {where}, sha256 {lock.current.sha256}"]
    if is_copy:
        lines.append(f"The installed plan was copied to {_relative(plan.path)}, which is the one that counts here.")
    lines += [_size(plan), "What its tests can find (sigma_e is what is left of a run's spread without arm and seed):"]
    lines += [f"  {line}" for line in power_lines(plan)]
    lines += [*_existing(lock, existed), *_advice(plan)]
    lines.append(f"Next: commit {where}, whose git commit is the witness that it came first; then")
    lines += [f"  lmexp run -m experiment={plan.name}", f"  lmexp plan verify {plan.name}"]
    _print(lines)


def _size(plan: Plan) -> str:
    fresh = confirmation_cells(plan)
    later = f", and {len(fresh)} that the confirmation chooses from" if fresh else ""
    return f"{len(plan.arms)} arms x {len(plan.seeds)} seeds: {len(cells(plan))} cells with frozen configs{later}."


def _existing(lock: Lock, existed: int) -> list[str]:
    runs = f"{existed} run{'s' * (existed != 1)}"
    if lock.current.kind == LOCKED:
        stay = "it stays" if existed == 1 else "they stay"
        return [f"{runs} of this plan existed: {stay} exploratory, and the lock says so."] if existed else []
    if existed:
        return [f"{runs} that followed the lock existed: the report will say DEVIATED beside what it reads."]
    return ["No run that followed the lock existed: verdicts stand as if it had been planned so from the start."]


def _advice(plan: Plan) -> list[str]:
    few = plan.confirmation is not None and len(plan.confirmation.seeds) < _WANTED_FRESH_SEEDS
    wanted = f"Fewer than {_WANTED_FRESH_SEEDS} fresh seeds confirm little."
    return [wanted] if few else []


def _relative(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def show_plan(name: str) -> int:
    """Print a plan's file, and as comments below it what its tests can find, its lock, and what it lacks for one.

    Raises:
        UserError: an unknown plan, or one that cannot be read.
    """
    plan = read_plan(name)
    lock = read_lock(plan)
    print(f"# {plan.path}\n# sha256 {plan.sha256}\n\n{plan.path.read_text(encoding='utf-8').rstrip()}\n")
    lines = ["What its tests can find", *power_lines(plan), "", "Its lock"]
    lines += ["none yet"] if lock is None else [*chain_lines(lock, commits(lock)), *lock.faults()]
    if lock is None or lock.current.plan_sha256 != plan.sha256:
        lines += [] if lock is None else [f"changed since: {line}" for line in changes(lock.current.plan, plan.content)]
        verb = "lock" if lock is None else "amend"
        lines += ["", f"Before lmexp plan {verb}", *(problems(plan) or ["nothing is missing"])]
    _print([f"# {line}".rstrip() for line in lines])
    return 0


def _print(lines: Sequence[str]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for line in lines:
        console.print(Text(line))
