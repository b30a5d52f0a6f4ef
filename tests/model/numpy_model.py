"""The model written again in numpy and float64, head by head and token by token: slow, plain, and independent of MLX.

Also the tiny models that the tests share: every axis has a size of its own, so that no transpose can hide.
"""

import itertools
import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from tiny_specs import GEMMA, GPT, LLAMA

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
_ROPE = replace(GPT.rope, original_context=200, fast_turns=10.0)  # 12 wide: some are kept, some ramped, some divided
ATTENTION_CHOICES = {
    "wide heads": replace(LLAMA, head_width=10),
    "narrow heads": replace(LLAMA, head_width=2),
    "qk norm": replace(LLAMA, qk_norm=True),
    "gate": replace(GPT, attention_gate=True),
    "scale": replace(LLAMA, attention_scale=0.3),
    "score cap": replace(LLAMA, attention_softcap=1.5),
    "score cap, one kv head": replace(GPT, attention_softcap=1.5, n_kv_heads=1),
    "logit cap": replace(LLAMA, logit_softcap=2.0),
    "scaled embedding": replace(LLAMA, scale_embedding=True),
    "scaled embedding with positions": replace(GPT, scale_embedding=True),
    "norms around": replace(LLAMA, norm_place="around"),
    "layernorms around": replace(GPT, norm_place="around", norm_epsilon=0.1),
    "geglu": replace(LLAMA, ffn="geglu"),
    "window": replace(LLAMA, layers=["local"], window=3),
    "window of one": replace(LLAMA, layers=["local"], window=1),
    "window as long as the text": replace(LLAMA, layers=["local"], window=TIME),
    "window and score cap": replace(GPT, layers=["gqa", "local"], window=2, attention_softcap=1.5),
    "alibi": replace(GPT, position="alibi"),
    "alibi, 4 heads": replace(GPT, position="alibi", n_heads=4, n_kv_heads=2),
    "alibi, window": replace(LLAMA, position="alibi", layers=["local", "gqa"], window=3),
    "alibi, score cap": replace(LLAMA, position="alibi", attention_softcap=1.5),
    "no position": replace(GPT, position="none"),
    "half rotated": replace(LLAMA, rope=replace(_ROPE, share=0.5)),
    "linear": replace(LLAMA, rope=replace(_ROPE, scaling="linear", factor=3.0)),
    "linear, tempered": replace(LLAMA, rope=replace(_ROPE, scaling="linear", factor=3.0, temperature=1.3)),
    "llama3": replace(LLAMA, head_width=12, rope=replace(_ROPE, scaling="llama3", factor=8.0)),
    "yarn": replace(LLAMA, head_width=12, rope=replace(_ROPE, scaling="yarn", factor=4.0)),
    "yarn, half rotated": replace(
        LLAMA,
        head_width=12,
        rope=replace(_ROPE, share=0.5, scaling="yarn", factor=4.0, temperature=0.7),
    ),
    "gemma": GEMMA,  # a base of their own for local layers, a stretched one for the others, and much of the above
}
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
    x = p["embedding.weight"][tokens] * (math.sqrt(spec.d_model) if spec.scale_embedding else 1)
    for t in range(len(tokens)):
        if spec.position == "learned":
            x[t] += p["position.weight"][t]
        if spec.position == "sinusoidal":
            x[t] += _sinusoids(t, spec.d_model)
    for layer in range(spec.n_layers):
        x = x + _branch(p, f"layers.{layer}.mixer", spec, x, layer)
        x = x + _branch(p, f"layers.{layer}.feedforward", spec, x, layer)
    x = _norm(p, "final_norm", spec, x)
    logits = x @ (p["embedding.weight"] if spec.tie_embeddings else p["head.weight"]).T
    return logits if spec.logit_softcap is None else spec.logit_softcap * np.tanh(logits / spec.logit_softcap)


def _branch(p, path, spec, x, layer):
    x = _norm(p, path + "_norm", spec, x)
    if path.endswith("mixer"):
        x = _attention(p, path + ".", spec, x, is_local=spec.layers[layer % len(spec.layers)] == "local")
    else:
        x = _feedforward(p, path + ".", spec, x)
    return _norm(p, path + "_output_norm", spec, x) if spec.norm_place == "around" else x


def _sinusoids(t, width):
    half = width // 2
    angles = [t / 10_000 ** (2 * i / width) for i in range(half)]
    return 0.02 * math.sqrt(2) * np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles])


def _linear(p, path, x):
    return x @ p[path + ".weight"].T + p.get(path + ".bias", 0.0)


