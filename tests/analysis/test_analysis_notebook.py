"""The notebook runs from top to bottom on generated rows, and is committed without outputs."""

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from analysis_rows import make_plan, make_runs, make_steps
from nbclient import NotebookClient

import lmexp.analysis
from lmexp.plan import read_plan
from lmexp.results import write_run, write_steps

NOTEBOOKS = sorted((Path(lmexp.analysis.__file__).parent / "notebooks").glob("*.ipynb"))


def store(root, plan):
    runs = make_runs(plan)
    steps = make_steps(runs, n_points=12, n_evaluations=6)
    whole = {"seed", "n_params", "steps", "peak_memory_bytes"}
    for row in runs.drop(columns="folder").to_dict("records"):
        folder = root / plan.name / row["run_id"]
        folder.mkdir(parents=True)
        known = {name: value for name, value in row.items() if not pd.isna(value)}
        write_run(folder, {name: int(value) if name in whole else value for name, value in known.items()})
        points = steps[row["run_id"]][["run_id", "seconds", "progress", "val_bpb"]].replace({np.nan: None})
        write_steps(folder, points.to_dict("records"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_generated_rows(path, tmp_path, monkeypatch):
    real = read_plan(path.stem)
    store(tmp_path, make_plan(name=real.name, arms=real.arms, seeds=real.seeds, content=real.content))
    monkeypatch.setenv("LMEXP_RESULTS", str(tmp_path))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):  # nothing outside the test's own folder
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    assert shown.count("<svg") == 4
    assert "FALSIFIED" in shown


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_committed(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
