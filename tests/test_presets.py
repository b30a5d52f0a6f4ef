"""Every preset that is small enough for a test trains, is judged, and continues a text."""

import dataclasses
import math

import pytest

from lmexp import results
from lmexp import run as run_room
from lmexp.compose import compose_run
from lmexp.decoding.options import Sampling
from lmexp.files import installed_folder
from lmexp.generate import load_run, stream_text
from lmexp.run import run

TINY = sorted(
    path.stem
    for path in (installed_folder("conf") / "model").glob("[!_]*.yaml")
    if path.stem == "microgpt" or path.stem.endswith("_tiny")
)


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_preset_trains_and_generates(name, small, tmp_path, monkeypatch):
    monkeypatch.setattr(run_room.platform, "probe", lambda: 1.0)  # it takes a second and has tests of its own
    overrides = [item for item in small if not item.startswith("model")]
    overrides += [f"model={name}", "budget.steps=2", "budget.evaluations=1"]
    frozen = dataclasses.replace(compose_run(overrides), folder=results.make_writable(tmp_path / name))
    row = run(frozen, lambda observation: None)
    assert row["status"] == "ok"
    assert 0 < row["train_loss_nats"] < math.log(256) + 0.5, "two steps leave a model near chance or better"
    model, tokenizer = load_run(tmp_path / name)
    assert len("".join(stream_text(model, tokenizer, "line", 4, Sampling(temperature=1.0)))) <= 4
