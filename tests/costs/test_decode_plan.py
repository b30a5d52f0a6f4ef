"""A plan of decode runs from lock to verdict: they count without log points, and counts decide without spread."""

import json

import pytest
import yaml

from lmexp import results
from lmexp import run as run_room
from lmexp.cli import main
from lmexp.compose import cell_overrides, compose_run
from lmexp.plan import cells, read_plan
from lmexp.preregister import lock_plan
from lmexp.run import run
from lmexp.status import print_status, write_plan_report

CACHE = "cache_bytes_per_token_per_layer"
PLAN = {
    "name": "cached",
    "question": "Is the cache smaller?",
    "design": {
        "base": [],
        "arms": {"mha": [], "mla": ["model.layers=[mla]", "model.mla.kv_rank=6", "model.mla.rope_width=2"]},
        "control": "mha",
        "seeds": [0, 1],
    },
    "metrics": {
        "primary": {"name": "decode_tokens_per_second", "direction": "higher", "unit": "tokens/s", "sesoi": 0.05},
        "secondary": [CACHE, "decode_peak_memory_bytes"],
    },
    "hypotheses": [
        {
            "id": "H1",
            "claim": "it is",
            "supported_if": f"ratio(mla, mha, metric={CACHE}) < 0.26",
            "falsified_if": f"ratio(mla, mha, metric={CACHE}) > 0.26",
        }
    ],
    "analysis": {"alpha": 0.05, "omnibus": "none", "contrasts": "dunnett_blocked", "effect_size": "hedges_g"},
}


@pytest.fixture
def plan(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_room.platform, "probe", lambda: 1.0)
    path = tmp_path / "experiments" / "cached" / "plan.yaml"
    path.parent.mkdir(parents=True)
    base = [item for item in small if not item.startswith("paths")]
    base += ["data.context_length=16", "decode=benchmark", "decode.n_tokens=16", "decode.memory_limit_bytes=null"]
    content = {**PLAN, "design": {**PLAN["design"], "base": base}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return read_plan("cached")


def test_a_plan_of_decode_runs_is_registered_verified_and_judged(plan, capsys):
    assert lock_plan("cached", []) == 0
    for cell in cells(plan):
        frozen = compose_run(cell_overrides(plan, cell.arm, cell.seed, []))
        results.make_writable(frozen.folder)
        assert run(frozen, lambda _: None)["status"] == "ok"
    assert main(["plan", "verify", "cached"]) == 0
    assert "4 count" in capsys.readouterr().out
    print_status("cached", [])
    write_plan_report("cached", [])
    printed = capsys.readouterr().out
    assert "4 done" in printed
    assert "SUPPORTED" in printed
    root = frozen.folder.parent
    assert json.loads((root / "verdicts.json").read_text(encoding="utf-8"))
    report = (root / "report.html").read_text(encoding="utf-8")
    assert "0.25" in report  # 8 of 32 values a token, at every seed
    assert "No loss curve" not in report  # nobody trained, so none is missing


def test_a_decode_run_that_was_edited_counts_for_nothing(plan, capsys):
    lock_plan("cached", [])
    frozen = compose_run(cell_overrides(plan, "mla", 0, []))
    results.make_writable(frozen.folder)
    run(frozen, lambda _: None)
    row = results.read_row(frozen.folder)
    results.write_run(frozen.folder, {**row, CACHE: 1.0})
    assert main(["plan", "verify", "cached"]) == 1
    assert "run.parquet was edited" in capsys.readouterr().out
