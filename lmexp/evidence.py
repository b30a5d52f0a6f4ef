"""What the runs of a locked plan are worth: which are what they say, which count, and why the others do not.

A run *claims* to be registered when its row or its config names an entry of the lock. The claim is believed only when
all that can be recomputed agrees with it; then the run counts for its cell if it ended, if its config is the one that
the current entry promises, and if the plan's rule for repeats does not prefer another. Nothing here writes a file.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmexp import results
from lmexp.config import RunConfig, load
from lmexp.errors import UserError
from lmexp.lock import Entry, Lock, cell_key, moment
from lmexp.plan import Plan
from lmexp.stages import DIVERGED

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]

OK = "ok"
MOST_WEIGHED = 1000  # runs of a report; ``verify`` weighs any number
_SHORT = 12  # digits of a hash that a person compares
# Measured to the nanosecond: two of them equal in two runs is no accident. At two seeds, equal scores are none either.
_TIMINGS = ("train_seconds", "compile_seconds", "eval_seconds", "time_to_first_step_seconds")
_SCORES = ("val_bpb", "val_loss_nats", "test_bpb")


@dataclass(frozen=True, eq=False)
class Launched:
    """One launched run as its files give it; ``row`` or ``config`` is None when it cannot be read."""

    folder: Path
    root: Path
    row: Row | None
    config: RunConfig | None
    trouble: str | None  # why there is no config

    @property
    def name(self) -> str:
        """The folder below the plan's results; an attempt's ends with ``attempts/N``."""
        return self.folder.relative_to(self.root).as_posix()

    @property
    def home(self) -> str:
        """The name of the folder that was made for the run, which an attempt has left."""
        return self.folder.relative_to(self.root).parts[0]

    @property
    def claims(self) -> bool:
        """Whether it says, in its row or its config, that it follows a lock."""
        row = self.row or {}
        return bool(row.get("registered") or row.get("lock_sha256") or (self.config and self.config.lock_sha256))

    @property
    def cell(self) -> tuple[str, int] | None:
        """The arm and seed that the run says it has."""
        said = self.row or (self.config and vars(self.config)) or {}
        arm, seed = said.get("arm"), said.get("seed")
        return (arm, seed) if isinstance(arm, str) and isinstance(seed, int) else None

    @property
    def status(self) -> str | None:
        """How the run ended; None when it left no row."""
        return None if self.row is None else str(self.row["status"])

    @property
    def started_at(self) -> datetime | None:
        """When the run started, by its own clock."""
        return None if self.row is None else moment(self.row["started_at"])

    @property
    def ended_at(self) -> datetime | None:
        """The earliest moment at which the run can have ended: its start and the seconds that it measured."""
        if self.row is None or self.started_at is None:
            return None
        measured = (self.row.get("train_seconds") or 0.0) + (self.row.get("eval_seconds") or 0.0)
        return self.started_at + timedelta(seconds=measured)


def read_launched(root: Path) -> list[Launched]:
    """Read every run that was launched under a plan's results folder, attempts that were set aside among them."""
    return [_read(folder, root) for folder in results.launched_folders(root)]


def _read(folder: Path, root: Path) -> Launched:
    row = results.read_row(folder, look_only=True)
    try:
        return Launched(folder, root, row, load(folder).config, None)
    except UserError as error:
        return Launched(folder, root, row, None, str(error))


@dataclass(frozen=True)
class Evidence:
    """The runs of a locked plan, sorted.

    ``faults`` says of each run that claims to be registered why it is not believed. ``counted`` gives the run that
    counts for a cell; ``repeated`` every run of a cell that ended well more than once, the first to start first.
    """

    runs: tuple[Launched, ...]
    faults: Mapping[Launched, tuple[str, ...]]
    counted: Mapping[tuple[str, int], Launched]
    repeated: Mapping[tuple[str, int], tuple[Launched, ...]]


