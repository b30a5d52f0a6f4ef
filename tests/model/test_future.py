"""Laws of multi-token prediction: how far each depth sees, what it is asked, and that nothing else is changed by it."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from numpy_model import CONTEXT, PADDED, VOCAB, make_model, some_tokens
from tiny_specs import EXPERTS, GPT, LLAMA

from lmexp.errors import UserError
from lmexp.model.initial import initialise
from lmexp.model.language_model import LanguageModel
from lmexp.train.objective import next_token_loss
from lmexp.train.spec import OptimizerSpec, PrecisionSpec
from lmexp.train.step import Stepper, Tokens

N_FUTURE, TIME, BATCH = 3, 7, 2
SPECS = {
    "gpt": replace(GPT, future_tokens=N_FUTURE, position="learned"),
    "llama": replace(LLAMA, future_tokens=N_FUTURE, tie_embeddings=False),
    "experts": replace(EXPERTS, future_tokens=N_FUTURE),
}
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def text(seed=0):
    """Return inputs and targets, (batch, time) each, of a text one token longer."""
    tokens = some_tokens(seed, TIME + 1, BATCH)
    return mx.array(tokens[:, :-1]), mx.array(tokens[:, 1:])


def predictions(model, tokens):
    futures, _ = model.future_hidden(model.hidden(tokens), tokens)
    return [np.array(model.logits(hidden))[..., :VOCAB] for hidden in futures]


def nats(logits, target):
    logits = np.asarray(logits, np.float64)
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target]


@every_spec
@pytest.mark.parametrize("changed", [0, 3, TIME - 1])
def test_depth_k_sees_k_tokens_further_and_not_one_more(spec, changed):
    model, (tokens, _) = make_model(spec), text()
    other = mx.array(tokens)
    other[:, changed] = (other[:, changed] + 1) % VOCAB
    pairs = zip(predictions(model, tokens), predictions(model, other), strict=True)
    for depth, (before, after) in enumerate(pairs, start=1):
        assert before.shape == (BATCH, TIME - depth, VOCAB)
        moved = np.abs(after - before).max(axis=(0, 2))
        first = max(0, changed - depth)
        # The same kernels on the same shapes; experts may add up in other groups.
        assert (moved[:first] < 1e-5).all()
        assert (moved[first:] > 1e-3).all()


@every_spec
def test_the_objective_is_the_written_out_sum(spec):
    model, (inputs, targets) = make_model(spec), text()
    whole = np.array(mx.concatenate([inputs, targets[:, -1:]], axis=1))
    logits = [np.array(model(inputs))[..., :VOCAB], *predictions(model, inputs)]
    means = []
    for depth, of_depth in enumerate(logits):
        # Position t at depth k predicts token t + k + 1.
        costs = [nats(of_depth[row, t], whole[row, t + depth + 1]) for row in range(BATCH) for t in range(TIME - depth)]
        means.append(np.mean(costs))
    loss, measured = next_token_loss(model, inputs, targets)
    expected = means[0] + spec.future_weight * np.mean(means[1:])
    assert loss.item() == pytest.approx(expected, rel=1e-5)  # float32 logits
    assert measured["loss_nats"].item() == pytest.approx(means[0], rel=1e-5)


@every_spec
def test_the_next_token_knows_nothing_of_it(spec):
    """First weights, logits and the reported loss are those of the model without, bit for bit."""
    without = LanguageModel(replace(spec, future_tokens=0), VOCAB, PADDED, CONTEXT)
    model = LanguageModel(spec, VOCAB, PADDED, CONTEXT)
    initialise(without, 5)
    initialise(model, 5)
    ours, theirs = dict(tree_flatten(model.parameters())), dict(tree_flatten(without.parameters()))
    assert {path for path in ours if not path.startswith("future.")} == set(theirs)
    assert all(mx.array_equal(ours[path], array).item() for path, array in theirs.items())
    inputs, targets = text()
    assert mx.array_equal(model(inputs), without(inputs)).item()
    one, other = next_token_loss(model, inputs, targets)[1], next_token_loss(without, inputs, targets)[1]
    assert one["loss_nats"].item() == other["loss_nats"].item()


@every_spec
def test_gradients_are_finite_differences(spec):
    """As tests/model/test_model_laws.py does it, of the whole objective: along the gradient of each parameter."""
    step = 5e-4
    with mx.stream(mx.cpu):
        model, (inputs, targets) = make_model(spec), text()
        model.set_dtype(mx.float64)

        def loss_of(model):
            return next_token_loss(model, inputs, targets)[0]

        gradients = nn.value_and_grad(model, loss_of)(model)[1]
        parameters = dict(tree_flatten(model.trainable_parameters()))
        for path, gradient in tree_flatten(gradients):
            slope = np.array(gradient, dtype=np.float64)
            size = np.linalg.norm(slope)
            losses = []
            for sign in (1, -1):
                moved = parameters[path] + mx.array(sign * step * slope / max(size, 1e-12), dtype=mx.float64)
                model.load_weights([(path, moved)], strict=False)
                losses.append(loss_of(model).item())
            model.load_weights([(path, parameters[path])], strict=False)
            # The loss is float32 in any dtype: near 6.5 its values stand 5e-7 apart, which is 5e-4 over 2 x 5e-4. And
            # the cubic term.
            assert abs(size - (losses[0] - losses[1]) / (2 * step)) < 3e-3 * size + 1e-3, path
            assert size > 0 or ".key.bias" in path, path  # a bias of all keys alike changes no softmax


def stepper(spec, compiled, lr=0.05):
    model = LanguageModel(spec, VOCAB, PADDED, TIME)
    initialise(model, 5)
    optimizer = OptimizerSpec("sgd", lr, 0.1, 1.0, 1, {"momentum": 0.9, "nesterov": False})
    return Stepper(
        model,
        next_token_loss,
        optimizer,
        PrecisionSpec("float32"),
        compiled,
        3,
        [mx.default_stream(mx.default_device())],
    )


def tokens(seed):
    return Tokens(*text(seed))


def test_compiled_equals_plain():
    spec = replace(EXPERTS, n_layers=1, future_tokens=1)  # what is compiled takes seconds for every layer
    plain, compiled = (stepper(spec, choice) for choice in (False, True))
    losses = [[made.step(k, tokens(k), 0.05).loss_nats.item() for k in range(4)] for made in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-6)  # fused kernels round differently in the last bit
    balances = [made.model.future[0].block.feedforward.router.balance for made in (plain, compiled)]
    assert balances[0].any().item()  # the modules' own experts are balanced too
    assert mx.array_equal(*balances).item()


def test_modules_learn_what_is_further_on():
    made = stepper(SPECS["llama"], compiled=False, lr=1.0)

    def further():
        loss, measured = next_token_loss(made.model, *tokens(0))
        return ((loss - measured["loss_nats"]) / made.model.spec.future_weight).item()

    before = further()
    for k in range(40):
        made.step(k, tokens(0), 0.5)
    assert before == pytest.approx(np.log(VOCAB), rel=0.05)  # untrained: every token about as likely
    assert further() < 0.8 * before


def test_parameters_and_flops_of_the_modules_count():
    without = LanguageModel(LLAMA, VOCAB, PADDED, CONTEXT)
    model = LanguageModel(replace(LLAMA, future_tokens=2), VOCAB, PADDED, CONTEXT)
    width = LLAMA.d_model
    layer = sum(array.size for _, array in tree_flatten(without.layers[0].parameters()))
    assert model.n_params - without.n_params == 2 * (layer + 2 * width * width + 3 * width)
    assert model.n_params_active == without.n_params
    one_layer = LanguageModel(replace(LLAMA, n_layers=1), VOCAB, PADDED, CONTEXT)
    head, of_layer = 6 * PADDED * width, without.flops_per_token - one_layer.flops_per_token
    assert model.flops_per_token - without.flops_per_token == 2 * (of_layer + 6 * 2 * width * width + head)


def test_looking_beyond_the_context_is_refused():
    with pytest.raises(UserError, match=r"future_tokens=11 .* choose 10 or less"):
        LanguageModel(replace(LLAMA, future_tokens=CONTEXT), VOCAB, PADDED, CONTEXT)
