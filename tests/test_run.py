"""Laws of a run: rows that repeat, the same batches and shared weights in every arm, endings that lose nothing."""

import contextlib
import dataclasses
import math

import mlx.core as mx
import numpy as np
import pandas as pd
import pytest
from mlx.utils import tree_flatten

from lmexp import results
from lmexp import run as run_room
from lmexp.compose import cell_overrides, compose_run
from lmexp.config import load
from lmexp.data import load_dataset
from lmexp.errors import UserError
from lmexp.model import language_model
from lmexp.plan import read_plan
from lmexp.run import build_model, run

# What may differ between two runs of one config: times, rates, and what follows from them.
TIMING = {
    "started_at", "train_seconds", "compile_seconds", "time_to_first_step_seconds", "eval_seconds", "tokens_per_second",
    "steps_per_second", "peak_memory_bytes", "probe_before", "probe_after", "seconds",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quick_probe(monkeypatch):
    """The probe takes a second and has tests of its own."""
    monkeypatch.setattr(run_room.platform, "probe", lambda: 1.0)


def carried_out(overrides, folder, observe=lambda observation: None):
    frozen = dataclasses.replace(compose_run(overrides), folder=results.make_writable(folder))
    return run(frozen, observe)


def without_timing(row):
    return {key: value for key, value in row.items() if key not in TIMING}


def test_a_run_that_checkpoints_computes_every_layer_again(small, monkeypatch):
    recomputed = []

    def noted(layer, x, keys):
        recomputed.append(layer)
        return layer.with_load(x, None, keys)

    monkeypatch.setattr(language_model, "recomputed", noted)
    config = compose_run([*small, "train.checkpoint=true"]).config
    dataset = load_dataset(config.data)
    model, batches = build_model(config, dataset), run_room.make_batches(config, dataset)
    stepper = run_room.make_stepper(config, model, compiled=False)
    stepper.wait(stepper.step(0, stepper.tokens(batches[0]), 0.01))
    assert recomputed == model.layers * (len(recomputed) // len(model.layers)) != []  # once for each part of the batch


def test_a_run_writes_every_row_and_file(small, tmp_path):
    seen = []
    row = carried_out(small, tmp_path / "run", seen.append)
    stored = results.read_row(tmp_path / "run")
    assert row["status"] == stored["status"] == "ok"
    unmeasured = {name for name, value in stored.items() if value is None}
    # A budget in steps has no seconds; an ad hoc run has no plan; nothing went wrong; training decodes nothing.
    assert unmeasured <= {
        "error",
        "warnings",
        "overrides",
        "plan_sha256",
        "lock_sha256",
        "budget_seconds",
        "git_commit",
        "git_dirty",
        "decode_tokens_per_second",
        "cache_bytes_per_token_per_layer",
        "decode_peak_memory_bytes",
        "longest_length_tokens",
    }
    assert (stored["steps"], stored["tokens"]) == (10, 10 * 4 * 12)
    assert stored["tokens_per_second"] == pytest.approx(480 / stored["train_seconds"])
    steps = results.read_steps(tmp_path / "run")
    assert list(steps["step"]) == sorted(set(steps["step"]))
    assert list(steps.loc[steps["val_bpb"].notna(), "step"]) == [5, 10]  # at equal fractions of the budget
    assert steps["val_bpb"].iloc[-1] == stored["val_bpb"]
    assert steps["val_bpb"].min() == stored["val_bpb_best"]
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"config.yaml", "run.parquet", "steps.parquet", "checkpoint", "DONE"}
    assert {"best.safetensors", "last.safetensors"} <= {path.name for path in (tmp_path / "run/checkpoint").iterdir()}
    assert [observation.phase for observation in seen if observation.phase == "training"]


def test_a_run_repeated_gives_the_same_rows(small, tmp_path):
    first, second = (carried_out([*small, "model.dropout=0.1"], tmp_path / name) for name in ("a", "b"))
    # Equal on a CPU. CUDA adds the gradients of a repeated token in any order: the last bits of a figure may differ.
    tolerance = 0.0 if mx.default_device() == mx.cpu else 1e-6
    assert set(first) == set(second)
    for name, value in without_timing(first).items():
        same = pytest.approx(second[name], rel=tolerance, abs=0) if isinstance(value, float) else second[name]
        assert value == same, name
    steps = [results.read_steps(tmp_path / name).drop(columns=list(TIMING), errors="ignore") for name in ("a", "b")]
    pd.testing.assert_frame_equal(*steps, check_exact=tolerance == 0.0, rtol=tolerance)


def test_compiling_changes_no_figure(small, tmp_path):
    plain = carried_out([*small, "compile=none"], tmp_path / "plain")
    compiled = carried_out([*small, "compile=step_eval"], tmp_path / "compiled")
    # Fused kernels round differently in the last bit, over ten steps.
    assert compiled["val_bpb"] == pytest.approx(plain["val_bpb"], rel=1e-5)
    assert compiled["test_bpb"] == pytest.approx(plain["test_bpb"], rel=1e-5)


def test_scores_are_those_of_the_right_weights_on_the_right_text(small, tmp_path):
    """A rate that is far too high at the end makes the last weights worse than the best."""
    overrides = [
        *small,
        "budget.steps=60",
        "budget.evaluations=60",
        "schedule=constant",
        "optimizer.lr=0.6",
    ]
    row = carried_out(overrides, tmp_path / "run")
    assert row["step_at_best"] < 60
    assert row["val_bpb_best"] < row["val_bpb"]
    config = load(tmp_path / "run").config
    dataset = load_dataset(config.data)

    def score(weights, split):
        model = build_model(config, dataset)
        model.load_weights(str(tmp_path / "run" / "checkpoint" / weights))
        return run_room.make_judge(config, dataset, model, split, compiled=False)().bits_per_byte

    # The same weights on the same text: equal but for the order of float32 sums.
    assert row["val_bpb"] == pytest.approx(score("last.safetensors", dataset.val), rel=1e-5)
    assert row["val_bpb_best"] == pytest.approx(score("best.safetensors", dataset.val), rel=1e-5)
    assert row["test_bpb"] == pytest.approx(score("best.safetensors", dataset.test), rel=1e-5)
    assert score("best.safetensors", dataset.test) != pytest.approx(score("best.safetensors", dataset.val), rel=1e-4)


def test_the_schedule_sets_the_rate(small, tmp_path):
    carried_out([*small, "schedule=linear", "schedule.warmup=0", "schedule.decay_from=0"], tmp_path / "run")
    steps = results.read_steps(tmp_path / "run")
    peak = compose_run(small).config.optimizer.lr
    assert list(steps["lr"]) == pytest.approx([peak * (1 - (step - 1) / 10) for step in steps["step"]])


def test_compilation_is_charged_only_when_asked(small, tmp_path):
    seconds = [
        *small,
        "budget=seconds",
        "budget.steps=null",
        "budget.seconds=2",
        "budget.evaluations=1",
        "compile=step",
    ]
    free = carried_out(seconds, tmp_path / "free")
    charged = carried_out([*seconds, "budget.charge_compile=true"], tmp_path / "charged")
    assert free["tokens"] / free["tokens_per_second"] == pytest.approx(free["train_seconds"])
    stepping = charged["train_seconds"] - charged["compile_seconds"]
    assert charged["tokens"] / charged["tokens_per_second"] == pytest.approx(stepping)
    assert charged["train_seconds"] == pytest.approx(2, abs=0.2)


def test_peak_memory_is_that_of_training(small, tmp_path):
    before = mx.zeros((64, 1024, 1024))
    mx.eval(before)
    del before
    peak = carried_out([*small, "data.batch_size=1"], tmp_path / "run")["peak_memory_bytes"]
    # Neither the 256 MiB of before, nor what the judge needs for 8,192 tokens at once (8 MiB of logits alone).
    assert 0 < peak < 8 << 20


def test_the_device_is_held_while_it_is_measured(small, tmp_path, monkeypatch):
    events = []

    @contextlib.contextmanager
    def lock(on_wait):
        events.append("held")
        yield
        events.append("free")

    monkeypatch.setattr(run_room.platform, "device_lock", lock)
    monkeypatch.setattr(run_room.platform, "probe", lambda: events.append("probe") or 1.0)
    carried_out(small, tmp_path / "run", lambda observation: events.append(observation.phase))
    held = events[events.index("held") : events.index("free")]
    assert held.count("probe") == events.count("probe") == 2
    assert set(events) - set(held) == {"preparing the text", "free"}


def test_a_text_that_changed_after_freezing_is_refused(small, text, tmp_path):
    frozen = dataclasses.replace(compose_run(small), folder=results.make_writable(tmp_path / "run"))
    text.write_text(text.read_text().replace("fox", "dog"))
    with pytest.raises(UserError, match="changed after this run was frozen"):
        run(frozen, lambda observation: None)


def test_training_beats_the_untrained_model(small, tmp_path):
    row = carried_out([*small, "budget.steps=60", "optimizer.lr=0.01"], tmp_path / "run")
    assert row["val_bpb"] < math.log2(256) - 2  # an untrained model of bytes needs 8 bits each
    assert row["test_bpb"] < math.log2(256) - 2


def test_every_arm_sees_the_same_batches_and_shares_its_weights(small):
    plan = read_plan("gpt_to_llama")
    user = [item for item in small if not item.startswith("paths.")] + ["model.n_heads=8", "budget.seconds=null"]
    batches, weights = {}, {}
    for arm in plan.arms:
        config = compose_run(cell_overrides(plan, arm, 1, user)).config
        dataset = load_dataset(config.data)
        made = run_room.make_batches(config, dataset)
        batches[arm] = [made[k] for k in (0, 3, 1000)]
        weights[arm] = dict(tree_flatten(build_model(config, dataset).trainable_parameters()))
    for arm in plan.arms:
        for ours, theirs in zip(batches[arm], batches["baseline"], strict=True):
            assert np.array_equal(ours.inputs, theirs.inputs)
            assert np.array_equal(ours.targets, theirs.targets)
        shared = {
            path
            for path, weight in weights[arm].items()
            if path in weights["baseline"] and weight.shape == weights["baseline"][path].shape
        }
        assert len(shared) >= 5, arm
        for path in shared:
            assert mx.array_equal(weights[arm][path], weights["baseline"][path]).item(), (arm, path)
    other_seed = compose_run(cell_overrides(plan, "baseline", 2, user)).config
    assert not np.array_equal(run_room.make_batches(other_seed, dataset)[0].inputs, batches["baseline"][0].inputs)


def test_a_diverged_run_keeps_its_rows(small, tmp_path):
    row = carried_out([*small, "optimizer=sgd", "optimizer.lr=1e30", "optimizer.clip_norm=1e30"], tmp_path / "run")
    assert row["status"] == "diverged"
    assert "finite" in row["error"]
    stored = results.read_row(tmp_path / "run")
    assert stored["steps"] > 0
    assert stored["val_bpb"] is None
    assert len(results.read_steps(tmp_path / "run")) > 0
    assert results.state(tmp_path / "run") == "failed"


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("[malloc] Unable to allocate 9 bytes."), "oom"), (ValueError("a bug"), "failed")],
)
def test_a_crash_is_a_row_with_its_traceback(small, tmp_path, monkeypatch, error, status):
    def crash(*arguments):
        raise error

    monkeypatch.setattr(run_room, "load_dataset", crash)
    assert carried_out(small, tmp_path / "run")["status"] == status
    assert "Traceback" in (tmp_path / "run" / "stderr.txt").read_text()
    assert results.state(tmp_path / "run") == "failed"


