"""The lock as a chain, and ``verify`` under attack: whatever is edited, copied, removed or run too early is found.

The store under attack is made of rows that no training wrote: what ``verify`` reads is the same.
"""

import contextlib
import copy
import dataclasses
import itertools
import json
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from lmexp import __version__, anchors, compose, results
from lmexp import lock as lock_room
from lmexp import verify as verify_room
from lmexp.cli import main
from lmexp.compose import cell_overrides, compose_run
from lmexp.config import FrozenRun, load, save
from lmexp.errors import UserError
from lmexp.lock import Lock, changes, read_lock, sealed, state
from lmexp.plan import parse_plan, read_plan
from lmexp.preregister import amend_plan, lock_plan
from lmexp.verify import verify

PLAN = {
    "name": "tried",
    "question": "Does verify find every attack?",
    "design": {
        "base": [],  # filled in by the store
        "arms": {"plain": [], "gated": ["model.ffn=swiglu"], "spare": ["model.norm=rmsnorm", "model.bias=false"]},
        "control": "plain",
        "seeds": [0, 1],
        "free": ["budget.evaluations"],
    },
    "metrics": {"primary": {"name": "val_bpb", "direction": "lower", "unit": "bits/byte", "sesoi": 0.01}},
    "hypotheses": [
        {
            "id": "H1",
            "claim": "gated wins",
            "supported_if": "diff(gated, plain) < 0",
            "falsified_if": "diff(gated, plain) > 0",
        }
    ],
    "analysis": {"alpha": 0.05, "omnibus": "none", "contrasts": "dunnett_blocked", "effect_size": "hedges_g"},
    "exploratory": ["spare"],
}  # fmt: skip
# Two optimizers with two rates each; only what the sweep chooses of them runs again.
TWO_STAGES = {
    "name": "staged",
    "question": "Which optimizer wins at its best rate?",
    "design": {
        "base": [],
        "factors": {
            "optimizer": {"adamw": [], "lion": ["optimizer=lion"]},
            "rate": {"low": ["optimizer.lr=1e-4"], "high": ["optimizer.lr=1e-2"]},
        },
        "control": "adamw",
        "seeds": [0],
        "confirmation": {"arms": {"adamw": ["adamw-*"], "lion": ["lion-*"]}, "seeds": [7, 8]},
    },
    "metrics": {"primary": {"name": "val_bpb", "direction": "lower", "unit": "bits/byte", "sesoi": 0.01}},
    "analysis": {"alpha": 0.05, "omnibus": "none", "contrasts": "holm_blocked", "effect_size": "hedges_g"},
}
CHOSEN = ("adamw-high", "lion-low")
TINY = [
    "model=gpt_tiny", "model.d_model=16", "data=text", "data.path=text.txt", "data.tokenizer=byte",
    "data.context_length=12", "data.batch_size=4", "budget=steps", "budget.steps=10", "compile=none",
]  # fmt: skip
LATER = timedelta(hours=1)


class Store:
    """A working directory with a locked plan and the results of its runs."""

    def __init__(self, folder: Path, content: dict):
        self.folder, self.name = folder, content["name"]
        self.root = folder / "results" / self.name
        self.plan_path = folder / "experiments" / self.name / "plan.yaml"
        self.lock_path = self.plan_path.with_name("lock.json")

    def write_plan(self, content: dict) -> None:
        self.plan_path.parent.mkdir(parents=True, exist_ok=True)
        content = copy.deepcopy(content)
        content["design"]["base"] = TINY
        self.plan_path.write_text(yaml.safe_dump(content, sort_keys=False))

    def edit_plan(self, *path, value) -> None:
        content = yaml.safe_load(self.plan_path.read_text())
        node = content
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        self.plan_path.write_text(yaml.safe_dump(content, sort_keys=False))

    @property
    def lock(self) -> Lock:
        lock = read_lock(parse_plan(self.plan_path))
        assert lock is not None
        return lock

    def compose(self, arm: str, seed: int, *user: str) -> FrozenRun:
        return compose_run(cell_overrides(read_plan(self.name), arm, seed, list(user)))

    def run(self, arm: str, seed: int, *user: str, **columns) -> Path:
        """Write what a run would have written; return its folder. ``columns`` replace those of the row."""
        return self.write(self.compose(arm, seed, *user), **columns)

    def write(self, frozen: FrozenRun, **columns) -> Path:
        folder = results.make_writable(frozen.folder)
        row = frozen.config.row() | measured(arm=frozen.config.arm, seed=frozen.config.seed) | columns
        save(frozen)
        points = [
            {"run_id": row["run_id"], "step": 5, "tokens": 240, "val_bpb": row["val_bpb"] and row["val_bpb"] + 0.5},
            {"run_id": row["run_id"], "step": 10, "tokens": 480, "val_bpb": row["val_bpb"]},
        ]
        results.write_steps(folder, points)
        results.write_run(folder, row)
        results.finish(folder, results.DONE if row["status"] == "ok" else results.FAILED)
        return folder.resolve()

    def of(self, arm: str, seed: int) -> Path:
        (folder,) = self.root.glob(f"{arm}-seed{seed}-*")
        return folder


COUNTER = itertools.count(1)


def measured(arm: str, seed: int) -> dict:
    """Return what a run measured: numbers that no two runs share."""
    place = next(COUNTER)
    started = datetime.now(UTC) + LATER + timedelta(minutes=place)
    best = {"high": 2.0, "low": 2.5} if arm.startswith("adamw") else {"high": 2.6, "low": 2.2}
    score = best.get(arm.rpartition("-")[2], 2.3) + 0.001 * seed + 1e-9 * place
    return {
        "status": "ok",
        "started_at": started.isoformat(timespec="seconds"),
        "train_seconds": 20.0 + place / 7,
        "compile_seconds": 0.1 + place / 11,
        "eval_seconds": 1.0 + place / 13,
        "time_to_first_step_seconds": 2.0 + place / 17,
        "steps": 10,
        "tokens": 480,
        "n_params": 1000 + len(arm),
        "val_bpb": score,
        "val_bpb_best": score,
        "test_bpb": score + 0.1,
    }


def reseal(folder: Path, **columns) -> None:
    """Edit a row as someone would who knows of the marker: the marker is made to fit."""
    change_row(folder, **columns)
    for marker in (results.DONE, results.FAILED):
        if (folder / marker).exists():
            results.finish(folder, marker)


def change_row(folder: Path, **columns) -> None:
    row = results.read_row(folder, look_only=True)
    assert row is not None
    results.write_run(folder, row | columns)


def change_config(folder: Path, **fields) -> None:
    run = load(folder)
    save(FrozenRun(dataclasses.replace(run.config, **fields), folder))


def rewrite_entries(store: Store, edit, first: int = 0) -> None:
    """Edit the entries and give each its own hash again, as someone would who knows how the chain is made."""
    entries = json.loads(store.lock_path.read_text())
    edit(entries)
    before = entries[first - 1]["sha256"] if first else None
    for place, entry in enumerate(entries[first:], start=first):
        entry.pop("sha256")
        entry["previous"] = before
        entries[place] = dataclasses.asdict(sealed(**entry))
        before = entries[place]["sha256"]
    store.lock_path.write_text(json.dumps(entries))


