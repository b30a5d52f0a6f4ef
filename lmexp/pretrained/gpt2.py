"""GPT-2 (Radford et al. 2019): matrices are stored (inputs, outputs), and query, key and value are one."""

from functools import partial
from typing import Any

import mlx.core as mx

from lmexp.model.spec import ModelSpec
from lmexp.pretrained.settings import Settings
from lmexp.pretrained.sources import Sources, changed, renamed

# Causal masks that old files carry as if they were weights.
IGNORED = (r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",)

_NORMS = {"mixer_norm": "ln_1", "feedforward_norm": "ln_2"}
_MATRICES = {"mixer.output": "attn.c_proj", "feedforward.up": "mlp.c_fc", "feedforward.down": "mlp.c_proj"}


def read(settings: Settings) -> dict[str, Any]:
    """Read a GPT-2's settings."""
    settings.expect("activation_function", "gelu_new", "gelu_pytorch_tanh")
    settings.expect("scale_attn_weights", True)
    settings.expect("scale_attn_by_inverse_layer_idx", False)
    settings.expect("add_cross_attention", False)
    settings.expect("tie_word_embeddings", True)
    settings.ignore("n_ctx", "reorder_and_upcast_attn", "attn_pdrop", "embd_pdrop", "resid_pdrop")
    settings.ignore(
        *(f"summary_{key}" for key in ("activation", "first_dropout", "proj_to_labels", "type", "use_proj"))
    )
    return {
        "n_layers": settings["n_layer"],
        "d_model": settings["n_embd"],
        "n_heads": settings["n_head"],
        "ffn": "gelu",
        "ffn_width": settings.get("n_inner", None) or 4 * settings["n_embd"],
        "norm": "layernorm",
        "norm_epsilon": settings.get("layer_norm_epsilon", 1e-5),
        "position": "learned",
        "bias": True,
        "tie_embeddings": True,
    }


def sources(spec: ModelSpec) -> Sources:
    """Say where each parameter comes from."""
    table = renamed({"embedding": "wte", "position": "wpe"}, ["weight"], theirs="transformer.")
    table |= renamed({"final_norm": "ln_f"}, ["weight", "bias"], theirs="transformer.")
    for index in range(spec.n_layers):
        table |= _layer(f"layers.{index}.", f"transformer.h.{index}.")
    return table


def _layer(ours: str, theirs: str) -> Sources:
    table = renamed(_NORMS, ["weight", "bias"], ours, theirs)
    for our, their in _MATRICES.items():
        table[f"{ours}{our}.weight"] = changed(f"{theirs}{their}.weight", mx.transpose)
        table |= renamed({our: their}, ["bias"], ours, theirs)
    for third, name in enumerate(("query", "key", "value")):
        for part in ("weight", "bias"):
            fused = f"{theirs}attn.c_attn.{part}"
            table[f"{ours}mixer.{name}.{part}"] = changed(fused, partial(_third, index=third))
    return table


def _third(fused: mx.array, index: int) -> mx.array:
    """Return query, key or value: (3 outputs,) or (inputs, 3 outputs) to (outputs,) or (outputs, inputs)."""
    return mx.split(fused, 3, axis=-1)[index].T
