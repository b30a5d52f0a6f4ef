"""A ModelSpec refuses what cannot be built, and says what to type instead."""

from dataclasses import replace

import pytest
from tiny_specs import GPT, LLAMA

from lmexp.errors import UserError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_heads": 5}, r"model.n_heads=5 does not divide model.d_model=24: choose one of 1, 2, 3, 4, 6, 8, 12, 24\."),
        ({"n_kv_heads": 4}, r"model.n_kv_heads=4 does not divide model.n_heads=6: choose one of 1, 2, 3, 6\."),
        ({"n_kv_heads": 12}, r"model.n_kv_heads=12 does not divide model.n_heads=6"),
        ({"n_layers": 0}, r"model.n_layers=0 is too small"),
        ({"n_heads": 0}, r"model.n_heads=0 is too small"),
        ({"n_kv_heads": 0}, r"model.n_kv_heads=0 is too small"),
        ({"d_model": -24}, r"model.d_model=-24 is too small"),
        ({"ffn": "swigul"}, r"Unknown model.ffn 'swigul': did you mean 'swiglu'\?"),
        ({"norm": "rms"}, r"Unknown model.norm 'rms': did you mean 'rmsnorm'\?"),
        ({"position": "fourier"}, r"Unknown model.position 'fourier'.*learned, none, rope, sinusoidal"),
        ({"layers": []}, r"model.layers is empty"),
        ({"layers": ["gqa", "gka"]}, r"Unknown model.layers entry 'gka': did you mean 'gqa'\?"),
        ({"layers": ["local"]}, r"say how many tokens it sees, such as model.window=128"),
        ({"window": 0}, r"model.window=0 is too small"),
        ({"attention_softcap": 0.0}, r"model.attention_softcap=0.0 is out of range"),
        ({"future_tokens": -1}, r"model.future_tokens=-1 is out of range"),
        ({"dropout": 1.0}, r"model.dropout=1.0 is out of range"),
        ({"dropout": -0.1}, r"model.dropout=-0.1 is out of range"),
        ({"dropout": float("nan")}, r"model.dropout=nan is out of range"),
        ({"ffn_expansion": 0.0}, r"model.ffn_expansion=0.0 is out of range"),
        ({"ffn_expansion": float("inf")}, r"model.ffn_expansion=inf is out of range"),
        ({"position": "rope", "head_width": 7}, r"even head width.*but model.head_width=7: choose"),
        ({"experts": replace(GPT.experts, n_experts=2, n_dense_layers=GPT.n_layers), "bias": False}, r"leaves none of"),
        ({"position": "rope", "n_heads": 8}, r"model.position=rope needs an even head width.* makes 3"),
        ({"d_model": 27, "n_heads": 3}, r"model.position=sinusoidal needs an even width, but model.d_model=27"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        replace(GPT, **change)


def test_kv_heads_default_to_all_heads():
    assert GPT.kv_heads == GPT.n_heads == 6
    assert LLAMA.kv_heads == 3
    assert LLAMA.head_dim == 4


@pytest.mark.parametrize(("d_model", "gated"), [(64, 168), (256, 680), (512, 1368)])
def test_gated_width_weighs_what_the_ungated_one_does(d_model, gated):
    """2/3 of 4 d_model, to the nearest multiple of 8: three matrices of it are within 2% of two of 4 d_model."""
    ungated = replace(GPT, d_model=d_model, n_heads=4, ffn_expansion=4.0)
    assert ungated.hidden_width == 4 * d_model
    assert replace(ungated, ffn="swiglu").hidden_width == gated
    assert 3 * gated == pytest.approx(2 * 4 * d_model, rel=0.02)


def test_hidden_width_is_never_zero():
    assert replace(GPT, ffn_expansion=0.001).hidden_width == 1
    assert replace(GPT, ffn_expansion=0.001, ffn="swiglu").hidden_width == 8


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("rope", {"base": 1.0}, r"model.rope.base=1.0 is out of range"),
        ("rope", {"share": 0.0}, r"model.rope.share=0.0 is out of range"),
        ("rope", {"scaling": "yarm"}, r"Unknown model.rope.scaling 'yarm': did you mean 'yarn'\?"),
        ("rope", {"scaling": "yarn"}, r"add for instance model.rope.original_context=8192"),
        ("rope", {"factor": 0.5}, r"model.rope.factor=0.5 is out of range"),
        ("rope", {"slow_turns": 40.0}, r"model.rope.slow_turns=40.0 must be above 0 and below"),
        ("mla", {"kv_rank": 0}, r"model.mla.kv_rank=0 is too small"),
        ("mla", {"rope_width": 5}, r"model.mla.rope_width=5 must be even"),
        ("delta", {"convolution_width": 0}, r"model.delta.convolution_width=0 is too small"),
        ("experts", {"n_experts": -1}, r"model.experts.n_experts=-1 is out of range"),
        ("experts", {"scores": "softmin"}, r"Unknown model.experts.scores 'softmin'"),
        ("experts", {"n_experts": 6, "n_active": 7}, r"n_active=7 is too many where a token can reach 6"),
        ("experts", {"balance_rate": float("inf")}, r"model.experts.balance_rate=inf is out of range"),
        ("experts", {"n_experts": 6, "n_groups": 4}, r"n_groups=4 must divide model.experts.n_experts=6"),
    ],
    ids=str,
)
def test_parts_that_cannot_be_built_are_refused(part, change, message):
    with pytest.raises(UserError, match=message):
        replace(getattr(GPT, part), **change)
