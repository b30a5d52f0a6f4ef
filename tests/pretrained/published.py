"""Tiny random models of every published family, built by transformers and saved as it saves them.

Every size of a model differs from its others, so that no transposed or swapped axis can hide; every array is random
(norms and biases too), and large enough that an error in any of them reaches the logits.
"""

from pathlib import Path

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
# family: (class of transformers, what its config sets)
FAMILIES = {
    "gpt2": ("GPT2", {"vocab_size": VOCAB, "n_layer": 2, "n_embd": 24, "n_head": 6, "n_positions": 32, "n_inner": 40}),
    "llama": ("Llama", _DECODER),
}


def build(family: str, seed: int = 0):
    """Return transformers' model of a family, with random weights, in evaluation mode."""
    import torch
    import transformers

    name, settings = FAMILIES[family]
    config = getattr(transformers, f"{_CONFIGS.get(name, name)}Config")(**settings)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{name}{'LMHeadModel' if name == 'GPT2' else 'ForCausalLM'}")(config)
    generator = torch.Generator().manual_seed(seed)
    for array in [*model.parameters(), *_biases_of_routers(model)]:
        noise = torch.randn(array.shape, generator=generator)
        array.data = (array.data == 1).all() + 0.3 * noise if array.ndim == 1 else 0.4 * noise
    return model.float().eval()


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
