"""LLaMA (Touvron et al. 2023) and what differs from it in a setting or two: Mistral, Qwen3."""

from typing import Any

from lmexp.model.spec import ModelSpec
from lmexp.pretrained.rotation import read_rope
from lmexp.pretrained.settings import Settings
from lmexp.pretrained.sources import Sources, renamed

IGNORED = (r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)  # computed, though old files carry it

ATTENTION = {
    "mixer.query": "self_attn.q_proj",
    "mixer.key": "self_attn.k_proj",
    "mixer.value": "self_attn.v_proj",
    "mixer.output": "self_attn.o_proj",
}
QK_NORM = {"mixer.query_norm": "self_attn.q_norm", "mixer.key_norm": "self_attn.k_norm"}
FEEDFORWARD = {f"feedforward.{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")}
NORMS = {"mixer_norm": "input_layernorm", "feedforward_norm": "post_attention_layernorm"}

_MIXERS = {"full_attention": "gqa", "sliding_attention": "local", "linear_attention": "delta"}


def read_llama(settings: Settings) -> dict[str, Any]:
    """Read a LLaMA's settings."""
    settings.expect("mlp_bias", False)
    settings.expect("pretraining_tp", 1)
    return read_decoder(settings)


def read_mistral(settings: Settings) -> dict[str, Any]:
    """Read a Mistral's settings (Jiang et al. 2023); early ones see a window in every layer."""
    choices = read_decoder(settings)
    window = settings.get("sliding_window", None)
    if window is None:
        return choices
    if "scaling" in choices["rope"]:
        raise settings.unsupported("sliding_window", window, "null beside scaled rotary positions")
    return choices | {"layers": ["local"], "window": window}


def read_qwen3(settings: Settings) -> dict[str, Any]:
    """Read a Qwen3's settings (Qwen Team 2025)."""
    settings.expect("use_sliding_window", False)
    settings.ignore("sliding_window", "max_window_layers")
    return read_decoder(settings) | {"qk_norm": True, "layers": read_mixers(settings, ["full_attention"])}


def read_decoder(settings: Settings) -> dict[str, Any]:
    """Read what every later model sets in the same words."""
    settings.expect("hidden_act", "silu")
    settings.expect("attention_bias", False)
    return {
        "n_layers": settings["num_hidden_layers"],
        "d_model": settings["hidden_size"],
        "n_heads": settings["num_attention_heads"],
        "n_kv_heads": settings.get("num_key_value_heads", None),
        "head_width": settings.get("head_dim", None),
        "ffn": "swiglu",
        "ffn_width": settings["intermediate_size"],
        "norm": "rmsnorm",
        "norm_epsilon": settings["rms_norm_eps"],
        "position": "rope",
        "rope": read_rope(settings),
        "bias": False,
        "tie_embeddings": settings.get("tie_word_embeddings", False),
    }


def read_mixers(settings: Settings, pattern: list[str]) -> list[str]:
    """Return the mixers of the layers: those of ``layer_types``, or a pattern where the file has none.

    Raises:
        UserError: a kind of layer that lmexp does not have.
    """
    kinds = settings.get("layer_types", None) or pattern
    for kind in kinds:
        if kind not in _MIXERS:
            raise settings.unsupported("layer_types", kind, ", ".join(_MIXERS))
    return [_MIXERS[kind] for kind in kinds]


def sources(spec: ModelSpec) -> Sources:
    """Say where each parameter comes from."""
    modules = ATTENTION | FEEDFORWARD | NORMS | (QK_NORM if spec.qk_norm else {})
    table = outside(spec)
    for index in range(spec.n_layers):
        table |= renamed(modules, ["weight"], f"layers.{index}.", f"model.layers.{index}.")
    return table


def outside(spec: ModelSpec) -> Sources:
    """Say where the parameters outside the layers come from."""
    names = {"embedding": "model.embed_tokens", "final_norm": "model.norm"}
    if not spec.tie_embeddings:
        names["head"] = "lm_head"
    return renamed(names, ["weight"])
