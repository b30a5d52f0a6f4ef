"""The notebooks run from top to bottom on generated rows of a locked plan, and are committed without outputs."""

import ast
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from analysis_rows import make_runs, make_steps
from nbclient import NotebookClient

import lmexp.analysis
from lmexp.lock import append, sealed
from lmexp.plan import find_plans, read_plan
from lmexp.results import write_run, write_steps
from lmexp.stages import choose

NOTEBOOKS = {path.stem: path for path in (Path(lmexp.analysis.__file__).parent / "notebooks").glob("*.ipynb")}
WHOLE_NUMBERS = {"seed", "n_params", "steps", "peak_memory_bytes"}


def locked_here(name, root, monkeypatch):
    """Return the plan, copied into the working directory and locked there before any of the rows was made."""
    source = find_plans()[name]
    monkeypatch.chdir(root)
    copy = root / "experiments" / name / "plan.yaml"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(source.read_bytes())
    plan = read_plan(name)
    lock = append(
        plan,
        sealed(
            kind="lock",
            at="2026-11-01T00:00:00+00:00",
            reason=None,
            runs_existed=0,
            plan=plan.content,
            cells={},
            lmexp_version="0.1.0",
            git_commit=None,
            previous=None,
        ),
    )
    return plan, lock.current.sha256


def rows_of(plan, lock_sha256):
    """Rows of the plan's own measures: arms differ by little random amounts, launches by a hundredth."""
    sweep = with_measures(plan, make_runs(plan))
    if plan.confirmation is None:
        return sweep.assign(lock_sha256=lock_sha256)
    chosen = choose(plan, sweep.to_dict("records")).chosen.values()
    arms = {arm: plan.arms[arm] for arm in plan.arms if arm in chosen}
    fresh = with_measures(plan, make_runs(replace(plan, arms=arms, seeds=plan.confirmation.seeds)))
    fresh["run_id"] += "-fresh"
    fresh["started_at"] = fresh["started_at"].str.replace("2026-11-02", "2026-11-09")  # the sweep ended before
    return pd.concat([sweep, fresh], ignore_index=True).assign(lock_sha256=lock_sha256)


def with_measures(plan, runs):
    generator = np.random.Generator(np.random.PCG64(11))
    place = runs["arm"].map({arm: place for place, arm in enumerate(plan.arms)})

    def speed(scale, size=place / 4):
        return scale * (1 + size) * generator.normal(1, 0.01, len(runs))

    loss = runs["val_bpb"] - 0.05 * place % 0.17 + generator.normal(0, 0.002, len(runs))
    runs = runs.assign(val_bpb=loss, val_bpb_best=loss, test_bpb=loss + 0.01, steps=149)
    runs = runs.assign(compile_seconds=speed(2), time_to_first_step_seconds=speed(5), steps_per_second=speed(9))
    # Of three sizes in turn: compiling the step saves a fifth of the time, and evaluation another.
    left = runs["arm"].map(lambda arm: 0.6 if arm.startswith("step_eval") else 0.8 if arm.startswith("step") else 1.0)
    return runs.assign(train_seconds=speed(30, place % 3) * left, eval_seconds=speed(30, place % 3) * left)


def stored(root, plan, runs):
    steps = make_steps(runs, n_points=120, n_evaluations=6)
    generator = np.random.Generator(np.random.PCG64(5))
    for row in runs.drop(columns="folder").to_dict("records"):
        folder = root / plan.name / row["run_id"]
        folder.mkdir(parents=True)
        known = {name: value for name, value in row.items() if not pd.isna(value)}
        write_run(folder, {name: int(value) if name in WHOLE_NUMBERS else value for name, value in known.items()})
        points = steps[row["run_id"]][["run_id", "progress", "val_bpb"]].replace({np.nan: None})
        points["step"], points["seconds"] = range(120), generator.normal(0.2, 0.004, 120).cumsum()
        write_steps(folder, points.to_dict("records"))


