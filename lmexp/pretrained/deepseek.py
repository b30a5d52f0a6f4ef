"""DeepSeek-V2 and -V3 (DeepSeek-AI 2024): latent attention, and mixtures with shared experts after some dense layers.

Published rotations turn neighbouring pairs (2i, 2i + 1), ours (i, i + half the width): the rows that make rotated
queries and keys are put in another order, the same for both, on which no score depends.
"""

from functools import partial
from typing import Any

import mlx.core as mx

from lmexp.model.spec import ModelSpec
from lmexp.pretrained.experts import MATRICES, routed, shared
from lmexp.pretrained.llama import FEEDFORWARD, NORMS, outside, read_decoder
from lmexp.pretrained.rotation import latent_score_factor
from lmexp.pretrained.settings import Settings
from lmexp.pretrained.sources import Sources, changed, part_of_each, renamed, same

# V3's further modules, which predict tokens beyond the next one, count on as layers.
V3_IGNORED = (r"model\.layers\.{n_layers}\..*",)

_LATENT_NORM_EPSILON = 1e-6  # of the latents' norms, whatever the file says of the others


def read_v2(settings: Settings) -> dict[str, Any]:
    """Read a DeepSeek-V2's settings."""
    settings.expect("scoring_func", "softmax")
    settings.expect("topk_method", "greedy", "group_limited_greedy")
    settings.expect("norm_topk_prob", False)
    settings.expect("mlp_bias", False)
    has_groups = settings.get("topk_method", "greedy") == "group_limited_greedy"
    return _read(settings, has_groups, {"scores": "softmax", "normalise": False, "balance_rate": 0.0})


def read_v3(settings: Settings) -> dict[str, Any]:
    """Read a DeepSeek-V3's settings."""
    settings.expect("scoring_func", "sigmoid")
    settings.expect("topk_method", "noaux_tc")
    settings.expect("rope_interleave", True)
    settings.ignore("num_nextn_predict_layers")
    # A balancing bias exists in models that would still move it in training.
    return _read(settings, True, {"scores": "sigmoid", "normalise": settings.get("norm_topk_prob", True)})


def _read(settings: Settings, has_groups: bool, routing: dict[str, Any]) -> dict[str, Any]:
    settings.expect("moe_layer_freq", 1)
    settings.expect("pretraining_tp", 1)
    settings.expect("rms_norm_eps", _LATENT_NORM_EPSILON)
    settings.ignore("ep_size", "seq_aux", "num_key_value_heads", "qk_head_dim", "head_dim", "n_group", "topk_group")
    choices = read_decoder(settings)
    unrotated, rotated = settings["qk_nope_head_dim"], settings["qk_rope_head_dim"]
    return choices | {
        "layers": ["mla"],
        "n_kv_heads": None,
        "head_width": unrotated,
        "attention_scale": (unrotated + rotated) ** -0.5 * _score_factor(settings),
        "mla": {
            "kv_rank": settings["kv_lora_rank"],
            "query_rank": settings.get("q_lora_rank", None),
            "rope_width": rotated,
            "value_width": settings["v_head_dim"],
        },
        "experts": routing
        | {
            "n_experts": settings["n_routed_experts"],
            "n_active": settings["num_experts_per_tok"],
            "n_shared": settings.get("n_shared_experts", None) or 0,
            "width": settings["moe_intermediate_size"],
            "n_dense_layers": settings["first_k_dense_replace"],
            "scale": settings["routed_scaling_factor"],
            "n_groups": settings["n_group"] if has_groups else 1,
            "n_active_groups": settings["topk_group"] if has_groups else 1,
        },
    }


def _score_factor(settings: Settings) -> float:
    for key in ("rope_parameters", "rope_scaling"):
        if settings.get(key, None):
            return latent_score_factor(settings.section(key))
    return 1.0


def sources(spec: ModelSpec) -> Sources:
    """Say where each parameter comes from."""
    table = outside(spec)
    for index in range(spec.n_layers):
        ours, theirs = f"layers.{index}.", f"model.layers.{index}."
        table |= renamed(NORMS, ["weight"], ours, theirs) | _mixer(spec, f"{ours}mixer.", f"{theirs}self_attn.")
        if index < spec.experts.n_dense_layers:
            table |= renamed(FEEDFORWARD, ["weight"], ours, theirs)
        else:
            table |= _mixture(spec, f"{ours}feedforward.", f"{theirs}mlp.")
    return table


def _mixture(spec: ModelSpec, ours: str, theirs: str) -> Sources:
    table = routed(spec, ours, theirs, MATRICES)
    if spec.experts.n_shared:
        table |= shared(f"{ours}shared.", f"{theirs}shared_experts.")
    if spec.experts.balance_rate:
        table[f"{ours}router.balance"] = same(f"{theirs}gate.e_score_correction_bias")
    return table


def _mixer(spec: ModelSpec, ours: str, theirs: str) -> Sources:
    names = {"latent_norm": "kv_a_layernorm", "output": "o_proj"}
    if spec.mla.query_rank is None:
        query = ("query", "q_proj")
    else:
        query = ("query_up", "q_b_proj")
        names |= {"query_down": "q_a_proj", "query_norm": "q_a_layernorm"}
    widths = [spec.head_dim, spec.mla.value_width or spec.head_dim]
    pairs = partial(_halves, rotated=spec.mla.rope_width)
    table = renamed(names, ["weight"], ours, theirs)
    table[f"{ours}{query[0]}.weight"] = changed(f"{theirs}{query[1]}.weight", partial(pairs, n_heads=spec.n_heads))
    table[f"{ours}latent_down.weight"] = changed(f"{theirs}kv_a_proj_with_mqa.weight", partial(pairs, n_heads=1))
    for index, name in enumerate(("key_up", "value_up")):
        split = partial(part_of_each, n_heads=spec.n_heads, widths=widths, index=index)
        table[f"{ours}{name}.weight"] = changed(f"{theirs}kv_b_proj.weight", split)
    return table


def _halves(rows: mx.array, rotated: int, n_heads: int) -> mx.array:
    """Put the last ``rotated`` rows of each head in our order: those of even index before those of odd."""
    heads = rows.reshape(n_heads, -1, rows.shape[-1])
    plain, turned = mx.split(heads, [heads.shape[1] - rotated], axis=1)
    return mx.concatenate([plain, turned[:, ::2], turned[:, 1::2]], axis=1).reshape(rows.shape)
