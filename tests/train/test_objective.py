"""A batch that is split over streams is the same batch."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_specs import LLAMA

from lmexp.model.dropout import dropout_keys
from lmexp.model.initial import initialise
from lmexp.model.language_model import LanguageModel
from lmexp.train.objective import next_token_loss, over_streams

VOCABULARY, TIME = 19, 5
EXPERTS = replace(LLAMA, experts=replace(LLAMA.experts, n_experts=4, width=10, balance_rate=0.05))
STREAMS = [mx.default_stream(mx.cpu), *(mx.new_stream(mx.cpu) for _ in range(3))]


def made_model(spec):
    model = LanguageModel(spec, VOCABULARY, 32, TIME)
    initialise(model, 3)
    return model


def batch(size):
    tokens = mx.array(np.random.default_rng(0).integers(0, VOCABULARY, (size, TIME + 1)).astype(np.int32))
    return tokens[:, :-1], tokens[:, 1:]


def gradient_of(objective, model, inputs, targets):
    keys = dropout_keys(1, len(inputs), model.n_dropouts)

    def loss_of(weights):
        model.update(weights)
        return objective(model, inputs, targets, keys)

    before = model.trainable_parameters()
    found = mx.value_and_grad(loss_of)(before)
    model.update(before)
    return found


# Eight rows go to four streams, six to three, seven to one.
@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="a GPU has one stream")
@pytest.mark.parametrize("size", [8, 6, 7])
@pytest.mark.parametrize(
    ("spec", "compiled"),
    [
        (LLAMA, False),
        (EXPERTS, False),
        (replace(LLAMA, future_tokens=1), False),
        (LLAMA, True),
        (replace(LLAMA, dropout=0.5, future_tokens=1), True),
    ],
    ids=["dense", "experts", "future", "compiled", "compiled, with dropout"],
)
def test_split_batches_have_the_same_loss_counts_and_gradient(spec, compiled, size):
    model, (inputs, targets) = made_model(spec), batch(size)

    def split(inputs, targets):
        return gradient_of(over_streams(next_token_loss, STREAMS), model, inputs, targets)

    (loss, measured), gradient = gradient_of(next_token_loss, model, inputs, targets)
    (split_loss, split_measured), split_gradient = (mx.compile(split) if compiled else split)(inputs, targets)
    # The same terms, added up in another order: some float32 roundings.
    assert split_loss.item() == pytest.approx(loss.item(), rel=1e-6)
    assert split_measured["loss_nats"].item() == pytest.approx(measured["loss_nats"].item(), rel=1e-6)
    if "expert_tokens" in measured:
        assert mx.array_equal(split_measured["expert_tokens"], measured["expert_tokens"]).item()
    for (path, ours), (_, theirs) in zip(tree_flatten(split_gradient), tree_flatten(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-4, err_msg=path)
