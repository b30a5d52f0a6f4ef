"""A step by kernels of our own, as on a CUDA device, is the step by formulas."""

from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_specs import GPT, LLAMA

from lmexp.model import cuda, joined
from lmexp.model.initial import initialise
from lmexp.model.language_model import LanguageModel
from lmexp.train import masters
from lmexp.train.objective import next_token_loss
from lmexp.train.spec import OptimizerSpec, PrecisionSpec
from lmexp.train.step import Stepper, Tokens

VOCABULARY, TIME, BATCH = 19, 7, 6
OPTIMIZER = OptimizerSpec("adamw", 0.01, 0.1, 1.0, 1, {"betas": [0.9, 0.95], "eps": 1e-8})
EXPERTS = replace(LLAMA.experts, n_experts=4, width=10, n_shared=1)

NORM = {"norm", "norm_gradient", "column_sums"}
CASES = {
    "llama": (LLAMA, {}, NORM | {"turn", "side_by_side", "silu_gate", "silu_gate_gradient", "look_up"}),
    "gpt": (GPT, {}, NORM | {"side_by_side", "look_up"}),
    "geglu": (replace(LLAMA, ffn="geglu"), {}, {"gelu_gate", "gelu_gate_gradient"}),
    "dropout": (replace(LLAMA, dropout=0.2), {}, NORM),
    "experts": (replace(LLAMA, experts=EXPERTS), {}, {"silu_gate", "look_up"}),
    "checkpoints": (LLAMA, {"checkpoint": True}, NORM | {"turn", "side_by_side"}),
}


def trained(monkeypatch, spec, options, by_kernels):
    """Take four steps; return losses, norms of gradients, and weights."""
    with monkeypatch.context() as patched:
        patched.setattr(masters, "packs", lambda optimizer: by_kernels)
        patched.setattr(joined, "_LEAST_TOKENS", 1)
        if not by_kernels:
            patched.setattr(cuda, "is_default", lambda: False)
        model = LanguageModel(spec, VOCABULARY, 32, TIME)
        initialise(model, 3)
        model.train()
        streams = [mx.default_stream(mx.default_device())]
        objective = partial(next_token_loss, **options)
        stepper = Stepper(model, objective, OPTIMIZER, PrecisionSpec("float32"), False, 3, streams)
        found = []
        for k in range(4):
            tokens = np.random.default_rng(k).integers(0, VOCABULARY, (BATCH, TIME + 1)).astype(np.int32)
            result = stepper.step(k, Tokens(mx.array(tokens[:, :-1]), mx.array(tokens[:, 1:])), 0.01)
            stepper.wait(result)
            found.append((float(result.loss_nats), float(result.grad_norm)))
        return found, dict(tree_flatten(model.trainable_parameters()))


@pytest.mark.parametrize("name", CASES)
def test_a_step_by_kernels_is_the_step_by_formulas(monkeypatch, cuda_kernels, name):
    spec, options, kernels = CASES[name]
    found, weights = trained(monkeypatch, spec, options, by_kernels=True)
    assert kernels <= set(cuda_kernels)
    n_run = len(cuda_kernels)
    expected, plain = trained(monkeypatch, spec, options, by_kernels=False)
    assert len(cuda_kernels) == n_run
    # Some hundred float32 operations in another order, four steps long.
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert weights.keys() == plain.keys()
    # Adam makes a step of the rate out of any gradient: a key's bias, which has none but roundings, may go either way.
    differences = np.concatenate([np.abs(np.array(weights[path] - plain[path])).ravel() for path in plain])
    assert np.mean(differences < 1e-5) > 0.99
    assert differences.max() < 4 * 0.01