def test_an_interrupted_run_keeps_what_it_measured(small, tmp_path):
    def interrupt(observation):
        if (observation.step or 0) >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carried_out([*small, "budget.steps=100000"], tmp_path / "run", interrupt)
    row = results.read_row(tmp_path / "run")
    assert row["status"] == "interrupted"
    assert row["steps"] >= 3
    assert results.state(tmp_path / "run") == "failed"


def test_an_attempt_that_failed_is_kept_when_the_run_succeeds(small, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run_room, "load_dataset", lambda spec: 1 / 0)
        carried_out(small, tmp_path / "run")
    assert carried_out(small, tmp_path / "run")["status"] == "ok"
    assert results.read_row(tmp_path / "run" / "attempts" / "1")["status"] == "failed"


def test_a_budget_below_one_step_is_refused(small, tmp_path):
    with pytest.raises(UserError, match="does not hold a single step"):
        carried_out([*small, "budget=tokens", "budget.steps=null", "budget.tokens=5"], tmp_path / "run")


def test_no_compiler_falls_back_with_a_warning(small, tmp_path, monkeypatch, capsys):
    if mx.default_device() != mx.cpu:
        return  # only the CPU backend compiles with the machine's own compiler
    monkeypatch.setattr(run_room.platform, "has_cpp_compiler", lambda: False)
    row = carried_out([*small, "compile=step_eval"], tmp_path / "run")
    assert row["status"] == "ok"
    assert "not compiled" in row["warnings"]
    assert "not compiled" in capsys.readouterr().err


def test_a_text_too_short_is_one_sentence(small, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("too short")
    with pytest.raises(UserError, match="short"):
        carried_out([*small, f"data.path={short}"], tmp_path / "run")


@pytest.mark.parametrize("seconds", [0.7, 1.5])
def test_a_budget_of_seconds_is_kept_on_the_real_clock(small, tmp_path, seconds):
    overrides = [*small, "budget=seconds", "budget.steps=null", f"budget.seconds={seconds}"]
    row = carried_out(overrides, tmp_path / "run")
    # One step takes milliseconds; a shared machine may stall the last one by up to 50 ms.
    assert seconds - 0.1 <= row["train_seconds"] <= seconds + 0.05
    assert row["steps"] > 1