def fill(store: Store, content: dict) -> None:
    store.write_plan(content)
    assert lock_plan(store.name, []) == 0
    plan = read_plan(store.name)
    for seed in plan.seeds:
        for arm in plan.arms:
            store.run(arm, seed)
    if plan.confirmation:
        for seed in plan.confirmation.seeds:
            for arm in CHOSEN:
                store.run(arm, seed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Stores with every run in place, made once; each attack gets a copy."""
    folders = {}
    for content in (PLAN, TWO_STAGES):
        folder = tmp_path_factory.mktemp(content["name"])
        (folder / "text.txt").write_text("".join(f"line {n}: the quick brown fox {n * 7 % 13}\n" for n in range(300)))
        with contextlib.chdir(folder):
            fill(Store(folder, content), content)
        folders[content["name"]] = folder
    return folders


def copied(finished, content, tmp_path, monkeypatch) -> Store:
    folder = tmp_path / "work"
    shutil.copytree(finished[content["name"]], folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return Store(folder, content)


@pytest.fixture
def store(finished, tmp_path, monkeypatch):
    return copied(finished, PLAN, tmp_path, monkeypatch)


@pytest.fixture
def staged(finished, tmp_path, monkeypatch):
    return copied(finished, TWO_STAGES, tmp_path, monkeypatch)


COMPOSED: dict[tuple, FrozenRun] = {}
plainly = compose._compose


@pytest.fixture(autouse=True)
def _compose_once(monkeypatch):
    """Composing takes most of the time here; of the same overrides, plans and text the same comes out."""

    def once(overrides, deviations):
        files = [*sorted(Path("experiments").glob("*/plan.yaml")), Path("text.txt")]
        key = (*overrides, "but", *deviations, *(path.read_bytes() for path in files))
        if key not in COMPOSED:
            COMPOSED[key] = plainly(overrides, deviations)
        return COMPOSED[key]

    monkeypatch.setattr(compose, "_compose", once)


def faults(name: str) -> list[str]:
    return said(name)[0]


def remarks(name: str) -> list[str]:
    return said(name)[1]


def said(name: str) -> tuple[list[str], list[str]]:
    """Return what verify calls faults, and what it remarks."""
    findings = verify(name).findings
    return [each.text for each in findings if each.is_fault], [each.text for each in findings if not each.is_fault]


# --- what is clean -------------------------------------------------------------------------------------------------


def test_a_finished_plan_verifies(store, capsys):
    assert faults("tried") == []
    assert main(["plan", "verify", "tried"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("verified  evidence sha256 ")
    assert said[-1].endswith("(6 runs)")
    assert "Runs: 6 launched: 6 count, 0 set aside, 0 not believed, 0 exploratory." in said


def test_a_finished_plan_of_two_stages_verifies(staged):
    found = verify("staged")
    assert [finding.text for finding in found.findings if finding.is_fault] == []
    assert found.n_counted == 8


def test_verify_changes_no_file(store):
    (store.of("plain", 0) / "run.parquet").write_bytes(b"damaged")
    before = {path: path.stat().st_mtime_ns for path in store.folder.rglob("*")}
    assert not verify("tried").is_clean
    assert {path: path.stat().st_mtime_ns for path in store.folder.rglob("*")} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_verify_needs_no_right_to_write(store):
    for path in [store.folder, *store.folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert verify("tried").is_clean
    finally:
        for path in [store.folder, *(p for p in store.folder.rglob("*") if p.is_dir())]:
            path.chmod(0o755)


def test_runs_elsewhere_are_found_by_their_override_and_no_other_is_taken(store):
    store.root.parent.rename(store.folder / "elsewhere")
    assert not verify("tried").is_clean
    assert verify("tried", ["paths.results=elsewhere"]).is_clean
    with pytest.raises(UserError, match=r"only paths\.results=DIR"):
        verify("tried", ["budget.steps=9"])


def test_the_digest_is_what_sha256sum_says_of_the_markers(store):
    command = "sha256sum results/tried/*/DONE | cut -c1-64 | sort | sha256sum | cut -c1-64"
    by_hand = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout.strip()
    assert verify("tried").evidence_sha256 == by_hand


def test_the_digest_changes_with_any_sealed_file_of_any_run_even_when_all_agrees(store):
    before = verify("tried").evidence_sha256
    for folder in (store.of("plain", 0), store.of("gated", 1)):
        reseal(folder, test_bpb=1.5 + len(folder.name))  # nothing else knows this number
        assert verify("tried").is_clean
        assert verify("tried").evidence_sha256 != before
        before = verify("tried").evidence_sha256


# --- attacks on the plan and its lock ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("hypotheses", 0, "falsified_if"), "diff(gated, plain) > 1", "hypotheses[0].falsified_if"),
        (("design", "seeds"), [0], "design.seeds: [0,1] became [0]"),
        (("exploratory",), [], 'exploratory: ["spare"] became []'),
        (("metrics", "primary", "sesoi"), 0.5, "metrics.primary.sesoi: 0.01 became 0.5"),
        (("analysis", "alpha"), 0.1, "analysis.alpha: 0.05 became 0.1"),
        (("design", "arms", "late"), [], "design.arms.late: nothing became []"),
        (("question",), 7, "cannot be read now"),
    ],
)
def test_an_edited_plan_is_found_and_the_field_named(store, path, value, words):
    store.edit_plan(*path, value=value)
    (fault,) = faults("tried")
    assert words in fault


def test_a_plan_that_is_gone_is_found(store):
    store.plan_path.unlink()
    (fault,) = faults("tried")
    assert "cannot be read now" in fault


def test_layout_and_comments_are_no_edit(store):
    content = yaml.safe_load(store.plan_path.read_text())
    store.plan_path.write_text("# locked!\n" + yaml.safe_dump(content, indent=7, default_flow_style=True))
    assert faults("tried") == []


FORGED = {
    "kind": "remark",
    "at": "2020-01-01T00:00:00+00:00",
    "reason": "none",
    "runs_existed": 5,
    "plan": {"name": "tried"},
    "cells": {"plain seed 0": "0" * 64},
    "lmexp_version": "9",
    "git_commit": "0" * 40,
    "previous": "0" * 64,
    "sha256": "0" * 64,
}


def test_an_edit_of_any_field_of_any_entry_is_found(store):
    """In the chain alone, before any run is looked at."""
    amend_twice(store)
    assert store.lock.faults() == []
    whole = store.lock_path.read_text()
    for place, (field, value) in itertools.product(range(3), FORGED.items()):
        entries = json.loads(whole)
        assert set(entries[place]) == set(FORGED)
        entries[place][field] = value
        store.lock_path.write_text(json.dumps(entries))
        assert any(f"entry {place}" in fault for fault in store.lock.faults()), (place, field)


def amend_twice(store: Store) -> None:
    """Add two amendments without composing anything: the chain alone is looked at."""
    for reason in ("first", "second"):
        lock = store.lock
        content = {key: value for key, value in vars(lock.current).items() if key != "sha256"}
        content |= {"kind": "amendment", "reason": reason, "previous": lock.current.sha256}
        lock_room.append(read_plan("tried"), sealed(**content))


@pytest.mark.parametrize("place", [0, 1])
def test_an_entry_that_was_removed_or_moved_is_found(store, place):
    amend_twice(store)
    entries = json.loads(store.lock_path.read_text())
    without = entries[:place] + entries[place + 1 :]
    for changed in (without, [*without, entries[place]]):
        store.lock_path.write_text(json.dumps(changed))
        assert store.lock.faults()


def test_an_entry_that_was_edited_is_found_by_verify(store):
    entries = json.loads(store.lock_path.read_text())
    entries[0]["at"] = "2001-01-01T00:00:00+00:00"
    store.lock_path.write_text(json.dumps(entries))
    (fault,) = faults("tried")
    assert fault == "entry 0 of lock.json was edited: its content has another hash than it says."


def test_an_entry_that_was_edited_and_hashed_anew_is_found_by_the_runs(store):
    def weaker(entries):
        entries[0]["plan"]["metrics"]["primary"]["sesoi"] = 0.5

    rewrite_entries(store, weaker)
    store.edit_plan("metrics", "primary", "sesoi", value=0.5)
    assert store.lock.faults() == []
    found = faults("tried")
    assert sum("follows an entry that the lock does not hold" in fault for fault in found) == 6
    assert any(fault.startswith("4 cells missing") for fault in found)  # nothing is left to count


def test_a_lock_that_was_made_anew_after_the_runs_is_found(store):
    store.lock_path.unlink()
    assert lock_plan("tried", []) == 0
    assert store.lock.current.runs_existed == 6
    assert sum("follows an entry that the lock does not hold" in fault for fault in faults("tried")) == 6


@pytest.mark.parametrize("damage", ["", "{}", "[]", "[1]", '[{"kind": "lock"}]', "null"])
def test_a_damaged_lock_is_a_plain_sentence(store, damage, capsys):
    store.lock_path.write_text(damage)
    assert main(["plan", "verify", "tried"]) == 2
    assert "lock.json" in capsys.readouterr().err
    assert state(read_plan("tried")) == "lock damaged"


@pytest.mark.parametrize(
    ("field", "value"), [("cells", []), ("plan", "text"), ("runs_existed", "3"), ("cells", {"a": 1})]
)
def test_a_lock_whose_fields_are_of_another_kind_is_damaged(store, field, value):
    entries = json.loads(store.lock_path.read_text())
    entries[0][field] = value
    store.lock_path.write_text(json.dumps(entries))
    with pytest.raises(UserError, match="is damaged"):
        verify("tried")


# --- attacks on rows -----------------------------------------------------------------------------------------------


def edit_run_file(store):
    change_row(store.of("gated", 0), val_bpb=1.0)
    return "run.parquet was edited or lost after the run ended"


def edit_run_file_and_marker(store):
    reseal(store.of("gated", 0), val_bpb=1.0)
    return "its row says val_bpb=1.0, its log points 2.3"


def edit_best_score(store):
    reseal(store.of("gated", 0), val_bpb_best=1.0)
    return "its row says val_bpb_best=1.0"


def edit_log_points(store):
    results.write_steps(store.of("gated", 0), [])
    return "steps.parquet was edited or lost"


def edit_config(store):
    path = store.of("gated", 0) / "config.yaml"
    path.write_text(path.read_text().replace("lr: 0.001", "lr: 0.002").replace("lr: 0.003", "lr: 0.004"))
    return "config.yaml was edited or lost"


def edit_config_and_hash(store):
    folder = store.of("gated", 0)
    run = load(folder)
    change_config(folder, optimizer=dataclasses.replace(run.config.optimizer, lr=0.5))
    reseal(folder)
    return "its row says run_id="


def edit_config_row_and_folder(store):
    folder = store.of("gated", 0)
    run = load(folder)
    config = dataclasses.replace(run.config, optimizer=dataclasses.replace(run.config.optimizer, lr=0.5))
    home = folder.rename(folder.with_name(config.run_id))
    save(FrozenRun(config, home))
    rename_points(home, config.run_id)
    reseal(home, run_id=config.run_id, config_sha256=config.sha256)
    return "it is gated seed 0, which entry 0 promises with another config"


def rename_points(folder, run_id):
    points = results.read_points(folder)
    results.write_steps(folder, [point | {"run_id": run_id} for point in points])


def remove_marker(store):
    (store.of("gated", 0) / "DONE").unlink()
    return "there is no DONE beside it"


def empty_marker(store):
    (store.of("gated", 0) / "DONE").write_text("")
    return "run.parquet was edited or lost"


def damage_row(store):
    (store.of("gated", 0) / "run.parquet").write_bytes(b"PAR1")
    return "run.parquet was edited or lost"


def remove_row(store):
    (store.of("gated", 0) / "run.parquet").unlink()
    return "run.parquet was edited or lost"


def remove_config(store):
    (store.of("gated", 0) / "config.yaml").unlink()
    return "config.yaml was edited or lost"


def copy_row_from_another_cell(store):
    shutil.copy(store.of("plain", 0) / "run.parquet", store.of("gated", 0) / "run.parquet")
    return "it holds the row of plain-seed0"


def copy_row_and_reseal(store):
    shutil.copy(store.of("plain", 0) / "run.parquet", store.of("gated", 0) / "run.parquet")
    results.finish(store.of("gated", 0), results.DONE)
    return "its row says arm=plain, its config gated"


def copy_whole_folder(store):
    target = store.of("gated", 0)
    shutil.rmtree(target)
    shutil.copytree(store.of("plain", 0), target)
    return "it holds the row of plain-seed0"


def copy_measures_into_another_seed(store):
    """The thorough forger: identity, config, log points and marker are those of the target; the time is moved."""
    source, target = results.read_row(store.of("gated", 1)), store.of("gated", 0)
    identity = load(target).config.row()
    started = (datetime.fromisoformat(source["started_at"]) + timedelta(minutes=9)).isoformat()
    points = results.read_points(store.of("gated", 1))
    results.write_steps(target, [point | {"run_id": identity["run_id"]} for point in points])
    results.write_run(target, source | identity | {"started_at": started})
    results.finish(target, results.DONE)
    return "agree to the last digit in what no two runs share: one is a copy of the other"


def copy_measures_and_change_times(store):
    copy_measures_into_another_seed(store)
    columns = ("train_seconds", "compile_seconds", "eval_seconds", "time_to_first_step_seconds")
    row = results.read_row(store.of("gated", 0))
    reseal(store.of("gated", 0), **{column: row[column] * 1.01 for column in columns})
    return "agree to the last digit"


def copy_exploratory_measures(store):
    target = store.of("gated", 0)
    free = store.run("gated", 0, "optimizer.lr=0.5")
    source, identity = results.read_row(free), load(target).config.row()
    results.write_steps(target, [point | {"run_id": identity["run_id"]} for point in results.read_points(free)])
    results.write_run(target, source | identity)
    results.finish(target, results.DONE)
    return "one is a copy of the other"


def run_of_another_plan(store):
    folder = store.of("gated", 0)
    change_config(folder, experiment="other")
    reseal(folder, experiment="other")
    return "it is a run of other"


def start_before_the_lock(store):
    reseal(store.of("gated", 0), started_at="2020-01-01T00:00:00+00:00")
    return "it started at 2020-01-01T00:00:00+00:00, before entry 0 was made at"


def no_start(store):
    reseal(store.of("gated", 0), started_at="long ago")
    return "its row gives no time at which it started"


def claim_registration(store):
    """An exploratory run of another rate is declared registered."""
    frozen = store.compose("gated", 0, "optimizer.lr=0.5")
    shutil.rmtree(store.of("gated", 0))
    entry = store.lock.current.sha256
    store.write(dataclasses.replace(frozen, config=dataclasses.replace(frozen.config, lock_sha256=entry)))
    return "it was started with optimizer.lr=0.5, which the plan does not leave free"


def claim_registration_in_the_row_alone(store):
    frozen = store.compose("gated", 0, "optimizer.lr=0.5")
    shutil.rmtree(store.of("gated", 0))
    folder = store.write(frozen)
    reseal(folder, registered=True, lock_sha256=store.lock.current.sha256)
    return "its row says registered=True, its config False"


def hide_overrides(store):
    frozen = store.compose("gated", 0, "optimizer.lr=0.5")
    shutil.rmtree(store.of("gated", 0))
    entry = store.lock.current.sha256
    config = dataclasses.replace(frozen.config, lock_sha256=entry, overrides=())
    store.write(dataclasses.replace(frozen, config=config))
    return "it is gated seed 0, which entry 0 promises with another config"


def another_plan_hash(store):
    folder = store.of("gated", 0)
    change_config(folder, plan_sha256="1" * 64)
    reseal(folder, plan_sha256="1" * 64)
    return "it carries the hash of another plan than entry 0"


def another_lock_hash(store):
    folder = store.of("gated", 0)
    change_config(folder, lock_sha256="1" * 64)
    reseal(folder, lock_sha256="1" * 64)
    return "it follows an entry that the lock does not hold (111111111111)"


def call_a_diverged_run_ok(store):
    folder = store.of("gated", 0)
    shutil.rmtree(folder)
    store.run("gated", 0, status="diverged", val_bpb=None, val_bpb_best=None)
    change_row(folder, status="ok", val_bpb=2.0, val_bpb_best=2.0)
    results.finish(folder, results.FAILED)
    return "its row says ok, and there is no DONE beside it"


def call_a_finished_run_interrupted(store):
    """To run the cell again, because its score did not please."""
    folder = store.of("gated", 0)
    change_row(folder, status="interrupted", error="KeyboardInterrupt", probe_after=1.5)
    (folder / "DONE").unlink()
    results.finish(folder, results.FAILED)
    return "its row says interrupted, and has what is measured only after a run has ended well"


def garble_marker(store):
    (store.of("gated", 0) / "DONE").write_bytes(b"\xff\xfe\x00")
    return "run.parquet was edited or lost"


def garble_config(store):
    folder = store.of("gated", 0)
    (folder / "config.yaml").write_bytes(b"\xff\xfe\x00")
    results.finish(folder, results.DONE)
    return "config.yaml is damaged"


def deregister_in_the_row(store):
    change_row(store.of("gated", 0), registered=False, lock_sha256=None)
    return "run.parquet was edited or lost"


def a_cell_that_the_plan_lacks(store):
    frozen = store.compose("gated", 9)
    config = dataclasses.replace(frozen.config, lock_sha256=store.lock.current.sha256, overrides=())
    store.write(dataclasses.replace(frozen, config=config))
    return "it is gated seed 9, which entry 0 does not promise"


ATTACKS = [
    edit_run_file, edit_run_file_and_marker, edit_best_score, edit_log_points, edit_config, edit_config_and_hash,
    edit_config_row_and_folder, remove_marker, empty_marker, damage_row, remove_row, remove_config,
    copy_row_from_another_cell, copy_row_and_reseal, copy_whole_folder, copy_measures_into_another_seed,
    copy_measures_and_change_times, copy_exploratory_measures, run_of_another_plan, start_before_the_lock, no_start,
    claim_registration, claim_registration_in_the_row_alone, hide_overrides, another_plan_hash, another_lock_hash,
    call_a_diverged_run_ok, call_a_finished_run_interrupted, garble_marker, garble_config,
    deregister_in_the_row, a_cell_that_the_plan_lacks,
]  # fmt: skip


COPIES = (copy_measures_into_another_seed, copy_measures_and_change_times, copy_exploratory_measures)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_on_a_run_is_found_and_said_and_the_run_does_not_count(store, attack):
    words = attack(store)
    found = verify("tried")
    said = [finding.text for finding in found.findings if finding.is_fault]
    assert any(words in fault for fault in said), said
    if attack not in COPIES:  # of two equal runs nobody can tell which is the copy
        assert found.n_counted == 6 - (attack is not a_cell_that_the_plan_lacks)


def test_what_is_wrong_is_printed_one_line_each_and_the_exit_code_says_so(store, capsys):
    edit_run_file(store)
    assert main(["plan", "verify", "tried"]) == 1
    said = capsys.readouterr().out.splitlines()
    points = results.read_points(store.of("gated", 0))
    assert [line for line in said if line.startswith("FAULT")] == [
        f"FAULT  {store.of('gated', 0).name} does not count: run.parquet was edited or lost after the run ended; "
        f"its row says val_bpb=1.0, its log points {points[-1]['val_bpb']}.",
        "FAULT  1 cell missing: no run of gated seed 0 counts (see why above).",
    ]
    assert said[-1].startswith("not verified, 2 faults  evidence sha256 ")


# --- cells: missing, repeated, set aside ---------------------------------------------------------------------------


def test_equal_scores_of_two_arms_at_one_seed_are_no_copy(store):
    """As of a compiled and an uncompiled arm on a CPU."""
    row = results.read_row(store.of("plain", 0))
    folder = store.of("gated", 0)
    shutil.rmtree(folder)
    store.run("gated", 0, **{column: row[column] for column in ("val_bpb", "val_bpb_best", "test_bpb")})
    assert faults("tried") == []


def test_a_missing_cell_is_found(store):
    shutil.rmtree(store.of("gated", 1))
    assert faults("tried") == ["1 cell missing: no registered run of gated seed 1."]


def test_a_missing_cell_of_an_exploratory_arm_is_a_remark(store):
    shutil.rmtree(store.of("spare", 1))
    assert faults("tried") == []
    assert "1 cell missing: no registered run of spare seed 1." in remarks("tried")


def test_results_that_are_gone_are_found(store):
    shutil.rmtree(store.root)
    (fault,) = faults("tried")
    assert fault.startswith("4 cells missing: no registered run of plain seed 0, gated seed 0,")


def test_a_run_that_failed_gives_its_cell_nothing_and_is_listed(store):
    folder = store.of("gated", 1)
    shutil.rmtree(folder)
    store.run("gated", 1, status="oom", error="MemoryError: no room", val_bpb=None, val_bpb_best=None)
    assert faults("tried") == ["1 cell missing: no run of gated seed 1 counts (see why above)."]
    assert f"{folder.name} is set aside: it ended as oom (MemoryError: no room)." in remarks("tried")


def test_an_attempt_that_was_killed_is_listed_and_no_fault(store):
    folder = store.of("gated", 1)
    aside = folder / "attempts" / "1"
    aside.mkdir(parents=True)
    shutil.copy(folder / "config.yaml", aside / "config.yaml")
    assert faults("tried") == []
    killed = f"{folder.name}/attempts/1 is set aside: it was started, and killed before it could write a row."
    assert killed in remarks("tried")


def test_an_attempt_whose_process_died_before_it_wrote_its_config_is_listed_and_no_fault(store):
    folder = store.of("gated", 1)
    began = {"status": "failed", "error": "the process ended with exit code 1"}
    row = store.compose("gated", 1).config.row() | began
    aside = folder / "attempts" / "1"
    aside.mkdir(parents=True)
    results.write_run(aside, row)
    results.finish(aside, results.FAILED)
    assert faults("tried") == []
    assert f"{folder.name}/attempts/1 is set aside: it ended as failed ({row['error']})." in remarks("tried")


def test_a_config_that_was_taken_from_a_failed_attempt_is_missed(store):
    folder = failed_attempt(store, "gated", 1)
    (folder / "attempts" / "1" / "config.yaml").unlink()
    (fault,) = faults("tried")
    assert fault.startswith(f"{folder.name}/attempts/1 does not count: config.yaml was edited or lost")


def failed_attempt(store, arm, seed):
    """Make the cell's run an attempt that was interrupted and set aside, and run the cell again."""
    shutil.rmtree(store.of(arm, seed), ignore_errors=True)
    folder = store.run(arm, seed, status="interrupted", error="KeyboardInterrupt", val_bpb=None)
    results.set_attempt_aside(folder)
    return store.run(arm, seed)


def test_failed_attempts_are_listed_with_why_and_the_run_after_them_counts(store):
    folder = failed_attempt(store, "gated", 1)
    assert faults("tried") == []
    aside = f"{folder.name}/attempts/1 is set aside: it ended as interrupted (KeyboardInterrupt)."
    assert aside in remarks("tried")
    assert "1 set aside" in verify("tried").accounting


def test_an_attempt_that_was_removed_leaves_a_gap(store):
    folder = failed_attempt(store, "gated", 1)
    results.set_attempt_aside(folder)
    store.run("gated", 1)
    shutil.rmtree(folder / "attempts" / "1")
    assert f"{folder.name}/attempts has lost 1: attempts are never removed." in faults("tried")


def test_a_good_run_that_was_made_an_attempt_still_counts(store):
    """Nobody runs a cell again until it pleases by calling the first run an attempt."""
    folder = store.of("gated", 1)
    results.set_attempt_aside(folder)
    store.run("gated", 1)
    aside = f"{folder.name} is set aside: its cell ran more than once, and {folder.name}/attempts/1, which started"
    assert any(remark.startswith(aside) for remark in remarks("tried"))


def twice(store):
    """Run a cell again with another value of a key that the plan leaves free; return the folders, first and second."""
    return store.of("gated", 0), store.run("gated", 0, "budget.evaluations=1")


def test_of_a_cell_that_ran_twice_the_first_that_ended_well_counts(store):
    first, second = twice(store)
    assert load(second).config.lock_sha256 == store.lock.current.sha256  # the key is free, so it is registered
    assert faults("tried") == []
    aside = f"{second.name} is set aside: its cell ran more than once, and {first.name}, which started first, counts."
    assert aside in remarks("tried")
    reseal(first, started_at=(datetime.now(UTC) + 99 * LATER).isoformat())  # now the other one is first
    aside = f"{first.name} is set aside: its cell ran more than once, and {second.name}, which started first, counts."
    assert aside in remarks("tried")


def test_a_plan_may_refuse_repeats(store):
    store.edit_plan("design", "repeats", value="refuse")
    amend_plan("tried", "repeats were never meant to count", [])
    assert faults("tried") == []
    first, second = twice(store)
    found = faults("tried")
    assert found == ["1 cell missing: no run of gated seed 0 counts (see why above)."]
    for folder in (first, second):
        aside = f"{folder.name} is set aside: its cell ran more than once, which the plan refuses."
        assert aside in remarks("tried")


# --- amendments and earlier entries --------------------------------------------------------------------------------


def test_runs_under_an_earlier_entry_count_when_their_config_is_still_promised(store):
    store.edit_plan("question", value="Does verify find every attack at once?")
    amend_plan("tried", "clearer", [])
    assert faults("tried") == []
    said = remarks("tried")
    assert "6 runs made under entry 0 count: what was amended left their configs alone." in said
    assert "entry 1 was made when 6 registered runs existed: verdicts deviate from the plan (clearer)." in said


def test_runs_whose_config_was_amended_do_not_count(store):
    store.edit_plan("design", "arms", "gated", value=["model.ffn=swiglu", "optimizer.lr=0.01"])
    amend_plan("tried", "a better rate", [])
    assert faults("tried") == ["2 cells missing: no run of gated seed 0, gated seed 1 counts (see why above)."]
    name = store.of("gated", 0).name
    assert f"{name} is set aside: it follows entry 0, and the cell was amended since." in remarks("tried")


def deny_runs(store, seconds_after):
    """Amend while the results are out of sight, and bring them back; the entry is made so long after the last one."""
    store.edit_plan("metrics", "primary", "sesoi", value=0.02)
    store.root.rename(store.folder / "hidden")
    amend_plan("tried", "nothing was seen", [])
    (store.folder / "hidden").rename(store.root)
    last = max(ended(folder) for folder in store.root.iterdir())
    at = (last + timedelta(seconds=seconds_after)).isoformat(timespec="seconds")
    rewrite_entries(store, lambda entries: entries[1].update(at=at), first=1)


def ended(folder):
    row = results.read_row(folder)
    return datetime.fromisoformat(row["started_at"]) + timedelta(seconds=row["train_seconds"] + row["eval_seconds"])


def test_an_amendment_that_denies_the_runs_before_it_is_found(store):
    deny_runs(store, seconds_after=2)
    (fault,) = faults("tried")
    assert fault.startswith("entry 1 says that no run existed when it was made, but 6 runs had ended by then (")


def test_a_run_without_a_time_belies_no_amendment(store):
    deny_runs(store, seconds_after=-3600)
    reseal(store.of("gated", 0), started_at="long ago")
    assert all("its row gives no time" in fault or "gated seed 0" in fault for fault in faults("tried"))


def test_runs_that_were_still_going_on_when_it_was_made_do_not_belie_an_amendment(store):
    deny_runs(store, seconds_after=-3600)
    assert faults("tried") == []


# --- exploratory runs ----------------------------------------------------------------------------------------------


def test_exploratory_runs_are_counted_by_why_they_are_and_never_mixed_in(store):
    before = verify("tried").evidence_sha256
    store.run("gated", 0, "optimizer.lr=0.5")
    store.run("gated", 1, "optimizer.lr=0.5")
    found = verify("tried")
    assert found.is_clean
    assert found.evidence_sha256 == before
    assert "2 runs exploratory: started with optimizer.lr=0.5." in remarks("tried")
    assert found.accounting == "Runs: 8 launched: 6 count, 0 set aside, 0 not believed, 2 exploratory."


def unregistered(store, arm, seed, **columns):
    shutil.rmtree(store.of(arm, seed))
    frozen = store.compose(arm, seed)
    config = dataclasses.replace(frozen.config, lock_sha256=None)
    return store.write(dataclasses.replace(frozen, config=config), **columns)


def test_runs_from_before_the_lock_are_named_as_such_and_whether_they_gave_the_outcome_away(store):
    early = "2020-01-01T00:00:00+00:00"
    unregistered(store, "spare", 0, started_at=early)
    known = (
        "1 run exploratory: from before the plan was locked, with configs that it promises: what they give was known."
    )
    assert known in remarks("tried")
    folder = store.of("spare", 0)
    change_config(folder, seed=3)
    reseal(folder, seed=3)
    assert "1 run exploratory: from before the plan was locked." in remarks("tried")


def test_runs_that_a_lock_did_not_see_are_pointed_at(store):
    unregistered(store, "spare", 0, started_at="2020-01-01T00:00:00+00:00")
    words = "entry 0 says that 0 existed when it was made, but 1 of those here had started by then."
    assert words in remarks("tried")
    rewrite_entries(store, lambda entries: entries[0].update(runs_existed=1))
    assert not any("of those here had started by then" in remark for remark in remarks("tried"))


def test_runs_that_count_and_differ_in_what_is_free_or_in_their_code_are_pointed_at(store):
    assert not any("differs" in remark or "code" in remark for remark in remarks("tried"))
    shutil.rmtree(store.of("gated", 0))
    store.run("gated", 0, "budget.evaluations=1")
    found, said = faults("tried"), remarks("tried")
    assert found == []
    (differs,) = [
        remark for remark in said if remark.startswith("budget.evaluations, which the plan leaves free, differs")
    ]
    assert {*differs.rpartition(": ")[2].rstrip(".").split(", ")} == {"5 in 5 runs", "1 in 1 run"}
    reseal(store.of("plain", 0), git_commit="c0ffee" * 6 + "c0ff", git_dirty=True)
    (code,) = [remark for remark in remarks("tried") if "Which code" in remark]
    assert "no git commit in 5 runs" in code
    assert "git c0ffeec0ffee with uncommitted changes in 1 run" in code


def test_a_run_that_could_have_been_registered_and_is_not_is_pointed_at(store):
    unregistered(store, "spare", 0)
    assert any("or their registration was taken away" in remark for remark in remarks("tried"))


def test_an_edited_exploratory_run_is_found_too_when_it_was_sealed(store):
    folder = store.run("gated", 0, "optimizer.lr=0.5")
    change_row(folder, val_bpb=0.1)
    assert faults("tried") == [f"{folder.name}: run.parquet was edited or lost after the run ended."]
    (folder / "DONE").write_text("")  # as runs of old were marked
    assert faults("tried") == []


# --- configs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """Return a copy of conf/ that may be edited."""
    shutil.copytree(compose.installed_folder("conf"), tmp_path / "conf")
    monkeypatch.setattr(compose, "installed_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(compose, "_compose", plainly)
    return tmp_path / "conf"


def test_a_changed_config_group_is_found_and_the_key_named(store, conf, monkeypatch):
    assert faults("tried") == []
    path = conf / "optimizer" / "_shared.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"clip_norm": 7.5}))
    (fault,) = faults("tried")
    assert fault.startswith("6 cells of 6 would have another config now than when locked: ")
    assert "plain seed 0: optimizer.clip_norm: 1.0 became 7.5" in fault
    assert f"lmexp itself ({__version__}) changed" in fault
    monkeypatch.setattr(verify_room, "__version__", "99")
    assert f"lmexp itself ({__version__} then, 99 now) changed" in faults("tried")[0]


def test_a_config_group_that_is_gone_is_found(store, conf):
    (conf / "budget" / "steps.yaml").unlink()
    found = faults("tried")
    assert len(found) == 3  # one for each arm
    assert all("does not compose any more: Unknown choice of budget 'steps'" in fault for fault in found)


def test_a_changed_text_is_found(store, conf):
    (store.folder / "text.txt").write_text((store.folder / "text.txt").read_text().replace("fox", "dog"))
    (fault,) = faults("tried")
    assert "data_fingerprint" in fault


# --- the confirmation ----------------------------------------------------------------------------------------------


def test_a_confirmation_of_an_arm_that_the_sweep_did_not_choose_is_found(staged):
    folder = staged.run("adamw-low", 7)
    assert faults("staged") == [f"{folder.name} confirms adamw-low, which the sweep did not choose."]


def test_a_missing_confirmation_cell_is_found(staged):
    shutil.rmtree(staged.of("lion-low", 8))
    assert faults("staged") == ["1 cell missing: no registered run of lion-low seed 8."]


@pytest.mark.parametrize(("arm", "rivals"), [("adamw-high", "adamw-*"), ("lion-low", "lion-*")])
def test_a_confirmation_that_started_before_its_own_sweep_ended_is_found(staged, arm, rivals):
    last = max(ended(folder) for folder in staged.root.glob(f"{rivals}-seed0-*"))
    folder = staged.of(arm, 7)
    reseal(folder, started_at=last.isoformat(timespec="seconds"))
    assert faults("staged") == []  # within the second that the clock cannot tell apart
    reseal(folder, started_at=(last - timedelta(seconds=3)).isoformat(timespec="seconds"))
    (fault,) = faults("staged")
    assert fault.startswith(f"{folder.name} started at ")
    assert "before the sweep could choose it" in fault


def test_a_sweep_that_is_not_finished_chooses_nothing(staged):
    shutil.rmtree(staged.of("lion-high", 0))
    found = faults("staged")
    assert "1 cell missing: no registered run of lion-high seed 0." in found
    assert any("lion waits for 1 run of the sweep (lion-high seed 0)" in fault for fault in found)
    assert sum("confirms lion-low, which the sweep did not choose" in fault for fault in found) == 2


def test_a_diverged_run_of_a_sweep_is_a_result_and_one_of_a_confirmation_is_not(staged):
    started = results.read_row(staged.of("lion-high", 0))["started_at"]
    nothing = {"status": "diverged", "error": "the loss is not finite", "val_bpb": None, "val_bpb_best": None}
    shutil.rmtree(staged.of("lion-high", 0))
    staged.run("lion-high", 0, **nothing, started_at=started)
    assert faults("staged") == []
    shutil.rmtree(staged.of("lion-low", 7))
    staged.run("lion-low", 7, **nothing)
    assert faults("staged") == ["1 cell missing: no run of lion-low seed 7 counts (see why above)."]


# --- witnesses outside: git, signed tags, time stamps --------------------------------------------------------------

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here")


def git(*arguments):
    options = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *options, *arguments], check=True, capture_output=True, timeout=60)