def weigh(lock: Lock, runs: Iterable[Launched]) -> Evidence:
    """Decide which runs count.

    Args:
        lock: the plan's lock; its current entry decides.
        runs: all that were launched (:func:`read_launched`).

    Raises:
        UserError: the current entry holds no plan that can be read.
    """
    runs, plan = tuple(runs), lock.plan()
    faults = {run: tuple(found) for run in runs if run.claims and (found := run_faults(lock, plan.name, run))}
    ended: dict[tuple[str, int], list[Launched]] = defaultdict(list)
    for run in runs:
        if run.claims and run not in faults and run.cell and follows_now(lock, plan, run) and _has_ended(plan, run):
            ended[run.cell].append(run)
    for candidates in ended.values():
        candidates.sort(key=_precedence)
    repeated = {cell: tuple(candidates) for cell, candidates in ended.items() if len(candidates) > 1}
    refused = repeated if plan.repeats == "refuse" else {}
    counted = {cell: candidates[0] for cell, candidates in ended.items() if cell not in refused}
    return Evidence(runs, faults, counted, repeated)


def _precedence(run: Launched) -> tuple[float, str]:
    return (run.started_at.timestamp() if run.started_at else float("inf"), run.name)


def _has_ended(plan: Plan, run: Launched) -> bool:
    """Tell whether a run gives its cell a result. To a sweep that chooses, diverging is one."""
    chooses = plan.confirmation is not None and run.cell is not None and run.cell[1] in plan.seeds
    return run.status == OK or (chooses and run.status == DIVERGED)


def counted_rows(lock: Lock, root: Path) -> list[Row]:
    """Return the rows of the registered runs that count, one for each cell that has one."""
    return [run.row for run in weigh(lock, read_launched(root)).counted.values() if run.row is not None]


def with_faults(frame: "pd.DataFrame", lock: Lock | None, root: Path) -> "pd.DataFrame":
    """Return the table of runs with what :func:`weigh` says of each: the report believes what ``verify`` believes.

    Adds ``file_fault``, why a run that claims to be registered is not believed, and ``amended_since``, true for one
    that is believed and whose cell a later entry changed; null and false for every other run. Of more than
    ``MOST_WEIGHED`` runs only seals and folders are looked at: recomputing every config would take minutes.
    """
    if len(frame) > MOST_WEIGHED:
        return results.with_file_faults(frame).assign(amended_since=False)
    frame = frame.assign(file_fault=None, amended_since=False)
    if lock is None or lock.faults():
        return frame
    evidence, plan = weigh(lock, read_launched(root)), lock.plan()
    claiming = [run for run in evidence.runs if run.claims]
    faults = {str(run.folder): "; ".join(found) for run, found in evidence.faults.items()}
    believed = [run for run in claiming if run not in evidence.faults and run.config]
    stale = {str(run.folder) for run in believed if not follows_now(lock, plan, run)}
    frame["file_fault"] = [faults.get(folder) for folder in frame["folder"]]
    frame["amended_since"] = [folder in stale for folder in frame["folder"]]
    return frame


def follows_now(lock: Lock, plan: Plan, run: Launched) -> bool:
    """Tell whether the current entry promises the config that the run has, whichever entry it was made under."""
    if run.config is None or run.cell is None:
        return False
    return lock.current.cells.get(cell_key(*run.cell)) == run.config.sha256_without(plan.free)


def run_faults(lock: Lock, plan_name: str, run: Launched) -> list[str]:
    """Return why a run that claims to be registered cannot be believed; nothing when all agrees."""
    files = [f"{name} was edited or lost after the run ended" for name in edited(run)]
    if run.row is None:  # killed before it could write one
        return files
    if run.config is None:
        return files if _never_began(run) else [*files, str(run.trouble)]
    return [*files, *_identity_faults(run, run.row, run.config, plan_name), *_lock_faults(lock, run, run.config)]


def _never_began(run: Launched) -> bool:
    """Tell whether a run died before it wrote its config; a config that was taken away later, the marker misses."""
    has = {name for name in (results.FAILED, results.CONFIG_FILE) if (run.folder / name).exists()}
    return run.status != OK and has == {results.FAILED}


def edited(run: Launched) -> list[str]:
    """Return the files that the run's marker does not vouch for. A run that was killed left no marker to ask."""
    is_marked = any((run.folder / marker).exists() for marker in (results.DONE, results.FAILED))
    return results.edited_files(run.folder) if is_marked or run.status == OK else []


