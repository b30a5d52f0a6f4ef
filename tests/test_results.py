"""Laws of the store: whole files or none, nulls stay null, damage is set aside, states are true."""

import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmexp import results
from lmexp.errors import UserError
from lmexp.files import write_atomic, write_text

RUN_COLUMNS = """
experiment arm seed run_id status error plan_sha256 registered config_sha256 git_commit git_dirty started_at host device
chip mlx_version blas n_params n_params_non_embedding budget_seconds train_seconds compile_seconds
time_to_first_step_seconds eval_seconds steps tokens tokens_per_second steps_per_second peak_memory_bytes
train_loss_nats val_loss_nats val_bpb val_bpb_best step_at_best test_bpb probe_before probe_after
"""
STEP_COLUMNS = """
run_id step tokens seconds progress lr train_loss_nats grad_norm val_bpb tokens_per_second peak_memory_bytes
"""


def test_columns_that_were_not_measured_are_null_and_not_zero(tmp_path):
    folder = results.make_writable(tmp_path / "a-seed0-12345678")
    results.write_run(folder, {"arm": "a", "seed": 0, "status": "failed"})
    row = results.read_row(folder)
    assert row["val_bpb"] is None
    assert row["steps"] is None
    assert list(row) == results.RUN_SCHEMA.names
    assert results.read_runs(tmp_path).loc[0, ["val_bpb", "steps"]].isna().all()


def test_the_schemas_have_the_binding_columns_with_units():
    run, steps = RUN_COLUMNS.split(), STEP_COLUMNS.split()
    assert set(run) <= set(results.RUN_SCHEMA.names)
    assert results.STEP_SCHEMA.names == [*steps, "expert_load_max_over_mean"]
    assert all(field.metadata[b"unit"] for schema in (results.RUN_SCHEMA, results.STEP_SCHEMA) for field in schema)


