"""Laws of a mixture of experts: right, shown by outsiders; only the chosen are computed; the load is evened."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from numpy_model import CONTEXT, PADDED, VOCAB, make_model, some_tokens
from tiny_specs import LLAMA

from lmexp.errors import UserError
from lmexp.model import experts
from lmexp.model.activation import silu
from lmexp.model.experts import Experts, Router, best_rows_per_block, dispatch, make_feedforward
from lmexp.model.feedforward import GatedFeedForward
from lmexp.model.initial import initialise
from lmexp.model.language_model import LanguageModel

WIDTH, MODEL_WIDTH = 10, 24


def spec_with(ffn="swiglu", **choices):
    """LLAMA with 8 experts of width 10, 3 of them active, unless said otherwise."""
    defaults = {"n_experts": 8, "n_active": 3, "width": WIDTH, "balance_rate": 0.0}
    return replace(LLAMA, ffn=ffn, experts=replace(LLAMA.experts, **(defaults | choices)))


def mixture(seed=0, **choices):
    made = Experts(spec_with(**choices))
    generator = np.random.default_rng(seed)
    weights = [
        (path, mx.array(generator.normal(0, 0.5, array.shape).astype(np.float32)))
        for path, array in tree_flatten(made.parameters())
    ]
    made.load_weights(weights)
    return made


def some_states(seed=1, batch=5, time=7):
    return np.random.default_rng(seed).normal(0, 1, (batch, time, MODEL_WIDTH)).astype(np.float32)


def written_out(made: Experts, x: np.ndarray, chosen: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the routed sum again, token by token and expert by expert, in float64; x: (tokens, d_model)."""
    gate, up, down = (np.array(made.experts[name], np.float64) for name in ("gate", "up", "down"))
    result = np.zeros(x.shape)
    for token in range(len(x)):
        for expert, weight in zip(chosen[token], weights[token], strict=True):
            raised = gate[expert] @ x[token]
            result[token] += weight * (down[expert] @ (raised / (1 + np.exp(-raised)) * (up[expert] @ x[token])))
    return result


def carry(made: Experts, theirs) -> None:
    """Give a block of transformers the weights of ours."""
    torch = pytest.importorskip("torch")

    def tensor(array):
        return torch.tensor(np.array(array))

    gate_up = mx.concatenate([made.experts.gate, made.experts.up], axis=1)
    weights = {
        "gate.weight": made.router.weight,
        "experts.gate_up_proj": gate_up,
        "experts.down_proj": made.experts.down,
    }
    if "balance" in made.router:
        weights["gate.e_score_correction_bias"] = made.router.balance
    if made.spec.n_shared:
        name = "shared_expert" if made.spec.shared_gate else "shared_experts"
        weights |= {f"{name}.{part}_proj.weight": made.shared[part].weight for part in ("gate", "up", "down")}
    if made.spec.shared_gate:
        weights["shared_expert_gate.weight"] = made.shared_gate.weight
    theirs.load_state_dict({path: tensor(array) for path, array in weights.items()})  # strict: nothing missing or over


def mixtral():
    from transformers.models.mixtral.configuration_mixtral import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    sizes = {"hidden_size": MODEL_WIDTH, "intermediate_size": WIDTH, "num_local_experts": 8, "num_experts_per_tok": 3}
    return mixture(), MixtralSparseMoeBlock(MixtralConfig(**sizes))


def deepseek_v2():
    from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe

    config = DeepseekV2Config(
        hidden_size=MODEL_WIDTH,
        num_attention_heads=4,
        moe_intermediate_size=WIDTH,
        n_routed_experts=12,
        num_experts_per_tok=3,
        n_shared_experts=2,
        topk_method="group_limited_greedy",
        n_group=4,
        topk_group=2,
        routed_scaling_factor=2.5,
    )
    choices = {"n_groups": 4, "n_active_groups": 2, "scale": 2.5, "normalise": False, "n_shared": 2}
    return mixture(n_experts=12, **choices), DeepseekV2Moe(config)


def deepseek_v3():
    from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    config = DeepseekV3Config(
        hidden_size=MODEL_WIDTH,
        num_attention_heads=4,
        moe_intermediate_size=WIDTH,
        n_routed_experts=12,
        num_experts_per_tok=3,
        n_shared_experts=2,
        n_group=4,
        topk_group=2,
        routed_scaling_factor=2.5,
        norm_topk_prob=True,
    )
    choices = {"n_groups": 4, "n_active_groups": 2, "scale": 2.5, "n_shared": 2, "scores": "sigmoid"}
    return mixture(n_experts=12, balance_rate=0.1, **choices), DeepseekV3MoE(config)


