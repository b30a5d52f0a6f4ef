"""The model written again in numpy and float64, head by head and token by token: slow, plain, and independent of MLX.

Also the tiny models that the tests share: every axis has a size of its own, so that no transpose can hide.
"""

import itertools
import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from tiny_specs import GPT

from lmexp.model.language_model import LanguageModel
from lmexp.model.spec import ModelSpec

BATCH, TIME, CONTEXT, VOCAB, PADDED = 5, 7, 11, 29, 31

EVERY_CHOICE = [
    replace(GPT, n_kv_heads=kv, ffn=ffn, norm=norm, position=position, bias=bias, tie_embeddings=tied)
    for kv, ffn, norm, position, bias, tied in itertools.product(
        (None, 3),
        ("gelu", "swiglu", "relu2"),
        ("layernorm", "rmsnorm"),
        ("sinusoidal", "learned", "rope"),
        (True, False),
        (True, False),
    )
]
POSITIONS_AND_HEADS = [
    replace(GPT, position=position, n_kv_heads=kv)
    for position, kv in itertools.product(("sinusoidal", "learned", "rope"), (None, 3, 1))
]


def name_of(spec: ModelSpec) -> str:
    """Name a spec in a test's identifier."""
    switches = ("bias" if spec.bias else "nobias") + ("-tied" if spec.tie_embeddings else "-untied")
    return f"kv{spec.kv_heads}-{spec.ffn}-{spec.norm}-{spec.position}-{switches}"


def make_model(spec: ModelSpec, seed: int = 0, vocab: int = VOCAB, padded: int = PADDED, context: int = CONTEXT):
    """Build a model whose every parameter matters: biases are not 0, gains not 1, logits of order 1."""
    model = LanguageModel(spec, vocab, padded, context)
    generator = np.random.default_rng(seed)
    weights = []
    for path, array in tree_flatten(model.parameters()):
        values = generator.normal(0, 0.3, array.shape)
        if array.ndim == 1 and path.endswith(".weight"):
            values += 1
        weights.append((path, mx.array(values.astype(np.float32))))
    model.load_weights(weights)
    model.eval()
    return model


def some_tokens(seed: int = 0, time: int = TIME, batch: int = BATCH) -> np.ndarray:
    """Return random real tokens (batch, time)."""
    return np.random.default_rng(seed).integers(0, VOCAB, (batch, time)).astype(np.int32)


def parameters_of(model: LanguageModel) -> dict[str, np.ndarray]:
    """Return the model's parameters by path, in float64."""
    return {path: np.array(array, dtype=np.float64) for path, array in tree_flatten(model.parameters())}


def logits_of(parameters: dict[str, np.ndarray], spec: ModelSpec, tokens: np.ndarray) -> np.ndarray:
    """Return the (batch, time, padded) logits, padding included as if it were real, computed sequence by sequence."""
    return np.stack([_one_sequence(parameters, spec, sequence) for sequence in tokens])


def mean_loss(logits: np.ndarray, targets: np.ndarray, vocab: int = VOCAB) -> float:
    """Return the mean cross-entropy in nats over the real part of the vocabulary."""
    real = logits[..., :vocab]
    top = real.max(-1, keepdims=True)
    log_total = np.log(np.exp(real - top).sum(-1)) + top[..., 0]
    return float(np.mean(log_total - np.take_along_axis(real, targets[..., None], -1)[..., 0]))


def _one_sequence(p, spec, tokens):
    x = p["embedding.weight"][tokens].copy()
    for t in range(len(tokens)):
        if spec.position == "learned":
            x[t] += p["position.weight"][t]
        if spec.position == "sinusoidal":
            x[t] += _sinusoids(t, spec.d_model)
    for layer in range(spec.n_layers):
        path = f"layers.{layer}."
        x = x + _attention(p, path + "mixer.", spec, _norm(p, path + "mixer_norm", spec, x))
        x = x + _feedforward(p, path + "feedforward.", spec, _norm(p, path + "feedforward_norm", spec, x))
    x = _norm(p, "final_norm", spec, x)
    return x @ (p["embedding.weight"] if spec.tie_embeddings else p["head.weight"]).T


def _sinusoids(t, width):
    half = width // 2
    angles = [t / 10_000 ** (2 * i / width) for i in range(half)]
    return 0.02 * math.sqrt(2) * np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles])


def _linear(p, path, x):
    return x @ p[path + ".weight"].T + p.get(path + ".bias", 0.0)


def _norm(p, path, spec, x):
    if spec.norm == "layernorm":
        x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p[path + ".weight"] + p.get(path + ".bias", 0.0)


def _attention(p, path, spec, x):
    width, time = spec.d_model // spec.n_heads, len(x)
    queries, keys, values = (_linear(p, path + name, x) for name in ("query", "key", "value"))
    mixed = np.zeros((time, spec.d_model))
    queries_per_kv = spec.n_heads // (spec.n_kv_heads or spec.n_heads)
    for head in range(spec.n_heads):
        mine = slice(head * width, (head + 1) * width)
        shared = slice(head // queries_per_kv * width, (head // queries_per_kv + 1) * width)
        for t in range(time):
            query = _rotated(queries[t, mine], t, spec)
            scores = np.array([query @ _rotated(keys[s, shared], s, spec) for s in range(t + 1)]) / math.sqrt(width)
            weights = np.exp(scores - scores.max())
            mixed[t, mine] = weights / weights.sum() @ values[: t + 1, shared]
    return _linear(p, path + "output", mixed)


def _rotated(vector, t, spec):
    if spec.position != "rope":
        return vector
    half = len(vector) // 2
    turns = np.exp(1j * t * spec.rope.base ** (-np.arange(half) / half))
    turned = (vector[:half] + 1j * vector[half:]) * turns
    return np.concatenate([turned.real, turned.imag])


def _feedforward(p, path, spec, x):
    up = _linear(p, path + "up", x)
    if spec.ffn == "swiglu":
        gate = _linear(p, path + "gate", x)
        hidden = gate / (1 + np.exp(-gate)) * up
    elif spec.ffn == "relu2":
        hidden = np.where(up > 0, up, 0) ** 2
    else:
        hidden = 0.5 * up * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
    return _linear(p, path + "down", hidden)
