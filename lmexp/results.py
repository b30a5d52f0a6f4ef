"""The rows: their schema, an atomic store, and reading many runs as one table.

A run's folder holds ``config.yaml``, ``run.parquet`` (one row), ``steps.parquet`` (one row per log point),
``checkpoint/``, ``stderr.txt`` when it failed, and a ``DONE`` or ``FAILED`` marker written last. Every file is written
under a temporary name, fsynced and renamed, so that a reader sees a whole file or none.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from lmexp.errors import UserError
from lmexp.files import write_atomic, write_text

if TYPE_CHECKING:
    import pandas as pd

STATUSES = ("ok", "diverged", "oom", "failed", "interrupted")
DONE, FAILED = "DONE", "FAILED"
RUN_FILE, STEPS_FILE, CONFIG_FILE, ERROR_FILE = "run.parquet", "steps.parquet", "config.yaml", "stderr.txt"
SEALED_FILES = (RUN_FILE, STEPS_FILE, CONFIG_FILE)
_READERS, _PART = 2, 200  # threads that read rows, and how many a thread reads at a time


def _schema(columns: Mapping[str, tuple[pa.DataType, str]]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, metadata={"unit": unit}) for name, (kind, unit) in columns.items()])


_TEXT, _WHOLE, _REAL, _TRUTH = pa.string(), pa.int64(), pa.float64(), pa.bool_()

RUN_SCHEMA = _schema(
    {
        "experiment": (_TEXT, "name of the plan, or adhoc"),
        "arm": (_TEXT, "name"),
        "seed": (_WHOLE, "1"),
        "run_id": (_TEXT, "name of the run's folder"),
        "status": (_TEXT, "one of " + " ".join(STATUSES)),
        "error": (_TEXT, "sentence"),
        "warnings": (_TEXT, "sentence"),
        "overrides": (_TEXT, "command-line overrides that the plan does not list, separated by spaces"),
        "plan_sha256": (_TEXT, "hex"),
        "registered": (_TRUTH, "the plan was locked, and the config is the plan's"),
        "lock_sha256": (_TEXT, "hex, the entry of the plan's lock that the run follows"),
        "config_sha256": (_TEXT, "hex"),
        "git_commit": (_TEXT, "hex"),
        "git_dirty": (_TRUTH, "uncommitted changes in the code"),
        "started_at": (_TEXT, "ISO 8601, UTC"),
        "host": (_TEXT, "name"),
        "device": (_TEXT, "cpu or gpu"),
        "chip": (_TEXT, "name"),
        "mlx_version": (_TEXT, "version"),
        "blas": (_TEXT, "library behind matrix products on the CPU"),
        "n_params": (_WHOLE, "parameters"),
        "n_params_non_embedding": (_WHOLE, "parameters"),
        "budget_seconds": (_REAL, "s"),
        "train_seconds": (_REAL, "s, charged to the budget"),
        "compile_seconds": (_REAL, "s, build, compile and warm-up of the step and of the judge"),
        "time_to_first_step_seconds": (
            _REAL,
            "s, from the start of the process, probe and waiting included",
        ),
        "eval_seconds": (_REAL, "s, all evaluations of the validation text, without writing checkpoints"),
        "steps": (_WHOLE, "optimizer steps"),
        "tokens": (_WHOLE, "tokens trained on"),
        "tokens_per_second": (_REAL, "tokens/s of counted training time"),
        "steps_per_second": (_REAL, "1/s of counted training time"),
        "peak_memory_bytes": (_WHOLE, "bytes held by MLX's allocator at the peak of training"),
        "train_loss_nats": (_REAL, "nats/token, mean since the previous log point"),
        "val_loss_nats": (_REAL, "nats/token, final weights"),
        "val_bpb": (_REAL, "bits/byte, final weights"),
        "val_bpb_best": (_REAL, "bits/byte, best of the evaluations"),
        "step_at_best": (_WHOLE, "optimizer steps"),
        "test_bpb": (_REAL, "bits/byte, at the best checkpoint"),
        "decode_tokens_per_second": (_REAL, "tokens/s, of one sequence generated token by token"),
        "cache_bytes_per_token_per_layer": (_REAL, "bytes, of the arrays that the caches hold"),
        "decode_peak_memory_bytes": (_WHOLE, "bytes held by MLX's allocator at the peak of the generation"),
        "longest_length_tokens": (_WHOLE, "tokens of the longest sequence within the memory limit"),
        "probe_before": (_REAL, "probe units/s before the run"),
        "probe_after": (_REAL, "probe units/s after the run"),
    }
)

# The columns that hold numbers.
MEASURED_COLUMNS = tuple(field.name for field in RUN_SCHEMA if field.type in (_REAL, _WHOLE) and field.name != "seed")
# Made from others when rows are read: the whole work of a run, its evaluations among it, for each step.
SECONDS_PER_STEP_ALL_IN = "seconds_per_step_with_evaluation"
# What a plan may name as a metric.
METRICS = (*MEASURED_COLUMNS, SECONDS_PER_STEP_ALL_IN)


def is_speed_or_duration(metric: str) -> bool:
    """Tell whether arms are compared by ratios of this metric: what varies as it grows, such as speeds and times."""
    return metric.endswith(("_per_second", "_seconds")) or metric == SECONDS_PER_STEP_ALL_IN


STEP_SCHEMA = _schema(
    {
        "run_id": (_TEXT, "name of the run's folder"),
        "step": (_WHOLE, "optimizer steps done"),
        "tokens": (_WHOLE, "tokens trained on"),
        "seconds": (_REAL, "s, charged to the budget"),
        "progress": (_REAL, "fraction of the budget used"),
        "lr": (_REAL, "learning rate of the last step"),
        "train_loss_nats": (_REAL, "nats/token, mean since the previous log point"),
        "grad_norm": (_REAL, "global norm of the last step's gradient, before clipping"),
        "val_bpb": (_REAL, "bits/byte"),
        "tokens_per_second": (_REAL, "tokens/s since the previous log point"),
        "peak_memory_bytes": (_WHOLE, "bytes"),
        "expert_load_max_over_mean": (
            _REAL,
            "busiest expert's tokens over the mean, in the worst layer; mean since the previous log point",
        ),
    }
)


def write_run(folder: Path, row: Mapping[str, Any]) -> None:
    """Write ``run.parquet``: one row. Columns that ``row`` lacks are null, never zero.

    Raises:
        KeyError: ``row`` has a column that the schema lacks.
    """
    _write_rows(folder / RUN_FILE, [row], RUN_SCHEMA)


def write_steps(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``steps.parquet``: one row per log point, in order."""
    _write_rows(folder / STEPS_FILE, rows, STEP_SCHEMA)


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    for column in {key for row in rows for key in row} - set(schema.names):
        raise KeyError(f"{path.name} has no column {column}")
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    # So few rows need no dictionaries and no statistics, and are read in three quarters of the time without them.
    plain = {"use_dictionary": False, "write_statistics": False}
    write_atomic(path, lambda temporary: pq.write_table(table, temporary, **plain))