def qwen3_next():
    from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextSparseMoeBlock

    config = Qwen3NextConfig(
        hidden_size=MODEL_WIDTH,
        num_attention_heads=4,
        moe_intermediate_size=WIDTH,
        shared_expert_intermediate_size=2 * WIDTH,
        num_experts=8,
        num_experts_per_tok=3,
        norm_topk_prob=True,
    )
    return mixture(n_shared=2, shared_gate=True), Qwen3NextSparseMoeBlock(config)


@pytest.mark.parametrize("family", [mixtral, deepseek_v2, deepseek_v3, qwen3_next])
def test_every_family_agrees_with_transformers(family):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    made, theirs = family()
    theirs.float().eval()
    carry(made, theirs)
    x = some_states(batch=11, time=13)
    with torch.no_grad():
        expected = theirs(torch.tensor(x)).numpy()
    # Sums of 24 and 10 float32 products in another order: 1e-6 of values that reach 20.
    np.testing.assert_allclose(np.array(made(mx.array(x))), expected, atol=5e-5, rtol=1e-5)


def test_the_sum_is_the_written_out_one():
    made, x = mixture(scores="sigmoid", scale=1.7), some_states()
    chosen, weights = (np.array(array) for array in made.router(mx.array(x.reshape(-1, MODEL_WIDTH))))
    expected = written_out(made, x.reshape(-1, MODEL_WIDTH).astype(np.float64), chosen, weights).reshape(x.shape)
    np.testing.assert_allclose(np.array(made(mx.array(x))), expected, atol=2e-5)  # float32 against float64
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    np.testing.assert_allclose(weights.sum(axis=1), 1.7, rtol=1e-6)


def test_one_expert_that_all_tokens_pass_is_the_dense_feedforward():
    made = mixture(n_experts=1, n_active=1)
    dense = GatedFeedForward(replace(LLAMA, ffn_width=WIDTH), silu)
    dense.load_weights([(f"{name}.weight", made.experts[name][0]) for name in ("gate", "up", "down")])
    x = mx.array(some_states())
    # The same products, in blocks: another order of float32 sums of size 10.
    assert mx.allclose(made(x), dense(x), atol=2e-5).item()


def every_expert(parameters, x, chosen):
    """Return what each token's experts make of it, (tokens, n_active, d_model), by computing all for all."""
    raised = mx.einsum("ewd,td->tew", parameters["up"], x)
    if "gate" in parameters:
        inside = silu(mx.einsum("ewd,td->tew", parameters["gate"], x)) * raised
    else:
        inside = mx.square(mx.maximum(raised, 0))
    outputs = mx.einsum("edw,tew->ted", parameters["down"], inside)
    return mx.take_along_axis(outputs, chosen[..., None], axis=1)


@pytest.mark.parametrize("ffn", ["swiglu", "relu2"])
@pytest.mark.parametrize(("rows", "skewed"), [(1, False), (1, True), (4, False), (16, True), (64, True)])
def test_every_dispatch_gives_the_values_and_gradients_of_computing_all(ffn, rows, skewed):
    made, x = mixture(ffn=ffn, n_experts=6), mx.array(some_states().reshape(-1, MODEL_WIDTH))
    direction = mx.array(np.random.default_rng(5).normal(0, 1, (35, 3, MODEL_WIDTH)).astype(np.float32))
    generator = np.random.default_rng(6)
    # Skewed: experts 0, 1 and 4 get every token, the others none.
    chosen = np.array([[4, 0, 1] if skewed else generator.permutation(6)[:3] for _ in range(35)])
    load = mx.array(np.bincount(chosen.ravel(), minlength=6).astype(np.int32))

    def sent(parameters, x):
        made.experts.update(parameters)
        return dispatch(made.experts, x, mx.array(chosen), load, rows)

    def results(way):
        def summed(parameters, x):
            out = way(parameters, x)
            return (out * direction).sum(), out

        (_, out), (weights, inputs) = mx.value_and_grad(summed, argnums=(0, 1))(made.experts.parameters(), x)
        return {"out": out, "x": inputs} | weights

    found = results(sent)
    for name, array in results(lambda parameters, x: every_expert(parameters, x, mx.array(chosen))).items():
        # Float32 sums of up to 105 terms in another order, of values up to 100.
        assert mx.allclose(found[name], array, rtol=1e-4, atol=1e-4).item(), name