def shown_by(path):
    """Run the cells in this process and return what each shows: a second where a kernel takes ten.

    As in a kernel, the value of a last line that is an expression is what a cell shows.
    """
    names, shown = {}, []
    with pd.option_context("display.max_rows", 60, "display.max_colwidth", 50):  # what a cell sets ends with it
        for cell in nbformat.read(path, as_version=4).cells:
            value = run(cell.source, names) if cell.cell_type == "code" else None
            shown += [] if value is None else [value._repr_html_()]
    return shown


def run(source, names):
    body = ast.parse(source).body
    last = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return None if last is None else eval(compile(last, "cell", "eval"), names)


def prepared(name, root, monkeypatch):
    plan, lock_sha256 = locked_here(name, root, monkeypatch)
    monkeypatch.setenv("LMEXP_RESULTS", str(root / "results"))
    return plan, rows_of(plan, lock_sha256)


def test_every_experiment_has_a_notebook():
    assert set(NOTEBOOKS) == {"gpt_to_llama", "compile_coverage", "optimizer_sweep", "mla_kv_cache", "five_minutes"}


def test_a_notebook_runs_in_a_kernel(tmp_path, monkeypatch):
    plan, runs = prepared("gpt_to_llama", tmp_path, monkeypatch)
    stored(tmp_path / "results", plan, runs)
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):  # nothing outside the test's own folder
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    notebook = nbformat.read(NOTEBOOKS["gpt_to_llama"], as_version=4)
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    assert shown.count('role="img"') == 4
    assert shown.count("FALSIFIED") + shown.count("INCONCLUSIVE") + shown.count("SUPPORTED") >= 4


@pytest.mark.parametrize(
    ("name", "n_pictures", "words"),
    [
        ("compile_coverage", 1, ["share(step-small, none-small, step_eval-small)", "SUPPORTED", "of 119 windows"]),
        ("optimizer_sweep", 4, ["muon-2e-2", "sgd_beyond-1e-1", "improvement(lion)", "held out"]),
        ("five_minutes", 4, ["large_vocabulary", "improvement(best, metric=test_bpb)"]),
    ],
)
def test_a_notebook_runs(name, n_pictures, words, tmp_path, monkeypatch):
    plan, runs = prepared(name, tmp_path, monkeypatch)
    stored(tmp_path / "results", plan, runs)
    shown = "".join(shown_by(NOTEBOOKS[name]))
    assert shown.count('role="img"') == n_pictures
    assert [word for word in words if word not in shown] == []
    assert "EXPLORATORY" not in shown  # the rows follow the lock, so there are verdicts
    assert "INADMISSIBLE" not in shown


def test_the_notebook_for_mla_runs(tmp_path, monkeypatch):
    plan, runs = prepared("mla_kv_cache", tmp_path, monkeypatch)
    generator = np.random.Generator(np.random.PCG64(2))
    latent = runs["arm"].str.startswith("mla")
    for metric, scale, factor in (
        ("decode_tokens_per_second", 90, 1.3),
        ("cache_bytes_per_token_per_layer", 4096, 0.14),
        ("decode_peak_memory_bytes", 2e8, 0.6),
        ("longest_length_tokens", 1e5, 4),
    ):
        runs[metric] = scale * np.where(latent, factor, 1) * generator.normal(1, 0.01, len(runs))
    stored(tmp_path / "results", plan, runs)
    shown = "".join(shown_by(NOTEBOOKS["mla_kv_cache"]))
    assert shown.count("SUPPORTED") == 2 * 2  # H1 and H3, and the same without intervals beside each
    assert shown.count("FALSIFIED") == 2
    assert "ratio(mla-8k, mha-8k, metric=longest_length_tokens)" in shown


@pytest.mark.parametrize("path", NOTEBOOKS.values(), ids=lambda path: path.stem)
def test_no_outputs_are_committed(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