def finish(folder: Path, marker: str) -> None:
    """Write the ``DONE`` or ``FAILED`` marker, the last file of a run: the hashes of its rows and its config.

    The marker is what ``sha256sum`` writes, so that ``sha256sum --check DONE`` tells whether a file was edited.
    """
    write_text(folder / marker, seal(folder))


def seal(folder: Path) -> str:
    """Return what a run's marker should say of its files as they are now: hashes, as ``sha256sum`` writes them."""
    sealed = [path for name in SEALED_FILES if (path := folder / name).exists()]
    return "".join(f"{file_sha256(path)}  {path.name}\n" for path in sealed)


def file_sha256(path: Path) -> str:
    """Return the hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def edited_files(folder: Path) -> list[str]:
    """Return the files of a run that are not what its marker says: edited since, gone, or never sealed."""
    markers = [folder / name for name in (DONE, FAILED) if (folder / name).exists()]
    lines = markers[0].read_text(encoding="utf-8", errors="replace").splitlines() if markers else []
    sealed = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    present = {name for name in SEALED_FILES if (folder / name).exists()}
    return sorted(
        name for name in present | set(sealed) if name not in present or sealed.get(name) != file_sha256(folder / name)
    )


def make_writable(folder: Path) -> Path:
    """Create a folder for results.

    Raises:
        UserError: the folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"Cannot write to the results folder {folder} ({error.strerror}); "
            "choose another with paths.results=FOLDER, or mend its permissions."
        ) from error
    return folder


@contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Claim a run's folder for this process; yields False when another living process has it.

    The claim is a lock of the operating system: it ends with the process, however the process ends.
    """
    lock = FileLock(folder / ".lock")
    try:
        # A little patience: `lmexp status` holds the lock for an instant when it looks.
        lock.acquire(timeout=1.0, poll_interval=0.05)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def state(folder: Path) -> str:
    """Return what is true of a run's folder now: ``done``, ``failed``, ``running`` or ``missing``.

    A run that was killed before it could write a marker is ``missing``: it has to run again.
    """
    if (folder / ".lock").exists():
        lock = FileLock(folder / ".lock")
        try:
            with lock.acquire(timeout=0):
                pass
        except Timeout:
            return "running"
    if is_done(folder):
        return "done"
    return "failed" if (folder / RUN_FILE).exists() and (folder / FAILED).exists() else "missing"


def is_done(folder: Path) -> bool:
    """Tell whether a run ended well and all its rows are there. Also true for the process that claimed the folder."""
    return all((folder / name).exists() for name in (DONE, RUN_FILE, STEPS_FILE))


def set_attempt_aside(folder: Path) -> None:
    """Move what an earlier attempt left in a run's folder to ``attempts/N``, so that no evidence is overwritten."""
    left = [path for path in folder.iterdir() if path.name not in ("attempts", ".lock")]
    if not left:
        return
    attempts = folder / "attempts"
    attempts.mkdir(exist_ok=True)
    aside = attempts / str(1 + max((int(path.name) for path in _attempts(folder)), default=0))
    aside.mkdir()
    for path in left:
        path.rename(aside / path.name)


def run_folders(root: Path) -> list[Path]:
    """Return the folders under ``root`` that hold a run's row, in order of name."""
    return sorted(path.parent for path in root.glob(f"*/{RUN_FILE}"))


def launched_folders(root: Path) -> list[Path]:
    """Return the folder of every run that was launched under ``root``, rows or none; each one's attempts come first."""
    folders = [path for path in sorted(root.glob("*")) if path.is_dir()]
    everything = [place for folder in folders for place in (*_attempts(folder), folder)]
    return [place for place in everything if any((place / name).exists() for name in (*SEALED_FILES, DONE, FAILED))]


def read_row(folder: Path, look_only: bool = False) -> dict[str, Any] | None:
    """Read one run's row; None when its file is missing or damaged.

    A damaged file is renamed to ``run.parquet.damaged``: kept, out of the way, and the cell runs again. ``look_only``
    leaves it where it is.

    Raises:
        UserError: the file cannot be read for another reason, such as its permissions.
    """
    table = _read_row_table(folder, look_only)
    return None if table is None else table.to_pylist()[0]


def _read_row_table(folder: Path, look_only: bool = False) -> pa.Table | None:
    """Read one run's row as a table; see :func:`read_row`."""
    table = _read(folder / RUN_FILE, RUN_SCHEMA, look_only)
    if table is not None and table.num_rows != 1:
        if not look_only:
            _set_aside(folder / RUN_FILE)
        return None
    return table


def measured(row: Mapping[str, Any], metric: str) -> float | None:
    """Return one of ``METRICS`` of a row, also one that is made from its columns; None when it was not measured."""
    if metric != SECONDS_PER_STEP_ALL_IN:
        return row.get(metric)
    train, evaluation, steps = (row[column] for column in ("train_seconds", "eval_seconds", "steps"))
    return None if train is None or evaluation is None or not steps else float((train + evaluation) / steps)


def read_points(folder: Path) -> list[dict[str, Any]] | None:
    """Read one run's log points without pandas, and leave the file where it is; None when missing or damaged.

    Raises:
        UserError: the file cannot be read for another reason, such as its permissions.
    """
    table = _read(folder / STEPS_FILE, STEP_SCHEMA, look_only=True)
    return None if table is None else table.to_pylist()


def _read(path: Path, schema: pa.Schema, look_only: bool = False) -> pa.Table | None:
    """Read a table; set it aside and return None when it is damaged."""
    if not path.exists():
        return None
    try:
        return _table(path, schema)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # the system's word, not the parser's: the file itself may be whole
            raise UserError(f"Cannot read {path} ({error}); mend its permissions, or move it away.") from error
        if not look_only:
            _set_aside(path)
        return None