def test_the_rule_takes_blocks_where_an_expert_has_many_rows_and_no_device_changes_the_result(monkeypatch):
    made, x = mixture(n_experts=2, n_active=1), mx.array(some_states(batch=13, time=11))
    in_rule = made(x)
    with monkeypatch.context() as patch:
        patch.setattr(mx, "default_device", lambda: mx.gpu)
        assert best_rows_per_block(10_000, 2) == 1
        patch.setattr(mx, "default_device", lambda: mx.cpu)
        assert [best_rows_per_block(n_rows, 2) for n_rows in (1, 127, 143)] == [1, 1, 64]
    monkeypatch.setattr(experts, "best_rows_per_block", lambda n_rows, n_experts: 1)
    one_by_one = made(x)
    # The order of float32 sums of size 10.
    assert mx.allclose(in_rule, one_by_one, atol=2e-5).item()


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_the_balance_bias_selects_and_never_weighs(scores):
    made, x = mixture(balance_rate=0.1, scores=scores), mx.array(some_states().reshape(-1, MODEL_WIDTH))
    made.router.balance = mx.where(mx.arange(8) == 5, 10.0, 0.0)  # more than any score can differ
    chosen, weights = made.router(x)
    assert (chosen == 5).any(axis=1).all().item()
    logits = x @ made.router.weight.T
    unbiased = mx.take_along_axis(mx.sigmoid(logits) if scores == "sigmoid" else mx.softmax(logits), chosen, axis=1)
    assert mx.allclose(weights, unbiased / unbiased.sum(axis=1, keepdims=True), rtol=1e-5).item()


