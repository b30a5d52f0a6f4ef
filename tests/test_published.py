"""What is published still follows its lock, and its rows still say what its report says."""

import json
import shutil
from pathlib import Path

import pytest

from lmexp.cli import main
from lmexp.verify import verify

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
PUBLISHED = sorted(folder.name for folder in EXPERIMENTS.iterdir() if (folder / "published").is_dir())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rows_follow_their_lock(name):
    found = verify(name, [f"paths.results={EXPERIMENTS / name / 'published'}"])
    assert found.is_clean, found.findings


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rows_give_the_published_verdicts(name, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(EXPERIMENTS / name / "published", results)
    record = results / name / "verdicts.json"
    stored = json.loads(record.read_text())
    record.unlink()
    assert main(["report", name, f"paths.results={results}"]) == 0
    judged = json.loads(record.read_text())
    assert judged["registered"]
    assert judged["joint_reading"] == stored["joint_reading"]
    assert [(found["id"], found["verdict"]) for found in judged["verdicts"]] == [
        (found["id"], found["verdict"]) for found in stored["verdicts"]
    ]