def _table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a table in the columns of a schema; those that an older version did not write are null.

    ``pq.read_table`` would build a data set around the file, which takes longer than reading it.
    """
    with pq.ParquetFile(path) as file:
        table = file.read(use_threads=False)
    if table.schema.equals(schema):
        return table
    known = set(table.column_names)
    columns = [
        table[field.name].cast(field.type) if field.name in known else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _set_aside(path: Path) -> None:
    path.replace(path.with_name(f"{path.name}.damaged"))


def damaged_files(root: Path) -> list[Path]:
    """Return the files that were found damaged and set aside; their cells run again."""
    return sorted(root.rglob("*.parquet.damaged"))


def read_runs(root: Path) -> "pd.DataFrame":
    """Read the rows of every run under ``root`` as one table; see :func:`runs_table`.

    Damaged files are set aside (:func:`damaged_files` names them), never silently dropped.
    """
    return runs_table(path for path in sorted(root.glob("*")) if path.is_dir())


def runs_table(folders: Iterable[Path]) -> "pd.DataFrame":
    """Read the rows of the given run folders as one table: every launched run, earlier attempts among them.

    Returns:
        The columns of ``run.parquet``; ``folder``; ``superseded``, true for an attempt whose cell ran again; and
        ``seconds_per_step_with_evaluation``, in seconds.
    """
    from concurrent.futures import ThreadPoolExecutor

    import pandas as pd

    places = [(place, place != folder) for folder in folders for place in (folder, *_attempts(folder))]
    parts = [places[start : start + _PART] for start in range(0, len(places), _PART)]
    with ThreadPoolExecutor(_READERS) as pool:
        read = list(pool.map(_read_part, parts))
    columns = pa.concat_tables([RUN_SCHEMA.empty_table(), *(table for table, _ in read)]).to_pydict()
    found = [where for _, present in read for where in present]
    columns["folder"], columns["superseded"] = [str(place) for place, _ in found], [old for _, old in found]
    frame = pd.DataFrame(columns, dtype=object).infer_objects()
    frame = frame.astype({"seed": "int64", "superseded": bool, **dict.fromkeys(MEASURED_COLUMNS, "float64")})
    frame[SECONDS_PER_STEP_ALL_IN] = (frame["train_seconds"] + frame["eval_seconds"]) / frame["steps"]
    return frame


def _read_part(places: Sequence[tuple[Path, bool]]) -> tuple[pa.Table, list[tuple[Path, bool]]]:
    """Read the rows of some places as one table; return it with the places that have a row, in the same order."""
    found = [(table, where) for where in places if (table := _read_row_table(where[0])) is not None]
    # Thousands of tables of one row each would fill the memory with what surrounds the rows.
    table = pa.concat_tables([RUN_SCHEMA.empty_table(), *(table for table, _ in found)]).combine_chunks()
    return table, [where for _, where in found]


def with_file_faults(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return the runs with a column ``file_fault``: what the files of a registered run betray, null when nothing.

    A row whose files are not what its marker sealed, or that lies in another run's folder, cannot be believed.
    """
    faults = [
        _file_fault(Path(folder), run_id) if registered is True else None
        for folder, run_id, registered in zip(frame["folder"], frame["run_id"], frame["registered"], strict=True)
    ]
    frame = frame.copy()
    frame["file_fault"] = faults
    return frame


def _file_fault(folder: Path, run_id: str) -> str | None:
    home = folder.parent.parent if folder.parent.name == "attempts" else folder
    if home.name != run_id:
        return f"it lies in the folder of {home.name}"
    edited = edited_files(folder)
    return f"{', '.join(edited)} was edited after the run" if edited else None


def _attempts(folder: Path) -> list[Path]:
    numbered = [path for path in (folder / "attempts").glob("*") if path.name.isdecimal()]
    return sorted(numbered, key=lambda path: int(path.name))


def read_steps(folder: Path) -> "pd.DataFrame":
    """Read one run's log points.

    Raises:
        UserError: the file is missing, or damaged (it is set aside then, and the cell runs again).
    """
    table = _read(folder / STEPS_FILE, STEP_SCHEMA)
    if table is None:
        raise UserError(f"The log points of {folder} are missing or damaged; run the same sweep again to mend that.")
    return table.to_pandas(use_threads=False)  # a pool of threads takes longer to wake than the points to convert