def commit(words):
    git("add", "experiments")
    git("commit", "-q", "-m", words)


def test_outside_git_one_sentence_says_so(store):
    (remark,) = [remark for remark in remarks("tried") if "git" in remark]
    assert remark.endswith("is in no git repository that git can read: no commit holds the lock.")


def test_without_git_and_openssl_nothing_breaks(store, monkeypatch):
    store.lock_path.with_name("lock.json.tsr").write_bytes(b"token")
    store.lock_path.with_name("lock.json.tsr.pem").write_bytes(b"authority")
    monkeypatch.setenv("PATH", "")
    assert verify("tried").is_clean
    assert "lock.json.tsr was not checked: openssl is not here." in remarks("tried")


@needs_git
def test_the_commit_that_first_holds_the_entry_is_shown(store):
    git("init", "-q", "-b", "main")
    assert "No git commit holds entry 0 yet: commit lock.json." in remarks("tried")
    commit("lock")
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout[:12]
    store.plan_path.write_text("# a comment\n" + store.plan_path.read_text())
    commit("later, and not the first")
    assert any(f"git commit {head} of " in remark and "first to hold entry 0" in remark for remark in remarks("tried"))
    assert anchors.first_commit(anchors.commits(store.lock), store.lock.current).short == head


@needs_git
def test_an_amendment_that_is_not_committed_is_not_held_by_the_commit_of_the_lock(store):
    git("init", "-q", "-b", "main")
    commit("lock")
    store.edit_plan("question", value="Another?")
    amend_plan("tried", "clearer", [])
    assert "No git commit holds entry 1 yet: commit lock.json." in remarks("tried")


