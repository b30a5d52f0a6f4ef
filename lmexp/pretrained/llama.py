"""LLaMA (Touvron et al. 2023) and what was built upon it."""

from typing import Any

from lmexp.model.spec import ModelSpec
from lmexp.pretrained.rotation import read_rope
from lmexp.pretrained.settings import Settings
from lmexp.pretrained.sources import Sources, renamed

IGNORED = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

ATTENTION = {
    f"mixer.{ours}": f"self_attn.{theirs}_proj"
    for ours, theirs in zip(("query", "key", "value", "output"), "qkvo", strict=True)
}
FEEDFORWARD = {f"feedforward.{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")}
NORMS = {"mixer_norm": "input_layernorm", "feedforward_norm": "post_attention_layernorm"}


def read_llama(settings: Settings) -> dict[str, Any]:
    """Read a LLaMA's settings."""
    settings.expect("mlp_bias", False)
    settings.expect("pretraining_tp", 1)
    return read_decoder(settings)


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


def sources(spec: ModelSpec) -> Sources:
    """Say where each parameter comes from."""
    table = outside(spec)
    for index in range(spec.n_layers):
        ours, theirs = f"layers.{index}.", f"model.layers.{index}."
        table |= renamed(ATTENTION | FEEDFORWARD | NORMS, ["weight"], ours, theirs)
    return table


def outside(spec: ModelSpec) -> Sources:
    """Say where the parameters outside the layers come from."""
    names = {"embedding": "model.embed_tokens", "final_norm": "model.norm"}
    if not spec.tie_embeddings:
        names["head"] = "lm_head"
    return renamed(names, ["weight"])
