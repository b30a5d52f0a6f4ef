"""The law of the first weights, on the six arms of the ablation."""

import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from numpy_model import some_tokens
from tiny_specs import GPT

from lmexp.model.initial import initialise
from lmexp.model.language_model import LanguageModel
from lmexp.model.spec import ModelSpec

BASELINE = replace(GPT, n_layers=3, n_heads=8, d_model=64, ffn_expansion=4.0)
ARMS = {
    "baseline": BASELINE,
    "gqa": replace(BASELINE, n_kv_heads=4),
    "swiglu": replace(BASELINE, ffn="swiglu"),
    "rmsnorm": replace(BASELINE, norm="rmsnorm", bias=False),
    "rope": replace(BASELINE, position="rope"),
    "llama": replace(BASELINE, n_kv_heads=4, ffn="swiglu", norm="rmsnorm", position="rope", bias=False),
}
OUTPUTS = ("mixer.output.weight", "feedforward.down.weight")


def weights(spec: ModelSpec, seed: int) -> dict[str, np.ndarray]:
    model = LanguageModel(spec, 90, 128, 16)
    initialise(model, seed)
    return {path: np.array(array) for path, array in tree_flatten(model.parameters())}


@pytest.mark.parametrize("arm", ARMS)
def test_a_shared_parameter_starts_equal_in_every_arm(arm):
    ours, theirs = weights(ARMS[arm], 7), weights(BASELINE, 7)
    shared = {path for path in ours if path in theirs and ours[path].shape == theirs[path].shape}
    for path in shared:
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)
    # Not vacuous: whatever the arm, these are shared.
    common = {"query.weight", "output.weight"} | ({"up.weight", "down.weight"} if ARMS[arm].ffn != "swiglu" else set())
    assert common <= {path.split(".", 3)[-1] for path in shared}
    assert "embedding.weight" in shared


def test_arms_name_the_same_thing_by_the_same_path():
    paths = {arm: set(weights(spec, 0)) for arm, spec in ARMS.items()}
    assert paths["gqa"] == paths["rope"] == paths["baseline"]
    assert paths["swiglu"] - paths["baseline"] == {
        f"layers.{i}.feedforward.gate.{w}" for i in range(3) for w in ("weight", "bias")
    }
    assert paths["rmsnorm"] < paths["baseline"]
    assert paths["llama"] < paths["swiglu"]


@pytest.mark.parametrize("arm", ARMS)
def test_every_parameter_follows_its_law(arm):
    """Deviation within 6 standard errors (1 / sqrt(2 n) relative), mean within 6 of its own."""
    for path, values in weights(ARMS[arm], 3).items():
        if path.endswith(".bias"):
            assert not values.any(), path
        elif "norm" in path:
            assert (values == 1).all(), path
        else:
            deviation = 0.02 / math.sqrt(2 * 3) if path.endswith(OUTPUTS) else 0.02
            assert values.std() == pytest.approx(deviation, rel=6 / math.sqrt(2 * values.size)), path
            assert abs(values.mean()) < 6 * deviation / math.sqrt(values.size), path
            fourth_moment = np.mean((values / deviation) ** 4)  # 3 for a normal law, 1.8 for a uniform one
            assert fourth_moment == pytest.approx(3, abs=6 * math.sqrt(96 / values.size)), path


def test_learned_positions_and_an_untied_head_are_drawn_too():
    spec = replace(BASELINE, position="learned", tie_embeddings=False)
    drawn = weights(spec, 0)
    for path in ("position.weight", "head.weight"):
        assert drawn[path].std() == pytest.approx(0.02, rel=6 / math.sqrt(2 * drawn[path].size))


def test_fixed_positions_are_as_large_as_a_fresh_embedding():
    model = LanguageModel(BASELINE, 90, 128, 16)
    rows = model.position(mx.zeros((1, 16, 64)), 0)
    # Sine squared and cosine squared add to 1 in every pair: the root mean square is exact.
    assert mx.sqrt(mx.mean(rows**2)).item() == pytest.approx(0.02, rel=1e-5)


def test_no_two_parameters_share_a_stream():
    drawn = weights(BASELINE, 0)
    squares = [values.ravel() for path, values in drawn.items() if values.shape == (64, 64)]
    correlations = np.corrcoef(np.stack(squares)) - np.eye(len(squares))
    assert len(squares) == 12
    assert np.abs(correlations).max() < 6 / math.sqrt(64 * 64)  # six standard errors


def test_the_seed_decides_and_nothing_else_does():
    mx.random.seed(1)
    first = weights(BASELINE, 5)
    mx.random.seed(2)
    again, other = weights(BASELINE, 5), weights(BASELINE, 6)
    for path, values in first.items():
        np.testing.assert_array_equal(again[path], values)
        if values.ndim == 2:
            assert not np.array_equal(other[path], values), path


def test_drawing_leaves_the_global_random_state_alone():
    model = LanguageModel(BASELINE, 90, 128, 16)
    before = np.array(mx.random.state[0])
    initialise(model, 0)
    mx.eval(model.parameters())
    np.testing.assert_array_equal(np.array(mx.random.state[0]), before)


def test_an_untrained_model_knows_nothing():
    """Logits are small at first, so its loss is within 0.05 nats of the uniform ln(vocab)."""
    for spec in ARMS.values():
        model = LanguageModel(spec, 29, 64, 16)
        initialise(model, 0)
        logits = np.array(model(mx.array(some_tokens(0, 16))))
        loss = -np.mean(logits[:, :, :29] - np.log(np.exp(logits).sum(-1, keepdims=True)))
        assert loss == pytest.approx(math.log(29), abs=0.05)