@needs_git
def test_a_lock_that_was_rewritten_after_it_was_committed_is_found_even_when_no_run_exists(store):
    git("init", "-q", "-b", "main")
    commit("lock")
    shutil.rmtree(store.root)
    old = store.lock.current.sha256
    store.lock_path.unlink()
    store.edit_plan("metrics", "primary", "sesoi", value=0.5)
    lock_plan("tried", [])
    found = [fault for fault in faults("tried") if "rewritten" in fault]
    assert len(found) == 1
    assert f"holds an entry that the lock lacks ({old[:12]}): the lock was rewritten." in found[0]


@needs_git
def test_a_remote_that_has_the_commit_is_named(store, tmp_path):
    git("init", "-q", "--bare", str(tmp_path / "remote"))
    git("init", "-q", "-b", "main")
    git("remote", "add", "origin", str(tmp_path / "remote"))
    commit("lock")
    assert any("no remote branch known here has it" in remark for remark in remarks("tried"))
    git("push", "-q", "origin", "main")
    assert any("; origin/main has it too" in remark for remark in remarks("tried"))


@needs_git
def test_a_commit_that_came_after_the_runs_is_said_to(store):
    git("init", "-q", "-b", "main")
    commit("lock")
    assert not any("commit before you run" in remark for remark in remarks("tried"))
    reseal(store.of("plain", 0), started_at=store.lock.current.at)
    made = datetime.fromisoformat(store.lock.current.at)
    rewritten = {"GIT_COMMITTER_DATE": (made + LATER).isoformat()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_COMMITTER_DATE", rewritten["GIT_COMMITTER_DATE"])
        git("commit", "-q", "--amend", "--no-edit")
    assert any("commit before you run" in remark for remark in remarks("tried"))


@needs_git
@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not here")
def test_a_signed_tag_is_checked(store, tmp_path):
    git("init", "-q", "-b", "main")
    commit("lock")
    git("tag", "-a", "-m", "not signed", "plain-tag")
    assert not any("tag" in remark for remark in remarks("tried"))
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=60)
    git("config", "gpg.format", "ssh")
    git("config", "user.signingkey", str(key))
    git("tag", "-s", "-m", "locked", "locked")
    assert any(
        remark.startswith("The tag locked is signed, but its signature does not verify") for remark in remarks("tried")
    )
    allowed = tmp_path / "allowed"
    allowed.write_text(f"a@example.org {key.with_suffix('.pub').read_text()}")
    git("config", "gpg.ssh.allowedSignersFile", str(allowed))
    assert "The signed tag locked holds that commit, and its signature verifies." in remarks("tried")


