"""Laws of a sweep: blocks, fresh processes, crashes that cost one cell, every cell exactly once."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lmexp import platform, results, sweep
from lmexp.compose import value_of
from lmexp.config import load
from lmexp.errors import UserError
from lmexp.plan import read_plan
from lmexp.sweep import expand, plan_runs

PLAN = {
    "name": "tiny",
    "question": "Does the sweep keep its laws?",
    "design": {
        "base": [],
        "arms": {"plain": [], "wide": ["model.ffn=swiglu"]},
        "control": "plain",
        "seeds": [0, 1],
    },
    "metrics": {"primary": {"name": "val_bpb", "direction": "lower", "unit": "bits/byte"}},
    "analysis": {"alpha": 0.05, "omnibus": "blocked_anova", "contrasts": "dunnett_blocked", "effect_size": "hedges_g"},
}


@pytest.fixture
def plan_folder(tmp_path, small, monkeypatch):
    """A working directory with a plan of four cells of a few seconds each."""
    PLAN["design"]["base"] = [item for item in small if not item.startswith("paths.")]
    path = tmp_path / "experiments" / "tiny" / "plan.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(PLAN))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lmexp(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "lmexp", *arguments], capture_output=True, text=True, timeout=300, check=False, **options
    )


def test_cells_come_in_blocks_of_one_seed_with_shuffled_arms():
    plan = read_plan("gpt_to_llama")
    runs = expand(["experiment=gpt_to_llama"])
    seeds = [value_of("seed", run) for run in runs]
    arms = [[value_of("arm", run) for run in runs[start : start + 6]] for start in (0, 6, 12)]
    assert seeds == ["0"] * 6 + ["1"] * 6 + ["2"] * 6
    assert all(sorted(block) == sorted(plan.arms) for block in arms)
    assert len({tuple(block) for block in arms}) == 3  # three seeds, three orders
    assert expand(["experiment=gpt_to_llama"]) == runs


def test_the_order_follows_from_the_plan(plan_folder):
    before = expand(["experiment=tiny"])
    orders = set()
    for question in "abcdefgh":
        content = {**PLAN, "question": question}
        (plan_folder / "experiments/tiny/plan.yaml").write_text(yaml.safe_dump(content))
        orders.add(tuple(value_of("arm", run) for run in expand(["experiment=tiny"])))
    assert len(orders) > 1
    assert sorted(expand(["experiment=tiny"])) == sorted(before)


def test_some_cells_of_a_plan_keep_their_order():
    every = expand(["experiment=gpt_to_llama"])
    some = expand(["experiment=gpt_to_llama", "arm=rope,gqa", "seed=2,0"])
    assert some == [run for run in every if value_of("arm", run) in ("rope", "gqa") and value_of("seed", run) in "02"]


def test_an_ad_hoc_sweep_is_the_product_in_blocks():
    runs = expand(["model=gpt_tiny,llama_tiny", "optimizer.lr=1e-3,3e-4", "seed=0,1"])
    assert len(runs) == 8
    assert len({tuple(run) for run in runs}) == 8
    assert [value_of("seed", run) for run in runs] == ["0"] * 4 + ["1"] * 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment=nothing"], "Unknown experiment"),
        (["experiment=gpt_to_llama", "arm=swigl"], "did you mean 'swiglu'"),
        (["seed=0,one"], "whole number"),
        (["seed=[0"], "see `lmexp run --help`"),
    ],
)
def test_mistakes_are_found_before_anything_runs(arguments, words):
    with pytest.raises(UserError, match=words):
        expand(arguments)


def test_a_sweep_runs_every_cell_and_a_second_runs_none(plan_folder):
    first = lmexp("run", "-m", "experiment=tiny", "seed=1")
    assert first.returncode == 0, first.stderr
    rows = results.read_runs(plan_folder / "results" / "tiny")
    assert sorted(zip(rows["arm"], rows["seed"], strict=True)) == [("plain", 1), ("wide", 1)]
    assert set(rows["status"]) == {"ok"}
    started = dict(zip(rows["run_id"], rows["started_at"], strict=True))
    second = lmexp("run", "-m", "experiment=tiny", "seed=1")
    assert second.returncode == 0
    again = results.read_runs(plan_folder / "results" / "tiny")
    assert dict(zip(again["run_id"], again["started_at"], strict=True)) == started
    status = lmexp("status", "tiny")
    assert "2 done" in status.stdout
    report = lmexp("report", "tiny")
    assert report.returncode == 0, report.stderr
    assert (plan_folder / "results" / "tiny" / "report.html").exists()


def test_a_crashing_cell_costs_that_cell_alone(plan_folder):
    PLAN["design"]["arms"]["broken"] = ["optimizer=sgd", "optimizer.lr=1e30", "optimizer.clip_norm=1e30"]
    (plan_folder / "experiments/tiny/plan.yaml").write_text(yaml.safe_dump(PLAN))
    del PLAN["design"]["arms"]["broken"]
    outcome = lmexp("run", "-m", "experiment=tiny", "arm=broken,plain", "seed=0")
    assert outcome.returncode == 1
    rows = results.read_runs(plan_folder / "results" / "tiny").set_index("arm")["status"]
    assert rows.to_dict() == {"broken": "diverged", "plain": "ok"}
    assert "diverged" in outcome.stdout
    assert "broken" in lmexp("status", "tiny").stdout


def test_a_worker_that_is_killed_is_a_row_that_says_so(plan_folder):
    driver = subprocess.Popen(
        [sys.executable, "-m", "lmexp", "run", "-m", "experiment=tiny", "arm=plain", "seed=0", "budget.steps=1000000"],
        stdout=subprocess.PIPE,
        text=True,
    )
    worker = wait_for_worker(driver)
    wait_for(lambda: list((plan_folder / "results").glob("tiny/*/checkpoint")))
    os.kill(worker, signal.SIGKILL)
    assert driver.wait(timeout=60) == 1
    row = results.read_runs(plan_folder / "results" / "tiny").iloc[0]
    assert row["status"] == "failed"
    assert "SIGKILL" in row["error"]


def test_a_worker_that_dies_before_it_begins_leaves_the_config_that_it_was_given(plan_folder, monkeypatch):
    [run] = plan_runs("tiny", ["arm=plain", "seed=0"])
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    run.folder.mkdir(parents=True)
    child = sweep._start(run)
    child.process.wait()
    sweep._record_silent_death(child)
    assert results.read_row(run.folder)["status"] == "failed"
    assert load(run.folder).config == run.config
    assert results.edited_files(run.folder) == []


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_single_run_that_is_stopped_keeps_its_rows(plan_folder, small, stop):
    command = [sys.executable, "-m", "lmexp", "run", *small, "budget.steps=1000000", "seed=5"]
    stopped = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list((plan_folder / "results").glob("adhoc/*/checkpoint")))
    time.sleep(0.5)
    for _ in range(3):  # a terminal, and each program above that passes it on
        stopped.send_signal(stop)
        time.sleep(0.05)
    assert stopped.wait(timeout=60) == 130
    assert "interrupted" in stopped.stderr.read()
    row = results.read_runs(plan_folder / "results" / "adhoc").iloc[0]
    assert row["status"] == "interrupted"
    assert row["steps"] > 0


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_a_worker_starts_in_the_environment_of_a_process_that_computes(plan_folder, monkeypatch):
    monkeypatch.setattr(sweep.platform, "environment", lambda: {**os.environ, "FOR_THE_WORKER": "yes"})
    child = sweep._start(plan_runs("tiny", ["seed=0", "arm=plain"])[0])
    environment = Path(f"/proc/{child.process.pid}/environ")
    wait_for(environment.read_bytes)  # empty while the kernel still replaces the program
    found = environment.read_bytes()
    sweep._end(child)
    assert b"FOR_THE_WORKER=yes" in found


def test_an_interrupt_ends_the_worker_and_keeps_its_rows(plan_folder):
    driver = subprocess.Popen(
        [sys.executable, "-m", "lmexp", "run", "-m", "experiment=tiny", "arm=plain", "seed=0", "budget.steps=1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_worker(driver)
    wait_for(lambda: list((plan_folder / "results").glob("tiny/*/checkpoint")))
    time.sleep(1.0)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=60) == 130
    assert "interrupted" in driver.stderr.read()
    row = results.read_runs(plan_folder / "results" / "tiny").iloc[0]
    assert row["status"] == "interrupted"
    assert row["steps"] > 0


def test_a_sweep_killed_at_a_random_moment_completes_with_every_cell_once(plan_folder):
    moment = random.uniform(1.0, 8.0)  # another moment every time: the law holds at all of them
    command = [sys.executable, "-m", "lmexp", "run", "-m", "experiment=tiny", "seed=0"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    time.sleep(moment)
    driver.kill()
    driver.wait()
    done_before = [path.parent for path in (plan_folder / "results").glob("tiny/*/DONE")]
    markers = {folder: (folder / "DONE").stat().st_mtime_ns for folder in done_before}
    resumed = lmexp("run", "-m", "experiment=tiny", "seed=0")
    assert resumed.returncode == 0, (moment, resumed.stderr)
    for folder, written in markers.items():
        assert (folder / "DONE").stat().st_mtime_ns == written  # what was done was not done again
    runs = plan_runs("tiny", ["seed=0"])
    assert [results.state(run.folder) for run in runs] == ["done"] * 2
    assert len(list((plan_folder / "results").glob("tiny/*/run.parquet"))) == 2
    assert not list(Path(plan_folder / "results").rglob("*.tmp*"))


def test_two_sweeps_at_once_share_the_work(plan_folder):
    command = [sys.executable, "-m", "lmexp", "run", "-m", "experiment=tiny", "seed=0"]
    drivers = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [driver.wait(timeout=200) for driver in drivers] == [0, 0]
    folders = [run.folder for run in plan_runs("tiny", ["seed=0"])]
    assert all(results.state(folder) == "done" for folder in folders)
    assert not any((folder / "attempts").exists() for folder in folders)


def test_a_sweep_takes_other_cells_while_another_process_is_at_one(plan_folder):
    runs = plan_runs("tiny", ["seed=0"])
    runs[0].folder.mkdir(parents=True)
    with results.claim(runs[0].folder):
        driver = subprocess.Popen([sys.executable, "-m", "lmexp", "run", "-m", "experiment=tiny", "seed=0"])
        wait_for(lambda: runs[1].is_done)
        time.sleep(1.0)
        assert driver.poll() is None  # it waits for the cell that is not its own
        assert not runs[0].is_done
    assert driver.wait(timeout=60) == 0
    assert runs[0].is_done  # whoever was at it has left without a row, so the driver ran it


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_sweep_starts_nothing_while_its_device_is_held(plan_folder, device):
    [run] = plan_runs("tiny", ["seed=0", "arm=plain"])
    command = [sys.executable, "-m", "lmexp", "run", "-m", "experiment=tiny", "seed=0", "arm=plain"]
    with platform.device_lock(device):
        driver = subprocess.Popen(command)
        wait_for(run.folder.parent.exists)
        time.sleep(2.0)
        assert driver.poll() is None
        assert not run.folder.exists()
    assert driver.wait(timeout=60) == 0
    assert run.is_done


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_worker(driver):
    """Return the process id of the driver's worker."""

    def children():
        listing = subprocess.run(["ps", "-o", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
        return [int(line.split()[0]) for line in listing.splitlines() if line.split()[1] == str(driver.pid)]

    wait_for(children)
    return children()[0]
