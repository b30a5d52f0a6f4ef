"""Weights that lie in two long vectors mean what weights in many arrays mean."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_specs import GPT, LLAMA

from lmexp.model import cuda
from lmexp.model.initial import initialise
from lmexp.model.language_model import LanguageModel
from lmexp.train import masters
from lmexp.train.masters import Packed, Separate
from lmexp.train.objective import next_token_loss
from lmexp.train.optimizer import ELEMENTWISE
from lmexp.train.spec import OptimizerSpec, PrecisionSpec
from lmexp.train.step import Stepper, Tokens

VOCABULARY, TIME, BATCH = 19, 5, 8
OPTIONS = {
    "adamw": {"betas": [0.9, 0.95], "eps": 1e-8},
    "sgd": {"momentum": 0.9, "nesterov": False},
    "lion": {"betas": [0.9, 0.99]},
}
SPECS = {
    "biases": replace(GPT, n_heads=3, d_model=15, position="learned"),
    "untied": replace(LLAMA, n_heads=3, d_model=12, tie_embeddings=False),
    "experts": replace(LLAMA, experts=replace(LLAMA.experts, n_experts=4, width=10, balance_rate=0.05)),
}


def made_model(spec):
    model = LanguageModel(spec, VOCABULARY, 32, TIME)
    initialise(model, 3)
    return model


def batch(k):
    tokens = np.random.default_rng(k).integers(0, VOCABULARY, (BATCH, TIME + 1)).astype(np.int32)
    return Tokens(mx.array(tokens[:, :-1]), mx.array(tokens[:, 1:]))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("joins", [False, True])
def test_packing_loses_nothing_and_moves_nothing(monkeypatch, spec, joins):
    monkeypatch.setattr(cuda, "is_default", lambda: joins)
    model = made_model(spec)
    packed = Packed(model)
    given = dict(tree_flatten(model.trainable_parameters()))
    weights = packed.weights(mx.float32)
    assert sorted(path for unit in weights for path in unit.split("+")) == sorted(given)
    with packed.lent({unit: 2 * array for unit, array in weights.items()}):
        lent = dict(tree_flatten(model.trainable_parameters()))
    assert all(mx.array_equal(lent[path], 2 * array).item() for path, array in given.items())
    assert any("+" in unit for unit in weights) == joins
    monkeypatch.setattr(cuda, "is_default", lambda: False)  # laying them end to end is not the question here
    (gathered,) = packed.gathered(weights)
    assert all(mx.array_equal(gathered[name], packed.shares()[0][name]).item() for name in ("matrices", "vectors"))
    assert sum(vector.size for vector in packed.shares()[0].values()) == sum(array.size for array in given.values())


@pytest.mark.parametrize("layout", [Packed, lambda model: Separate(model, 1)])
def test_a_model_has_its_own_weights_back(monkeypatch, layout):
    monkeypatch.setattr(cuda, "is_default", lambda: True)
    model = made_model(SPECS["untied"])
    before = dict(tree_flatten(model.trainable_parameters()))
    made = layout(model)

    def interrupted():
        with made.lent(made.weights(mx.bfloat16)):
            assert model.embedding.weight.dtype == mx.bfloat16
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    after = dict(tree_flatten(model.trainable_parameters()))
    assert all(after[path] is array for path, array in before.items())
    assert model.layers[0].mixer.joined._lent is None


def test_maps_that_are_joined_lie_side_by_side(monkeypatch):
    monkeypatch.setattr(cuda, "is_default", lambda: True)
    model = made_model(SPECS["biases"])
    weights = Packed(model).weights(mx.float32)
    maps = [model.layers[1].mixer[name] for name in ("query", "key", "value")]
    names = [f"layers.1.mixer.{name}" for name in ("query", "key", "value")]
    for part, axis in (("weight", 1), ("bias", 0)):
        side_by_side = mx.concatenate([each[part].T for each in maps], axis=axis)
        assert mx.array_equal(weights["+".join(f"{name}.{part}" for name in names)], side_by_side)


def test_a_model_is_shown_its_weights_when_a_step_is_waited_for(monkeypatch):
    monkeypatch.setattr(masters, "packs", lambda optimizer: True)
    optimizer = OptimizerSpec("adamw", 0.01, 0.1, 1.0, 1, OPTIONS["adamw"])
    streams = [mx.default_stream(mx.default_device())]
    made = Stepper(made_model(SPECS["biases"]), next_token_loss, optimizer, PrecisionSpec("float32"), False, 3, streams)
    for k in range(2):
        made.wait(made.step(k, batch(k), 0.01))
        shown = Packed(made.model).state
        assert all(mx.array_equal(shown[name], held).item() for name, held in made.masters.state.items())


def test_decay_shrinks_matrices_only():
    packed = Packed(made_model(SPECS["biases"]))
    (share,) = packed.shares()
    decayed = packed.decayed(share, mx.array(0.75))
    np.testing.assert_allclose(decayed["matrices"], 0.75 * packed.shares()[0]["matrices"], rtol=1e-6)  # one rounding
    assert mx.array_equal(decayed["vectors"], packed.shares()[0]["vectors"]).item()


@pytest.mark.parametrize(("precision", "pieces"), [("float32", 1), ("float32", 2), ("bfloat16", 1)])
@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_both_layouts_take_the_same_steps(monkeypatch, spec, name, pieces, precision):
    case = (spec, name, pieces, precision)
    compiled = case == (SPECS["biases"], "adamw", 1, "float32")  # on a CPU such a case costs seconds

    def trained(is_packed):
        monkeypatch.setattr(masters, "packs", lambda optimizer: is_packed)
        optimizer = OptimizerSpec(name, 0.01, 0.1, 1.0, pieces, OPTIONS[name])
        made = Stepper(
            made_model(spec),
            next_token_loss,
            optimizer,
            PrecisionSpec(precision),
            compiled,
            3,
            [mx.default_stream(mx.default_device())],
        )
        assert isinstance(made.masters, Packed if is_packed else Separate)
        made.warm([batch(90)])
        results = [made.step(k, batch(k), 0.01) for k in range(4)]
        made.wait(*results)
        return [result.loss_nats.item() for result in results], dict(tree_flatten(made.model.parameters()))

    (losses, weights), (packed_losses, packed_weights) = trained(False), trained(True)
    # Elementwise the arithmetic is the same; only the norm is summed in another order (1e-7 of it), which Adam and SGD
    # carry on. A product that reads a matrix the other way rounds differently in bfloat16: by 0.4% of a gradient, so of
    # the 0.04 that four steps move a weight. Lion takes the sign of a gradient, and Adam something near it at first:
    # where one is next to nothing (a key's bias has none in exact arithmetic), a rounding turns a step around.
    is_low = precision == "bfloat16"
    turned_around = name == "lion" or (name == "adamw" and is_low)
    assert packed_losses == pytest.approx(losses, rel=1e-3 if turned_around else 1e-5)
    differences = mx.concatenate(
        [mx.abs(weight - packed_weights[path]).reshape(-1) for path, weight in weights.items()]
    )
    close = differences < (1e-3 if is_low else 1e-5)
    assert close.astype(mx.float32).mean().item() > (0.95 if turned_around else 1 - 1e-9)