AUTHORITY = """
[tsa]
default_tsa = local
[local]
serial = {folder}/serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
[ext]
extendedKeyUsage = critical,timeStamping
basicConstraints = critical,CA:TRUE
[req]
distinguished_name = name
[name]
"""


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A time-stamping authority of our own: returns a function that stamps a hash into a file."""
    folder = tmp_path_factory.mktemp("authority")
    (folder / "tsa.cnf").write_text(AUTHORITY.format(folder=folder))
    (folder / "serial").write_text("01\n")
    config = ["-config", str(folder / "tsa.cnf")]
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    made = [
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        key,
        "-out",
        certificate,
        "-days",
        "2",
        "-subj",
        "/CN=authority",
    ]
    openssl("req", "-x509", *made, *config, "-extensions", "ext")

    def stamp(sha256, path):
        openssl("ts", "-query", "-sha256", "-cert", "-digest", sha256, "-out", str(folder / "query"))
        signed = ["-queryfile", str(folder / "query"), "-signer", certificate, "-inkey", key, "-out", str(path)]
        openssl("ts", "-reply", *config, *signed)
        shutil.copy(certificate, path.with_name(f"{path.name}.pem"))

    return stamp


@needs_openssl
def test_a_time_stamp_of_the_entry_is_checked(store, authority):
    token = store.lock_path.with_name("lock.json.tsr")
    authority(store.lock.current.sha256, token)
    assert faults("tried") == []
    year = f"{datetime.now(UTC).year} GMT, by the authority in lock.json.tsr.pem."
    assert any(r.startswith("lock.json.tsr stamps entry 0 at ") and r.endswith(year) for r in remarks("tried"))


@needs_openssl
def test_a_time_stamp_of_another_hash_or_by_another_authority_is_a_fault(store, authority, tmp_path):
    token = store.lock_path.with_name("lock.json.tsr")
    authority("a" * 64, token)
    words = "lock.json.tsr stamps no entry of this lock, or lock.json.tsr.pem does not vouch for it."
    assert faults("tried") == [words]
    authority(store.lock.current.sha256, token)
    made = [
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        str(tmp_path / "k"),
        "-out",
        f"{token}.pem",
        "-subj",
        "/CN=other",
    ]
    openssl("req", "-x509", *made)
    assert faults("tried") == [words]
    Path(f"{token}.pem").unlink()
    assert any("put the authority's certificate beside it" in remark for remark in remarks("tried"))


@needs_openssl
def test_a_time_stamp_of_an_earlier_entry_does_not_cover_the_current_one(store, authority):
    authority(store.lock.current.sha256, store.lock_path.with_name("lock.json.tsr"))
    store.edit_plan("question", value="Another?")
    amend_plan("tried", "clearer", [])
    assert faults("tried") == []
    assert any(remark.startswith("lock.json.tsr stamps entry 0 at ") for remark in remarks("tried"))
    assert "lock.json.tsr does not cover entry 1: ask for a new one." in remarks("tried")


# --- laws of the chain and of registration -------------------------------------------------------------------------


def test_the_hash_of_a_plan_is_that_of_its_lock_whatever_the_keys_are(store):
    """A number as the name of an arm becomes text in a JSON file; numbers sort otherwise than texts."""
    content = yaml.safe_load(store.plan_path.read_text())
    content["design"]["arms"] |= {10: ["model.ffn=swiglu", "optimizer.lr=0.1"], 9: ["optimizer.lr=0.2"]}
    store.plan_path.write_text(yaml.safe_dump(content))
    amend_plan("tried", "more arms", [])
    assert store.lock.current.plan_sha256 == read_plan("tried").sha256
    assert store.compose("10", 0).config.lock_sha256 == store.lock.current.sha256


def test_what_differs_is_named_field_by_field():
    before = {"a": 1, "b": {"c": [1, 2], "d": ["x"]}, "e": [{"f": 1}, {"f": 2}]}
    after = {"a": 1, "b": {"c": [1, 3], "d": []}, "e": [{"f": 1}, {"f": 5}], "g": "y" * 200}
    assert changes(before, before) == []
    assert changes({"a": {"b": 1}}, {"a": "x"}) == ['a: {"b":1} became "x"']
    assert changes({"a": [1]}, {"a": {"b": 1}}) == ['a: [1] became {"b":1}']
    assert changes(before, after)[:3] == ["b.c[1]: 2 became 3", 'b.d: ["x"] became []', "e[1].f: 2 became 5"]
    assert changes(before, after)[3].startswith("g: nothing became ")
    assert len(changes(before, after)[3]) < 120


def test_where_a_plan_stands_is_said_in_a_few_words(store):
    def said():
        return state(read_plan("tried"))

    assert said() == "locked"
    amend_twice(store)
    assert said() == "amended 2 times"
    store.edit_plan("question", value="?")
    assert said() == "amended 2 times, edited since"
    store.lock_path.write_text(json.dumps(json.loads(store.lock_path.read_text())[:2]))
    assert said() == "amended once, edited since"
    store.lock_path.unlink()
    assert said() == "not locked"


def test_an_entry_may_not_be_older_than_the_one_before_it(store):
    amend_twice(store)
    rewrite_entries(store, lambda entries: entries[2].update(at="2020-01-01T00:00:00+00:00"), first=2)
    (fault,) = store.lock.faults()
    assert fault == "entry 2 of lock.json says that it was made at 2020-01-01T00:00:00+00:00, which cannot be"


@pytest.mark.parametrize(
    ("place", "change"),
    [(0, {"kind": "amendment", "reason": "x"}), (1, {"kind": "lock", "reason": None}), (1, {"reason": ""})],
)
def test_the_first_entry_is_a_lock_and_every_other_an_amendment_with_a_reason(store, place, change):
    amend_twice(store)
    rewrite_entries(store, lambda entries: entries[place].update(change))
    assert [fault for fault in store.lock.faults() if f"entry {place} of lock.json must be" in fault]


def registered(store, arm="gated", seed=0, *user):
    return store.compose(arm, seed, *user).config.lock_sha256 is not None


def test_a_run_is_registered_only_if_everything_agrees(store, conf):
    """Each condition alone takes the registration away."""
    assert registered(store)
    assert registered(store, "gated", 0, "budget.evaluations=1")  # the plan leaves it free
    assert registered(store, "gated", 0, "paths.results=elsewhere")
    assert registered(store, "gated", 0, "model.ffn=swiglu")  # what the plan says anyway
    assert not registered(store, "gated", 0, "optimizer.lr=0.5")
    assert not registered(store, "gated", 5)
    question = read_plan("tried").question
    store.edit_plan("question", value="?")
    assert not registered(store)
    store.edit_plan("question", value=question)
    assert registered(store)
    path = conf / "optimizer" / "_shared.yaml"
    shared = path.read_text()
    path.write_text(yaml.safe_dump(yaml.safe_load(shared) | {"clip_norm": 7.5}))
    assert not registered(store)
    path.write_text(shared)
    lock = store.lock_path.read_text()
    store.lock_path.write_text(lock.replace('"runs_existed": 0', '"runs_existed": 1'))
    assert not registered(store)
    store.lock_path.unlink()
    assert not registered(store)
    store.lock_path.write_text(lock)
    assert registered(store)


def test_a_section_or_a_nested_key_can_be_free(store):
    for free, override in (("budget", "budget.evaluations=1"), ("optimizer.options.eps", "optimizer.options.eps=1e-3")):
        store.edit_plan("design", "free", value=[free])
        store.lock_path.unlink(missing_ok=True)
        lock_plan("tried", [])
        assert registered(store, "gated", 0, override)
        assert registered(store)
        assert not registered(store, "gated", 0, "optimizer.lr=0.5")


def test_a_row_that_is_not_of_the_schema_is_damaged_and_nothing_else(store):
    table = pq.read_table(store.of("gated", 0) / "run.parquet")
    pq.write_table(pa.concat_tables([table, table]), store.of("gated", 0) / "run.parquet")
    found = faults("tried")
    assert any("run.parquet was edited or lost" in fault for fault in found)


# --- the report believes what verify believes ------------------------------------------------------------------------


def _verdict(store: Store) -> str:
    assert main(["report", store.name]) == 0
    return json.loads((store.root / "verdicts.json").read_text())["verdicts"][0]["verdict"]


def _replace_run(store: Store, arm: str, seed: int, score: float) -> None:
    results.set_attempt_aside(store.of(arm, seed))
    store.run(arm, seed, val_bpb=score, val_bpb_best=score)


@pytest.mark.parametrize("attack", ["resealed", "done_deleted", "claims_by_overrides", "amended"])
def test_no_attack_that_verify_finds_enters_a_verdict(store, attack):
    for seed in (0, 1):
        folder = store.of("gated", seed)
        better = 1.5 + 0.001 * seed**2
        if attack == "resealed":
            reseal(folder, val_bpb=better, val_bpb_best=better)
        elif attack == "done_deleted":
            (folder / "DONE").unlink()
            _replace_run(store, "gated", seed, better)
        elif attack == "claims_by_overrides":
            shutil.rmtree(folder)
            change_row(store.run("gated", seed, "model.dropout=0.5", val_bpb=better), overrides="registered")
    if attack == "amended":
        store.edit_plan("design", "arms", "gated", value=["model.ffn=swiglu", "model.dropout=0.1"])
        assert main(["plan", "amend", store.name, "--reason", "other", f"paths.results={store.folder / 'none'}"]) == 0
    assert not verify(store.name).is_clean
    assert _verdict(store) == "INADMISSIBLE"


def test_an_amendment_that_looked_away_from_the_runs_is_seen_by_the_report(store):
    """Amended with ``paths.results`` elsewhere, or with the runs moved away, the entry says that none existed."""
    swapped = [dict(PLAN["hypotheses"][0])]
    swapped[0] |= {"supported_if": "diff(gated, plain) > 0", "falsified_if": "diff(gated, plain) < 0"}
    for place, folder in enumerate(store.root.glob("*-seed*")):
        score = 2.0 + 0.1 * folder.name.startswith("plain") + 0.001 * place**2
        shutil.rmtree(folder)
        store.run(
            folder.name.split("-")[0],
            int(folder.name.split("-seed")[1][0]),
            val_bpb=score,
            val_bpb_best=score,
            started_at=store.lock.current.at,
        )
    rewrite_later = (datetime.now(UTC) + LATER).isoformat(timespec="seconds")
    store.edit_plan("hypotheses", value=swapped)
    assert main(["plan", "amend", store.name, "--reason", "typo", f"paths.results={store.folder / 'none'}"]) == 0
    rewrite_entries(store, lambda entries: entries[1].update(at=rewrite_later), first=1)
    assert store.lock.current.runs_existed == 0
    assert main(["report", store.name]) == 0
    verdict = json.loads((store.root / "verdicts.json").read_text())["verdicts"][0]
    assert verdict["verdict"] in ("DEVIATED", "INADMISSIBLE")
    assert "amended when" in verdict["reason"]


def test_the_report_chooses_what_the_sweep_chooses_when_a_diverged_cell_ran_again(finished, tmp_path, monkeypatch):
    """A cell that diverged has its result. ``lmexp run arm=.. seed=..`` can run it again; that changes no choice."""
    from lmexp.analysis.cells import with_populations
    from lmexp.analysis.sweeps import sweep_of
    from lmexp.evidence import counted_rows
    from lmexp.stages import choose

    store = copied(finished, TWO_STAGES, tmp_path, monkeypatch)
    folder = store.of("adamw-high", 0)
    results.set_attempt_aside(folder)
    reseal(folder / "attempts" / "1", status="diverged", val_bpb=None)
    (folder / "attempts" / "1" / "DONE").rename(folder / "attempts" / "1" / "FAILED")
    store.run("adamw-high", 0)
    plan = store.lock.plan()
    runs = with_populations(plan, results.read_runs(store.root), store.lock)
    swept = runs[runs["seed"].isin(plan.seeds)]
    used = swept[swept["status"] == "ok"].set_index(["arm", "seed"])
    assert sweep_of(plan, used, swept).choice == choose(plan, counted_rows(store.lock, store.root))
    assert sweep_of(plan, used, swept).choice.chosen["adamw"] == "adamw-low"


def test_runs_of_a_lock_that_was_replaced_are_not_done(store):
    """They count for nothing under the new lock, so the sweep must not pass them over."""
    assert store.compose("plain", 0).state == "done"
    store.lock_path.unlink()
    store.edit_plan("question", value="Another?")
    assert lock_plan(store.name, []) == 0
    assert store.compose("plain", 0).state == "missing"


def test_diverging_settles_a_cell_of_the_sweep_and_none_of_the_confirmation(finished, tmp_path, monkeypatch):
    from lmexp.sweep import _is_settled

    store = copied(finished, TWO_STAGES, tmp_path, monkeypatch)
    for arm, seed, settled in (("adamw-low", 0, True), ("lion-low", 7, False)):
        folder = store.of(arm, seed)
        (folder / "DONE").rename(folder / "FAILED")
        reseal(folder, status="diverged")
        assert _is_settled(store.compose(arm, seed)) is settled


def test_a_report_of_very_many_runs_checks_seals_and_says_so(store, monkeypatch):
    monkeypatch.setattr("lmexp.evidence.MOST_WEIGHED", 1)
    monkeypatch.setattr("lmexp.status.MOST_WEIGHED", 1)
    folder = store.of("gated", 0)
    row = results.read_row(folder)
    results.write_run(folder, {**row, "val_bpb": 1.5, "val_bpb_best": 1.5})  # edited, and not sealed again
    assert _verdict(store) == "INADMISSIBLE"
    assert "only their seals and folders were checked" in (store.root / "report.html").read_text()