def test_an_unknown_column_is_refused(tmp_path):
    with pytest.raises(KeyError, match="val_bits"):
        results.write_run(tmp_path, {"val_bits": 1.0})
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_row_is_set_aside_and_reported(tmp_path):
    good, bad = (results.make_writable(tmp_path / name) for name in ("good", "bad"))
    for folder in (good, bad):
        results.write_run(folder, {"run_id": folder.name, "seed": 1})
        results.write_steps(folder, [{"step": 1}])
        results.finish(folder, results.DONE)
    content = (bad / results.RUN_FILE).read_bytes()
    (bad / results.RUN_FILE).write_bytes(content[: len(content) // 2])
    assert list(results.read_runs(tmp_path)["run_id"]) == ["good"]
    assert results.damaged_files(tmp_path) == [bad / "run.parquet.damaged"]
    assert results.state(bad) == "missing"
    assert results.state(good) == "done"


def test_damaged_log_points_make_the_cell_run_again(tmp_path):
    folder = results.make_writable(tmp_path / "run")
    results.write_run(folder, {"seed": 1})
    results.write_steps(folder, [{"step": 1}])
    results.finish(folder, results.DONE)
    assert list(results.read_steps(folder)["step"]) == [1]
    (folder / results.STEPS_FILE).write_bytes(b"no parquet")
    with pytest.raises(UserError, match="run the same sweep again"):
        results.read_steps(folder)
    assert results.damaged_files(tmp_path) == [folder / "steps.parquet.damaged"]
    assert results.state(folder) == "missing"


def test_rows_of_an_older_version_keep_what_they_have_and_are_null_elsewhere(tmp_path):
    """Columns in another order, of another type, too few or too many: what has a name of the schema is read."""
    folder = results.make_writable(tmp_path / "old")
    old = pa.table({"val_bpb": pa.array([2.5], pa.float32()), "gone": ["x"], "seed": [3], "run_id": ["old"]})
    pq.write_table(old, folder / results.RUN_FILE)
    row = results.read_row(folder)
    assert list(row) == results.RUN_SCHEMA.names
    assert (row["val_bpb"], row["seed"], row["run_id"], row["steps"]) == (2.5, 3, "old", None)
    assert results.read_runs(tmp_path).loc[0, "val_bpb"] == 2.5


def test_many_runs_come_in_order_with_their_own_rows(tmp_path, monkeypatch):
    """Read by several threads, in parts that do not divide them evenly; what is damaged leaves no row behind."""
    monkeypatch.setattr(results, "_PART", 3)
    for number in range(11):
        folder = results.make_writable(tmp_path / f"run{number:02d}")
        results.write_run(folder, {"seed": number, "run_id": folder.name, "registered": number % 2 == 0})
    (tmp_path / "run04" / results.RUN_FILE).write_bytes(b"no parquet")
    rows, expected = results.read_runs(tmp_path), [number for number in range(11) if number != 4]
    assert list(rows["seed"]) == expected
    assert list(rows["registered"]) == [number % 2 == 0 for number in expected]
    assert list(rows["folder"]) == [str(tmp_path / f"run{number:02d}") for number in expected]
    assert list(rows["run_id"]) == [f"run{number:02d}" for number in expected]


def test_every_attempt_is_a_row(tmp_path):
    folder = results.make_writable(tmp_path / "run")
    for status in ("failed", "diverged", "ok"):
        results.set_attempt_aside(folder)
        results.write_run(folder, {"seed": 1, "status": status})
    rows = results.read_runs(tmp_path)
    assert list(zip(rows["status"], rows["superseded"], strict=True)) == [
        ("ok", False),
        ("failed", True),
        ("diverged", True),
    ]


def test_states_follow_the_markers(tmp_path):
    folder = tmp_path / "run"
    assert results.state(folder) == "missing"
    results.make_writable(folder)
    assert results.state(folder) == "missing"
    results.write_run(folder, {"seed": 0})
    assert results.state(folder) == "missing"  # killed between its row and its marker
    results.finish(folder, results.FAILED)
    assert results.state(folder) == "failed"
    results.set_attempt_aside(folder)
    assert results.state(folder) == "missing"
    assert pq.read_table(folder / "attempts" / "1" / results.RUN_FILE).num_rows == 1


def test_attempts_are_kept_one_by_one(tmp_path):
    for number in (1, 2, 3):
        results.set_attempt_aside(tmp_path)
        (tmp_path / "note").write_text(str(number))
    results.set_attempt_aside(tmp_path)
    kept = {path.parent.name: path.read_text() for path in tmp_path.glob("attempts/*/note")}
    assert kept == {"1": "1", "2": "2", "3": "3"}


def test_a_claim_excludes_others_and_ends_with_a_killed_process(tmp_path):
    code = (
        "import sys, time, pathlib; from lmexp import results\n"
        "with results.claim(pathlib.Path(sys.argv[1])) as ours: print(ours, flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline().strip() == "True"
        assert results.state(tmp_path) == "running"
        with results.claim(tmp_path) as ours:
            assert not ours
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert results.state(tmp_path) == "missing"
    with results.claim(tmp_path) as ours:
        assert ours


def test_a_writer_killed_at_any_moment_leaves_a_whole_file_or_none(tmp_path):
    code = (
        "import sys, pathlib; from lmexp import files\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1; files.write_text(pathlib.Path(sys.argv[1]) / 'file', str(n % 10) * 200_000)\n"
        "    print(n, flush=True)"
    )
    for patience in (0.0, 0.013, 0.031):
        writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        writer.stdout.readline()
        time.sleep(patience)
        writer.kill()
        writer.wait()
        content = (tmp_path / "file").read_text()
        assert len(content) == 200_000
        assert len(set(content)) == 1


def test_an_unwritable_results_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"paths\.results"):
        results.make_writable(tmp_path / "file" / "results")


class TestFileFaults:
    """A registered run is believed when its files are what its marker sealed, in its own folder."""

    def fault(self, tmp_path, spoil, registered=True):
        folder = tmp_path / "a-seed0-0123abcd"
        folder.mkdir()
        row = {"arm": "a", "seed": 0, "run_id": folder.name, "status": "ok", "registered": registered, "val_bpb": 2.0}
        results.write_run(folder, row)
        results.write_steps(folder, [{"run_id": folder.name, "step": 1}])
        (folder / results.CONFIG_FILE).write_text("seed: 0\n")
        results.finish(folder, results.DONE)
        spoil(folder, row)
        return results.with_file_faults(results.read_runs(tmp_path))["file_fault"].iloc[0]

    def test_nothing_is_wrong_with_a_run_as_it_ended(self, tmp_path):
        assert self.fault(tmp_path, lambda folder, row: None) is None

    def test_an_edited_row(self, tmp_path):
        found = self.fault(tmp_path, lambda folder, row: results.write_run(folder, {**row, "val_bpb": 1.9}))
        assert found == "run.parquet was edited after the run"

    def test_lost_log_points(self, tmp_path):
        assert "steps.parquet" in self.fault(tmp_path, lambda folder, row: (folder / results.STEPS_FILE).unlink())

    def test_another_runs_folder(self, tmp_path):
        moved = self.fault(tmp_path, lambda folder, row: folder.rename(tmp_path / "a-seed1-0123abcd"))
        assert moved == "it lies in the folder of a-seed1-0123abcd"

    def test_exploratory_runs_promise_nothing(self, tmp_path):
        spoil = lambda folder, row: results.write_run(folder, {**row, "val_bpb": 1.9})  # noqa: E731
        assert self.fault(tmp_path, spoil, registered=False) is None