def _identity_faults(run: Launched, row: Row, config: RunConfig, plan_name: str) -> list[str]:
    """Compare what names the run in its row, its config, its folder and its log points."""
    promised = {key: value for key, value in config.row().items() if key != "started_at"}
    faults = [
        f"its row says {key}={_short(row[key])}, its config {_short(value)}"
        for key, value in promised.items()
        if row[key] != value
    ]
    if config.experiment != plan_name:
        faults.append(f"it is a run of {config.experiment}")
    if row["run_id"] != run.home:
        faults.append(f"it holds the row of {row['run_id']}")
    marker = results.DONE if row["status"] == OK else results.FAILED
    if not (run.folder / marker).exists():
        faults.append(f"its row says {row['status']}, and there is no {marker} beside it")
    if row["status"] != OK and row["probe_after"] is not None:
        faults.append(f"its row says {row['status']}, and has what is measured only after a run has ended well")
    trained = config.decode.n_tokens is None  # else there is nothing to log on the way
    return faults + (_points_faults(run.folder, row) if row["status"] == OK and trained else [])


def _points_faults(folder: Path, row: Row) -> list[str]:
    """Compare a row with the log points that it sums up."""
    points = results.read_points(folder)
    if not points:
        return ["it has no log points"]
    if others := {point["run_id"] for point in points} - {row["run_id"]}:
        return [f"it holds the log points of {min(map(str, others))}"]
    scores = [point["val_bpb"] for point in points if point["val_bpb"] is not None]
    said = {"steps": points[-1]["step"], "tokens": points[-1]["tokens"], "val_bpb": points[-1]["val_bpb"]}
    said |= {"val_bpb_best": min(scores, default=None)}
    return [
        f"its row says {key}={_short(row[key])}, its log points {_short(value)}"
        for key, value in said.items()
        if row[key] != value
    ]


def _lock_faults(lock: Lock, run: Launched, config: RunConfig) -> list[str]:
    """Compare a run with the entry that it says it follows."""
    entry = lock.entry(config.lock_sha256)
    if entry is None:
        return [f"it follows an entry that the lock does not hold ({_short(config.lock_sha256)})"]
    faults = []
    if config.plan_sha256 != entry.plan_sha256:
        faults.append(f"it carries the hash of another plan than {lock.name(entry)}")
    promised = entry.cells.get(cell_key(config.arm, config.seed))
    if promised != config.sha256_without(_free(entry)):
        said = "does not promise" if promised is None else "promises with another config"
        faults.append(f"it is {cell_key(config.arm, config.seed)}, which {lock.name(entry)} {said}")
    if config.overrides:
        faults.append(f"it was started with {' '.join(config.overrides)}, which the plan does not leave free")
    return faults + _time_faults(lock, entry, run)


def _time_faults(lock: Lock, entry: Entry, run: Launched) -> list[str]:
    made, started = moment(entry.at), run.started_at
    if started is None:
        return ["its row gives no time at which it started"]
    if made is not None and started < made:
        return [f"it started at {started.isoformat()}, before {lock.name(entry)} was made at {entry.at}"]
    return []


def _free(entry: Entry) -> list[str]:
    """Return the keys that an entry's plan leaves free, even when this version of lmexp cannot read that plan."""
    design = entry.plan.get("design")
    return list((design.get("free") if isinstance(design, dict) else None) or [])


def _short(value: object) -> object:
    """Shorten a hash; leave everything else as it is."""
    is_hash = isinstance(value, str) and len(value) == 64 and " " not in value
    return str(value)[:_SHORT] if is_hash else value


def copies(runs: Iterable[Launched]) -> list[tuple[Launched, Launched]]:
    """Return the pairs of runs that agree to the last digit in what no two runs share."""
    by_value: dict[tuple[str, float], list[Launched]] = defaultdict(list)
    for run in runs:
        for column in (*_TIMINGS, *_SCORES):
            if run.row is not None and run.row.get(column):
                by_value[column, run.row[column]].append(run)
    shared: Counter[tuple[Launched, Launched]] = Counter()
    for (column, _), alike in by_value.items():
        for first, second in combinations(alike, 2):
            shared[first, second] += column in _TIMINGS or _seeds_differ(first, second)
    return [pair for pair, count in shared.items() if count > 1]


def _seeds_differ(first: Launched, second: Launched) -> bool:
    return first.cell is not None and second.cell is not None and first.cell[1] != second.cell[1]