def _norm(p, path, spec, x):
    if spec.norm == "layernorm":
        x = x - x.mean(-1, keepdims=True)
    return _divided_by_size(x, spec) * p[path + ".weight"] + p.get(path + ".bias", 0.0)


def _divided_by_size(x, spec):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + spec.norm_epsilon)


def _attention(p, path, spec, x, is_local):
    width, time = spec.head_width or spec.d_model // spec.n_heads, len(x)
    queries, keys, values = (_linear(p, path + name, x) for name in ("query", "key", "value"))
    mixed = np.zeros((time, spec.n_heads * width))
    queries_per_kv = spec.n_heads // (spec.n_kv_heads or spec.n_heads)
    for head in range(spec.n_heads):
        mine = slice(head * width, (head + 1) * width)
        shared = slice(head // queries_per_kv * width, (head // queries_per_kv + 1) * width)
        for t in range(time):
            first = max(0, t - spec.window + 1) if is_local else 0
            query = _prepared(p, path + "query_norm", spec, queries[t, mine], t, is_local)
            scores = np.zeros(t + 1 - first)
            for s in range(first, t + 1):
                key = _prepared(p, path + "key_norm", spec, keys[s, shared], s, is_local)
                score = query @ key * (spec.attention_scale or 1 / math.sqrt(width))
                if spec.attention_softcap:
                    score = spec.attention_softcap * math.tanh(score / spec.attention_softcap)
                scores[s - first] = score - (_slope(head, spec.n_heads) * (t - s) if spec.position == "alibi" else 0)
            weights = np.exp(scores - scores.max())
            mixed[t, mine] = weights / weights.sum() @ values[first : t + 1, shared]
    if spec.attention_gate:
        mixed = mixed / (1 + np.exp(-_linear(p, path + "gate", x)))
    return _linear(p, path + "output", mixed)


def _prepared(p, norm_path, spec, vector, t, is_local):
    if spec.qk_norm:
        vector = _divided_by_size(vector, spec) * p[norm_path + ".weight"]
    if spec.position != "rope":
        return vector
    rotated = round(len(vector) * spec.rope.share)
    return np.concatenate([_rotated(vector[:rotated], t, spec.rope, is_local), vector[rotated:]])


def _rotated(vector, t, rope, is_local):
    half = len(vector) // 2
    base = (rope.local_base or rope.base) if is_local else rope.base
    angles, temperature = base ** (-np.arange(half) / half), 1.0
    if not is_local and rope.scaling != "none":
        angles = np.array([_stretched(angle, pair, 2 * half, rope) for pair, angle in enumerate(angles)])
        temperature = rope.temperature or (0.1 * math.log(rope.factor) + 1 if rope.scaling == "yarn" else 1.0)
    turned = (vector[:half] + 1j * vector[half:]) * np.exp(1j * t * angles) * temperature
    return np.concatenate([turned.real, turned.imag])


def _stretched(angle, pair, width, rope):
    """Return the angle of a pair per token as it is after stretching, case by case as the sources have it."""
    if rope.scaling == "linear":
        return angle / rope.factor
    wavelength, context = 2 * math.pi / angle, rope.original_context
    if rope.scaling == "llama3":
        if wavelength < context / rope.fast_turns:
            return angle
        if wavelength > context / rope.slow_turns:
            return angle / rope.factor
        smooth = (context / wavelength - rope.slow_turns) / (rope.fast_turns - rope.slow_turns)
        return (1 - smooth) * angle / rope.factor + smooth * angle
    low, high = (
        width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(rope.base))
        for turns in (rope.fast_turns, rope.slow_turns)
    )
    low, high = max(math.floor(low), 0), min(math.ceil(high), width - 1)
    divided = np.interp(pair, [low, high], [0, 1])
    return (1 - divided) * angle + divided * angle / rope.factor


def _slope(head, n_heads):
    """Return the head's ALiBi slope, by the recursion of the paper's published code."""
    if math.log2(n_heads).is_integer():
        return 2 ** (-8 / n_heads * (head + 1))
    lower = 2 ** math.floor(math.log2(n_heads))
    return _slope(head, lower) if head < lower else _slope(2 * (head - lower), 2 * lower)


def _feedforward(p, path, spec, x):
    up = _linear(p, path + "up", x)
    if spec.ffn == "swiglu":
        gate = _linear(p, path + "gate", x)
        hidden = gate / (1 + np.exp(-gate)) * up
    elif spec.ffn == "geglu":
        hidden = _gelu(_linear(p, path + "gate", x)) * up
    elif spec.ffn == "relu2":
        hidden = np.where(up > 0, up, 0) ** 2
    else:
        hidden = _gelu(up)
    return _linear(p, path + "down", hidden)


def _gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