def test_groups_bound_where_a_tokens_experts_are():
    made = mixture(n_experts=12, n_groups=4, n_active_groups=2, scores="sigmoid")
    chosen, _ = made.router(mx.array(some_states().reshape(-1, MODEL_WIDTH)))
    groups = [{expert // 3 for expert in row} for row in chosen.tolist()]
    assert all(len(group) <= 2 for group in groups)
    assert set.union(*groups) == {0, 1, 2, 3}


def test_the_router_is_float32_in_a_model_of_bfloat16():
    made, x = mixture(), mx.array(some_states().reshape(-1, MODEL_WIDTH)).astype(mx.bfloat16)
    made.router.weight = made.router.weight.astype(mx.bfloat16)
    _, weights = made.router(x)
    assert weights.dtype == mx.float32
    expected = mx.softmax(x.astype(mx.float32) @ made.router.weight.astype(mx.float32).T, axis=-1)
    best = mx.sort(expected, axis=-1)[:, -3:]
    # The float32 scores to a rounding; in bfloat16 they would be off by 0.4%.
    assert mx.allclose(mx.sort(weights, axis=-1), best / best.sum(axis=-1, keepdims=True), rtol=1e-5).item()


def test_a_row_does_not_depend_on_its_batch():
    model, tokens = make_model(spec_with()), some_tokens()
    together, alone = model(mx.array(tokens)), model(mx.array(tokens[2:3]))
    # The same products in blocks of other tokens: float32 roundings of logits of order 10.
    assert mx.allclose(together[2], alone[0], atol=1e-4).item()


def test_the_load_counts_every_token_once_for_each_of_its_experts():
    made, x = mixture(), mx.array(some_states())
    chosen, _ = made.router(x.reshape(-1, MODEL_WIDTH))
    _, load = made.with_load(x)
    assert load.tolist() == np.bincount(np.array(chosen).ravel(), minlength=8).tolist()
    assert load.sum().item() == 5 * 7 * 3


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_balancing_evens_a_skewed_router(scores):
    router = Router(spec_with(balance_rate=0.002, scores=scores))
    generator = np.random.default_rng(2)
    router.weight = mx.array(generator.normal(0, 0.1, (8, MODEL_WIDTH)).astype(np.float32))
    router.weight[0] += 0.2  # and the states lean that way: expert 0 is liked by nearly all of them
    x = mx.array(generator.normal(0.5, 1, (512, MODEL_WIDTH)).astype(np.float32))

    def load():
        return mx.zeros(8, mx.int32).at[router(x)[0].flatten()].add(1)

    before = load()
    for _ in range(500):  # a bias may move by 1, the largest difference of two scores
        router.even(load())
    after = load()
    assert before.max().item() > 2 * before.astype(mx.float32).mean().item()
    # A step of the bias moves a few of 512 tokens to and fro, so the load stays within a quarter of the mean.
    assert after.max().item() < 1.25 * after.astype(mx.float32).mean().item()
    assert after.sum().item() == before.sum().item() == 512 * 3


def test_one_step_of_the_bias_is_the_rate_times_a_sign():
    router = Router(spec_with(n_experts=4, n_active=2, balance_rate=0.25))
    router.even(mx.array([7, 5, 5, 3], mx.int32))
    assert router.balance.tolist() == [-0.25, 0.0, 0.0, 0.25]


def test_the_bias_is_saved_but_not_trained(tmp_path):
    model = LanguageModel(spec_with(balance_rate=0.1), VOCAB, PADDED, CONTEXT)
    initialise(model, 3)
    paths = [f"layers.{layer}.feedforward.router.balance" for layer in range(2)]
    assert set(paths) <= set(dict(tree_flatten(model.parameters())))
    assert not set(paths) & set(dict(tree_flatten(model.trainable_parameters())))
    assert model.layers[0].feedforward.router.balance.tolist() == [0.0] * 8
    model.even_loads(mx.array([[9, *[1] * 7], [1] * 7 + [9]], mx.int32))
    assert model.layers[0].feedforward.router.balance.tolist() == pytest.approx([-0.1] + [0.1] * 7)
    assert model.layers[1].feedforward.router.balance.tolist() == pytest.approx([0.1] * 7 + [-0.1])
    model.save_weights(str(tmp_path / "weights.safetensors"))
    again = LanguageModel(spec_with(balance_rate=0.1), VOCAB, PADDED, CONTEXT)
    again.load_weights(str(tmp_path / "weights.safetensors"))
    assert mx.array_equal(again.layers[1].feedforward.router.balance, model.layers[1].feedforward.router.balance)


def test_no_bias_exists_where_nothing_moves_it():
    assert "balance" not in mixture(balance_rate=0.0).router


def test_first_layers_stay_dense():
    spec = spec_with(n_dense_layers=1)
    assert isinstance(make_feedforward(spec, 0), GatedFeedForward)
    assert isinstance(make_feedforward(spec, 1), Experts)
    model = LanguageModel(spec, VOCAB, PADDED, CONTEXT)
    _, loads = model.hidden_and_loads(mx.array(some_tokens()))
    assert [load.shape for load in loads] == [(8,)]


def test_parameters_and_flops_count_what_they_say():
    spec = spec_with(n_shared=2, shared_gate=True, balance_rate=0.1)
    dense = LanguageModel(replace(LLAMA, ffn_width=WIDTH), VOCAB, PADDED, CONTEXT)
    mixed = LanguageModel(spec, VOCAB, PADDED, CONTEXT)
    expert, router = 3 * MODEL_WIDTH * WIDTH, 8 * MODEL_WIDTH
    # Each of two layers: 8 experts, a shared one of twice the width and the gate's row, less the dense one.
    assert mixed.n_params - dense.n_params == 2 * (8 * expert + 2 * expert + router + MODEL_WIDTH - expert)
    assert mixed.n_params - mixed.n_params_active == 2 * 5 * expert
    assert dense.n_params_active == dense.n_params
    # 6 for every number of the layers that a token meets: 3 experts, the shared ones, router and gate.
    met = 2 * (3 * expert + 2 * expert + router + MODEL_WIDTH - expert)
    assert mixed.flops_per_token - dense.flops_per_token == 6 * met


def test_first_weights_follow_the_law():
    spec = spec_with(n_experts=16, width=40, n_shared=3)
    model = LanguageModel(spec, VOCAB, PADDED, CONTEXT)
    initialise(model, 1)
    part = model.layers[1].feedforward
    # Six standard errors of a deviation over 15,360 numbers or more: 6 / sqrt(2 n) = 3.4%.
    assert np.array(part.experts.up).std() == pytest.approx(0.02, rel=0.04)
    assert np.array(part.experts.down).std() == pytest.approx(0.02 / 2, rel=0.04)  # sqrt(2 x 2 layers) = 2
    assert np.array(part.shared.down.weight).std() == pytest.approx(0.02 / 2, rel=0.08)


def test_experts_with_biases_are_refused():
    with pytest.raises(UserError, match=r"model\.bias=false"):
        replace(spec_with(), bias=True)
