"""Gemma 3 (Gemma Team 2025), its text model: local and global layers, norms around the branches, their gains less 1."""

import math
from typing import Any

from lmexp.model.spec import ModelSpec
from lmexp.pretrained.llama import ATTENTION, FEEDFORWARD, QK_NORM, outside, read_mixers
from lmexp.pretrained.rotation import read_rope, read_rope_section
from lmexp.pretrained.settings import Settings
from lmexp.pretrained.sources import Sources, gain, renamed

_NORMS = {
    "mixer_norm": "input_layernorm",
    "mixer_output_norm": "post_attention_layernorm",
    "feedforward_norm": "pre_feedforward_layernorm",
    "feedforward_output_norm": "post_feedforward_layernorm",
}
_LOCAL_LAYERS = 5  # between two global ones, unless the file says otherwise


def read(settings: Settings) -> dict[str, Any]:
    """Read a Gemma 3's settings. Its publishers leave out what all its sizes share."""
    settings.expect("hidden_activation", "gelu_pytorch_tanh")
    settings.expect("attention_bias", False)
    settings.expect("use_bidirectional_attention", False)
    settings.expect("attn_logit_softcapping", None)  # Gemma 2 had a cap; QK-norm took its place, and readers differ
    every = settings.get("sliding_window_pattern", settings.get("_sliding_window_pattern", _LOCAL_LAYERS + 1))
    return {
        "n_layers": settings["num_hidden_layers"],
        "d_model": settings["hidden_size"],
        "layers": read_mixers(settings, ["sliding_attention"] * (every - 1) + ["full_attention"]),
        "window": settings["sliding_window"],
        "n_heads": settings["num_attention_heads"],
        "n_kv_heads": settings["num_key_value_heads"],
        "head_width": settings["head_dim"],
        "qk_norm": True,
        "attention_scale": 1 / math.sqrt(settings["query_pre_attn_scalar"]),
        "logit_softcap": settings.get("final_logit_softcapping", None),
        "ffn": "geglu",
        "ffn_width": settings["intermediate_size"],
        "norm": "rmsnorm",
        "norm_epsilon": settings["rms_norm_eps"],
        "norm_place": "around",
        "position": "rope",
        "rope": _read_rope(settings),
        "bias": False,
        "tie_embeddings": settings.get("tie_word_embeddings", True),
        "scale_embedding": True,
    }


def sources(spec: ModelSpec) -> Sources:
    """Say where each parameter comes from."""
    table = outside(spec) | {"final_norm.weight": gain("model.norm.weight")}
    for index in range(spec.n_layers):
        ours, theirs = f"layers.{index}.", f"model.layers.{index}."
        table |= renamed(ATTENTION | FEEDFORWARD, ["weight"], ours, theirs)
        for our, their in (_NORMS | QK_NORM).items():
            table[f"{ours}{our}.weight"] = gain(f"{theirs}{their}.weight")
    return table


def _read_rope(settings: Settings) -> dict[str, Any]:
    """Return our ``rope`` section: local layers have a base of their own, and are never stretched."""
    if "rope_parameters" not in settings:
        return read_rope(settings) | {"local_base": float(settings["rope_local_base_freq"])}
    settings.ignore("rope_theta", "rope_local_base_freq", "rope_scaling")
    both = settings.section("rope_parameters")
    local = both.section("sliding_attention")
    local.expect("rope_type", "default")
    rope = read_rope_section(both.section("full_attention")) | {"local_base": float(local["rope_theta"])}
    local.refuse_unread()
    both.refuse_unread()
    return rope
