"""Specs of tiny models that the tests share: every axis has a size of its own, so that no transpose can hide."""

from dataclasses import replace

from lmexp.model.parts import DeltaSpec, ExpertsSpec, LatentSpec, RopeSpec
from lmexp.model.spec import ModelSpec

GPT = ModelSpec(
    n_layers=2,
    d_model=24,
    layers=["gqa"],
    n_heads=6,
    n_kv_heads=None,
    head_width=None,
    window=None,
    qk_norm=False,
    attention_gate=False,
    attention_scale=None,
    attention_softcap=None,
    ffn="gelu",
    ffn_expansion=2.0,
    ffn_width=None,
    norm="layernorm",
    norm_epsilon=1e-5,
    norm_place="before",
    position="sinusoidal",
    bias=True,
    dropout=0.0,
    tie_embeddings=True,
    scale_embedding=False,
    logit_softcap=None,
    future_tokens=0,
    future_weight=0.3,
    rope=RopeSpec(
        base=100.0,
        local_base=None,
        share=1.0,
        scaling="none",
        factor=1.0,
        original_context=None,
        slow_turns=1.0,
        fast_turns=32.0,
        temperature=None,
    ),
    mla=LatentSpec(kv_rank=10, query_rank=None, rope_width=6, value_width=None),
    delta=DeltaSpec(key_heads=None, value_heads=None, key_width=None, value_width=None, convolution_width=4),
    experts=ExpertsSpec(
        n_experts=0,
        n_active=2,
        n_shared=0,
        shared_gate=False,
        width=None,
        n_dense_layers=0,
        scores="softmax",
        normalise=True,
        scale=1.0,
        n_groups=1,
        n_active_groups=1,
        balance_rate=0.001,
    ),
)
LLAMA = replace(GPT, n_kv_heads=3, ffn="swiglu", norm="rmsnorm", position="rope", bias=False)

# Two widths differ from what they would be by default, and the window is shorter than a prompt.
GEMMA = replace(
    LLAMA,
    n_layers=3,
    layers=["local", "local", "gqa"],
    head_width=10,
    window=5,
    qk_norm=True,
    attention_scale=0.4,
    ffn="geglu",
    norm_place="around",
    scale_embedding=True,
    rope=replace(GPT.rope, local_base=30.0, scaling="linear", factor=3.0),
)
LOCAL = replace(LLAMA, layers=["local"], window=4)
EXPERTS = replace(LLAMA, experts=replace(GPT.experts, n_experts=7, n_active=2, width=13))
# As in DeepSeek-V3: one dense layer, then 3 of 12 experts from 2 of 4 groups, and shared ones.
GROUPED_EXPERTS = replace(
    LLAMA,
    experts=replace(
        GPT.experts,
        n_experts=12,
        n_active=3,
        n_shared=2,
        shared_gate=True,
        width=5,
        n_dense_layers=1,
        scores="sigmoid",
        scale=1.7,
        n_groups=4,
        n_active_groups=2,
    ),
)

# The first token's output of a head is its value times (query . key), which the head's norm brings to length 1: where
# the product is about 0, only the norm's epsilon keeps that from jumping between v and -v at a rounding error.
DELTA = replace(LLAMA, layers=["delta"], norm_epsilon=0.01, delta=DeltaSpec(2, 6, 10, 7, convolution_width=4))

# Every kind of model for which the laws of tests/model/test_model_laws.py must hold. Add yours.
LAWFUL: dict[str, ModelSpec] = {
    "gpt": GPT,
    "llama": LLAMA,
    "learned": replace(GPT, position="learned", tie_embeddings=False),
    "one_kv_head": replace(LLAMA, n_kv_heads=1, ffn="relu2"),
    "partial_rope": replace(LLAMA, rope=replace(GPT.rope, share=0.5)),
    "stretched_rope": replace(LLAMA, rope=replace(GPT.rope, scaling="yarn", factor=4.0, original_context=40)),
    "local": LOCAL,
    "local_and_softcaps": replace(LOCAL, layers=["gqa", "local"], attention_softcap=2.0, logit_softcap=3.0),
    "gemma": GEMMA,
    "gated": replace(LLAMA, attention_gate=True, qk_norm=True, rope=replace(GPT.rope, share=0.5)),
    "alibi": replace(GPT, position="alibi"),
    "local_alibi": replace(LOCAL, position="alibi", attention_softcap=3.0),
    "no_position": replace(GPT, position="none", tie_embeddings=False),
    "mla": replace(LLAMA, layers=["mla"]),
    "mla, queries from a latent, wide values": replace(
        LLAMA, layers=["mla"], mla=LatentSpec(kv_rank=10, query_rank=9, rope_width=6, value_width=11)
    ),
    "mla, latent narrower than a head": replace(
        GPT, layers=["mla", "gqa"], mla=LatentSpec(kv_rank=3, query_rank=None, rope_width=2, value_width=5)
    ),
    "experts": EXPERTS,
    "experts without gates": replace(EXPERTS, ffn="relu2", experts=replace(EXPERTS.experts, normalise=False)),
    "experts in groups, some shared": GROUPED_EXPERTS,
    "future": replace(EXPERTS, future_tokens=2),
    "delta": replace(DELTA, position="none", delta=GPT.delta),
    "delta among attention": replace(DELTA, n_layers=3, layers=["delta", "delta", "gqa"]),
    "delta, wide convolution, biases": replace(
        DELTA, layers=["gqa", "delta"], position="learned", bias=True, delta=DeltaSpec(2, 4, 7, 3, convolution_width=6)
    ),
}
