"""Models of the same sizes in mlx_lm, the peer that decoding is compared with."""

from typing import Any

from lmexp.errors import UserError
from lmexp.model.spec import ModelSpec


def check(spec: ModelSpec) -> None:
    """Refuse a model whose sizes mlx_lm's two models would not have.

    Raises:
        UserError: what it is that they lack.
    """
    like_llama = {
        "ffn": spec.ffn == "swiglu",
        "norm": spec.norm == "rmsnorm",
        "norm_place": spec.norm_place == "before",
        "position": spec.position == "rope",
        "bias": not spec.bias,
        "qk_norm": not spec.qk_norm,
        "attention_gate": not spec.attention_gate,
        "attention_softcap": spec.attention_softcap is None,
        "logit_softcap": spec.logit_softcap is None,
        "rope": spec.rope.share == 1 and spec.rope.scaling == "none",
        "experts": spec.experts.n_experts == 0,
        "layers": set(spec.mixers) in ({"gqa"}, {"mla"}),
    }
    for name, is_like in like_llama.items():
        if not is_like:
            raise UserError(
                f"--against mlx_lm compares llama_* models, with layers of gqa or of mla, not "
                f"model.{name}={getattr(spec, name)}; leave it out, or choose model=llama_small."
            )


def build(spec: ModelSpec, vocab_size: int, context_length: int) -> Any:
    """Return mlx_lm's llama, or its deepseek_v2 for latent attention."""
    return (_llama if set(spec.mixers) == {"gqa"} else _deepseek)(spec, vocab_size, context_length)


def _llama(spec: ModelSpec, vocab_size: int, context_length: int) -> Any:
    from mlx_lm.models.llama import Model, ModelArgs

    sizes = ModelArgs(
        model_type="llama",
        vocab_size=vocab_size,
        hidden_size=spec.d_model,
        head_dim=spec.head_dim,
        num_hidden_layers=spec.n_layers,
        num_attention_heads=spec.n_heads,
        num_key_value_heads=spec.kv_heads,
        intermediate_size=spec.hidden_width,
        rms_norm_eps=spec.norm_epsilon,
        rope_theta=spec.rope.base,
        max_position_embeddings=context_length,
        tie_word_embeddings=spec.tie_embeddings,
    )
    return Model(sizes)


def _deepseek(spec: ModelSpec, vocab_size: int, context_length: int) -> Any:
    """Its head is untied, which costs the same product, and its rotation always stretched: here by a factor of 1."""
    from mlx_lm.models.deepseek_v2 import Model, ModelArgs

    latent = spec.mla
    query_rank: Any = latent.query_rank  # None is taken, though its type does not say so
    sizes = ModelArgs(
        vocab_size=vocab_size,
        hidden_size=spec.d_model,
        num_hidden_layers=spec.n_layers,
        num_attention_heads=spec.n_heads,
        num_key_value_heads=spec.n_heads,
        intermediate_size=spec.hidden_width,
        kv_lora_rank=latent.kv_rank,
        q_lora_rank=query_rank,
        qk_rope_head_dim=latent.rope_width,
        qk_nope_head_dim=spec.head_dim,
        v_head_dim=spec.head_dim if latent.value_width is None else latent.value_width,
        rms_norm_eps=spec.norm_epsilon,
        rope_theta=spec.rope.base,
        max_position_embeddings=context_length,
        rope_scaling={"factor": 1.0, "original_max_position_embeddings": context_length},
    )
    return Model(sizes)
