"""Tiny random models of every published family, built by transformers and saved as it saves them.

Every size of a model differs from its others, so that no transposed or swapped axis can hide; every array is random
(norms and biases too), and large enough that an error in any of them reaches the logits.
"""

from pathlib import Path
from typing import Any

import numpy as np

VOCAB, BATCH, TIME, WINDOW = 53, 2, 19, 7  # longer than the window, so that tokens leave it

_DECODER = {
    "vocab_size": VOCAB,
    "num_hidden_layers": 2,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 3.0,
    "original_max_position_embeddings": 16,
}
_GEMMA_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0},
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,  # equal ones, as published, would leave the rotated part's own temperature at 1
}
_QWEN_NEXT = {
    "num_hidden_layers": 4,
    "head_dim": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 7,
    "linear_value_head_dim": 5,
    "linear_conv_kernel_dim": 3,
    "rms_norm_eps": 0.01,  # norms of heads that are nearly 0 would blow up rounding, theirs as ours
    "num_experts": 9,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 11,
    "shared_expert_intermediate_size": 22,
}
_DEEPSEEK = {
    "num_key_value_heads": 6,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "first_k_dense_replace": 1,
    "n_routed_experts": 12,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 11,
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.7,
}

# family: (class of transformers, what its config sets)
FAMILIES = {
    "gpt2": ("GPT2", {"vocab_size": VOCAB, "n_layer": 2, "n_embd": 24, "n_head": 6, "n_positions": 32, "n_inner": 40}),
    "llama": ("Llama", _DECODER),
    "llama3": ("Llama", _DECODER | {"rope_parameters": _LLAMA3, "head_dim": 8, "tie_word_embeddings": True}),
    "mistral": ("Mistral", _DECODER | {"sliding_window": WINDOW}),
    "mixtral": ("Mixtral", _DECODER | {"num_local_experts": 5}),
    "gemma3": (
        "Gemma3",
        _DECODER
        | {
            "num_hidden_layers": 3,
            "head_dim": 8,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 13,
            "final_logit_softcapping": 9.0,
            "rope_parameters": _GEMMA_ROPE,
        },
    ),
    "qwen3": ("Qwen3", _DECODER | {"head_dim": 8}),
    "qwen3_yarn": ("Qwen3", _DECODER | {"rope_parameters": {key: _YARN[key] for key in list(_YARN)[:4]}}),
    "qwen3_next": ("Qwen3Next", _DECODER | _QWEN_NEXT),
    "deepseek_v2": ("DeepseekV2", _DECODER | _DEEPSEEK | {"q_lora_rank": None, "num_hidden_layers": 3}),
    "deepseek_v2_groups": (
        "DeepseekV2",
        _DECODER
        | _DEEPSEEK
        | {
            "q_lora_rank": 14,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "rope_parameters": _YARN,
        },
    ),
    "deepseek_v3": (
        "DeepseekV3",
        _DECODER | _DEEPSEEK | {"q_lora_rank": 14, "n_group": 4, "topk_group": 2, "rope_parameters": _YARN},
    ),
}


def build(family: str, seed: int = 0):
    """Return transformers' model of a family, with random weights, in evaluation mode."""
    import torch

    name, settings = FAMILIES[family]
    model = model_of(name, config_of(name, settings))
    generator = torch.Generator().manual_seed(seed)
    for array in [*model.parameters(), *_biases_of_routers(model)]:
        noise = torch.randn(array.shape, generator=generator)
        array.data = (array.data == 1).all() + 0.3 * noise if array.ndim == 1 else 0.4 * noise
    return model.float().eval()


def config_of(name: str, settings: dict[str, Any]):
    """Return transformers' config for the class of a name such as ``Llama``."""
    import transformers

    config = getattr(transformers, f"{_CONFIGS.get(name, name)}Config")(**settings)
    # The plain code of both: the fast one of experts refuses widths that are not multiples of 4.
    config._attn_implementation = config._experts_implementation = "eager"
    return config


def model_of(name: str, config):
    """Return transformers' language model of a config, as it comes."""
    import transformers

    return getattr(transformers, f"{name}{'LMHeadModel' if name == 'GPT2' else 'ForCausalLM'}")(config)


_CONFIGS = {"Gemma3": "Gemma3Text"}


def _biases_of_routers(model):
    return [buffer for name, buffer in model.named_buffers() if name.endswith("e_score_correction_bias")]


def save(model, folder: Path) -> Path:
    """Save a model as it would be published."""
    model.save_pretrained(folder)
    return folder


def tokens(seed: int = 0) -> np.ndarray:
    """Return random tokens (batch, time)."""
    return np.random.default_rng(seed).integers(0, VOCAB, (BATCH, TIME))


def logits(model, tokens: np.ndarray) -> np.ndarray:
    """Return transformers' logits (batch, time, vocabulary)."""
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(tokens), use_cache=False).logits.numpy()
