"""Qwen3-Next (Qwen Team 2025): three layers of gated DeltaNet to one of gated attention, a mixture in each.

The gains of its norms are published less 1, but for that of DeltaNet's heads. Its fused projections go key head by key
head: the query, the key, then the values and the gates of the value heads that the key head serves.
"""

from functools import partial
from typing import Any

import mlx.core as mx

from lmexp.model.spec import ModelSpec
from lmexp.pretrained.experts import MATRICES, routed, shared
from lmexp.pretrained.llama import ATTENTION, NORMS, QK_NORM, outside, read_decoder, read_mixers
from lmexp.pretrained.settings import Settings
from lmexp.pretrained.sources import Sources, changed, gain, part_of_each, renamed, same

IGNORED = (r"mtp\..*",)  # its multi-token prediction, which only training and speculation use

_ROTATED_SHARE = 0.25  # of a head, unless the file says otherwise


def read(settings: Settings) -> dict[str, Any]:
    """Read a Qwen3-Next's settings."""
    settings.expect("decoder_sparse_step", 1)
    settings.expect("mlp_only_layers", [], None)
    settings.expect("use_sliding_window", False)
    every = settings.get("full_attention_interval", 4)
    choices = read_decoder(settings)
    return choices | {
        "layers": read_mixers(settings, ["linear_attention"] * (every - 1) + ["full_attention"]),
        "qk_norm": True,
        "attention_gate": True,
        "rope": {"share": _ROTATED_SHARE} | choices["rope"],
        "delta": {
            "key_heads": settings["linear_num_key_heads"],
            "value_heads": settings["linear_num_value_heads"],
            "key_width": settings["linear_key_head_dim"],
            "value_width": settings["linear_value_head_dim"],
            "convolution_width": settings["linear_conv_kernel_dim"],
        },
        "experts": _read_experts(settings),
    }


def _read_experts(settings: Settings) -> dict[str, Any]:
    width, shared_width = settings["moe_intermediate_size"], settings["shared_expert_intermediate_size"]
    if shared_width % width:
        raise settings.unsupported(
            "shared_expert_intermediate_size", shared_width, f"multiples of moe_intermediate_size={width}"
        )
    return {
        "n_experts": settings["num_experts"],
        "n_active": settings["num_experts_per_tok"],
        "n_shared": shared_width // width,
        "shared_gate": True,
        "width": width,
        "scores": "softmax",
        "normalise": settings["norm_topk_prob"],
        "balance_rate": 0.0,
    }


def sources(spec: ModelSpec) -> Sources:
    """Say where each parameter comes from."""
    table = outside(spec) | {"final_norm.weight": gain("model.norm.weight")}
    for index, mixer in enumerate(spec.mixers):
        ours, theirs = f"layers.{index}.", f"model.layers.{index}."
        table |= {f"{ours}{our}.weight": gain(f"{theirs}{their}.weight") for our, their in NORMS.items()}
        table |= (_delta if mixer == "delta" else _attention)(spec, ours, theirs)
        table |= routed(spec, f"{ours}feedforward.", f"{theirs}mlp.", MATRICES)
        table |= shared(f"{ours}feedforward.shared.", f"{theirs}mlp.shared_expert.")
        table |= renamed({"feedforward.shared_gate": "mlp.shared_expert_gate"}, ["weight"], ours, theirs)
    return table


def _attention(spec: ModelSpec, ours: str, theirs: str) -> Sources:
    table = renamed(ATTENTION, ["weight"], ours, theirs)
    table |= {f"{ours}{our}.weight": gain(f"{theirs}{their}.weight") for our, their in QK_NORM.items()}
    for half, name in enumerate(("query", "gate")):
        split = partial(part_of_each, n_heads=spec.n_heads, widths=[spec.head_dim] * 2, index=half)
        table[f"{ours}mixer.{name}.weight"] = changed(f"{theirs}self_attn.q_proj.weight", split)
    return table


def _delta(spec: ModelSpec, ours: str, theirs: str) -> Sources:
    key_heads, value_heads = spec.delta.heads(spec.n_heads)
    key_width, value_width = spec.delta.widths(spec.head_dim)
    group = value_heads // key_heads
    ours, theirs = f"{ours}mixer.", f"{theirs}linear_attn."
    fused = {
        "in_proj_qkvz": {
            "query": key_width,
            "key": key_width,
            "value": group * value_width,
            "gate": group * value_width,
        },
        "in_proj_ba": {"strength": group, "time_step": group},
    }
    table = renamed({"output": "out_proj", "head_norm": "norm"}, ["weight"], ours, theirs)
    for their, parts in fused.items():
        for index, our in enumerate(parts):
            split = partial(part_of_each, n_heads=key_heads, widths=list(parts.values()), index=index)
            table[f"{ours}{our}.weight"] = changed(f"{theirs}{their}.weight", split)
    table[f"{ours}time_step_offset"] = same(f"{theirs}dt_bias")
    table[f"{ours}log_rate"] = same(f"{theirs}A_log")
    table[f"{ours}convolution"] = changed(f"{theirs}conv1d.weight", partial(mx.swapaxes, axis1=1, axis2=2))
    return table
