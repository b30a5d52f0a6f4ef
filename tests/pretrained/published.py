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
# family: (class of transformers, what its config sets)
FAMILIES = {
    "gpt2": ("GPT2", {"vocab_size": VOCAB, "n_layer": 2, "n_embd": 24, "n_head": 6, "n_positions": 32, "n_inner": 40}),
    "llama": ("Llama", _DECODER),
    "llama3": ("Llama", _DECODER | {"rope_parameters": _LLAMA3, "head_dim": 8, "tie_word_embeddings": True}),
    "mistral": ("Mistral", _DECODER | {"sliding_window": WINDOW}),
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
    config._attn_implementation = "eager"
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
