"""The PyTorch peer is the same model and takes the same step: that is what makes its speed a comparison."""

from dataclasses import fields, replace

import mlx.core as mx
import numpy as np
import pytest
from tiny_specs import GEMMA, GPT, LLAMA

from lmexp.data import Batch
from lmexp.errors import UserError
from lmexp.model.count import named_parameters
from lmexp.model.initial import initialise
from lmexp.model.language_model import LanguageModel
from lmexp.model.spec import ModelSpec
from lmexp.train.objective import next_token_loss
from lmexp.train.spec import OptimizerSpec, PrecisionSpec
from lmexp.train.step import Stepper

torch = pytest.importorskip("torch")
VOCAB, PADDED, CONTEXT = 29, 64, 11
# A large epsilon: Adam divides by the gradient's size, and where that is all rounding (the keys' bias, which a softmax
# does not see) rounding would decide the step.
ADAMW = OptimizerSpec("adamw", 0.01, 0.1, 0.5, 1, {"betas": [0.9, 0.95], "eps": 1e-4})
SAME = {
    "gpt": GPT,
    "llama": LLAMA,
    "learned, untied": replace(GPT, position="learned", tie_embeddings=False),
    "relu2, one kv head, scaled embedding": replace(LLAMA, ffn="relu2", n_kv_heads=1, scale_embedding=True),
    "geglu, no position, own scale, wide heads": replace(
        GPT, ffn="geglu", position="none", attention_scale=0.3, head_width=10, bias=False
    ),
}


def both(spec):
    """Return our model and PyTorch's with the same weights, none of them zero or one."""
    from lmexp.bench.torch_model import TorchModel

    model = LanguageModel(spec, VOCAB, PADDED, CONTEXT)
    initialise(model, seed=3)
    moved = [
        (name, array + 0.1 * mx.random.normal(array.shape, key=mx.random.key(index)))
        for index, (name, array) in enumerate(named_parameters(model))
    ]
    model.load_weights(moved)
    peer = TorchModel(spec, VOCAB, PADDED, CONTEXT)
    peer.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in moved})  # every name, no other
    return model, peer


def tokens(seed):
    drawn = np.random.Generator(np.random.PCG64(seed)).integers(0, VOCAB, (5, CONTEXT + 1))
    return Batch(drawn[:, :-1].astype(np.int32), drawn[:, 1:].astype(np.int32), 0)


@pytest.mark.parametrize("name", SAME)
def test_the_same_weights_give_the_same_loss(name):
    model, peer = both(SAME[name])
    batch = tokens(0)
    ours = next_token_loss(model, mx.array(batch.inputs), mx.array(batch.targets))[0].item()
    theirs = peer.loss(torch.from_numpy(batch.inputs).long(), torch.from_numpy(batch.targets).long()).item()
    assert theirs == pytest.approx(ours, abs=1e-5)  # float32 sums of another order
    assert abs(ours - np.log(VOCAB)) > 0.01  # the weights say something: an empty model would agree with anything


@pytest.mark.parametrize("name", SAME)
def test_a_step_leads_to_the_same_weights(name):
    from lmexp.bench.torch_loop import Trainer

    model, peer = both(SAME[name])
    stepper = Stepper(
        model,
        next_token_loss,
        ADAMW,
        PrecisionSpec("float32"),
        compiled=False,
        seed=0,
        streams=[mx.default_stream(mx.default_device())],
    )
    trainer = Trainer(peer, ADAMW, "float32", compiled=False)
    start = {path: np.array(array) for path, array in named_parameters(model)}
    for index in range(2):  # the second step shows that the moments are the same too
        batch = tokens(index)
        stepper.step(index, stepper.tokens(batch), ADAMW.lr)
        trainer.step(torch.from_numpy(batch.inputs).long(), torch.from_numpy(batch.targets).long())
    theirs = {path: weight.detach().numpy() for path, weight in peer.named_parameters()}
    for path, array in named_parameters(model):
        ours = np.array(array)
        assert path.endswith("key.bias") or np.abs(ours - start[path]).max() > 1e-3, path
        # A thousandth of a step of 0.01: gradients of some 1e-3 differ by float32 rounding of their sums.
        np.testing.assert_allclose(theirs[path], ours, atol=1e-5, err_msg=path)


def test_every_field_of_a_spec_is_followed_or_refused():
    from lmexp.bench.torch_model import FOLLOWED, UNREAD, faults

    assert FOLLOWED | UNREAD | set(faults(GPT)) == {field.name for field in fields(ModelSpec)}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (GEMMA, "model.layers"),
        (replace(GPT, qk_norm=True), "model.qk_norm=True"),
        (replace(GPT, position="alibi"), "model.position=alibi"),
        (replace(GPT, dropout=0.1), "model.dropout=0.1"),
        (replace(GPT, logit_softcap=3.0), "model.logit_softcap=3.0"),
        (replace(LLAMA, rope=replace(LLAMA.rope, share=0.5)), "model.rope"),
        (replace(LLAMA, experts=replace(LLAMA.experts, n_experts=4)), "model.experts"),
    ],
)
def test_another_model_is_refused_by_name(spec, said):
    from lmexp.bench.torch_model import check

    with pytest.raises(UserError, match=f"does not follow {said}"):
        check(spec)


@pytest.mark.parametrize("spec", SAME.values())
def test_the_models_that_are_followed_are_not_refused(spec):
    from lmexp.bench.torch_model import check

    check(spec)
