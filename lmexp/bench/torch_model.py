"""The same model in PyTorch, parameter by parameter under the same names: the peer that training is compared with.

It is tested to have the same loss, and the same weights after a step, as ours. Never import MLX here: on a GPU both
would bring their own CUDA libraries into one process.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmexp.errors import UserError
from lmexp.model.spec import GATED, INITIAL_DEVIATION, ModelSpec

_WAVELENGTH_BASE = 10_000.0  # of sinusoidal positions
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "geglu": lambda x: F.gelu(x, approximate="tanh"),
    "swiglu": F.silu,
    "relu2": lambda x: F.relu(x).square(),
}

# The fields of a spec that this model follows.
# fmt: off
FOLLOWED = frozenset([
    "n_layers", "d_model", "layers", "n_heads", "n_kv_heads", "head_width", "attention_scale", "ffn", "ffn_expansion",
    "ffn_width", "norm", "norm_epsilon", "position", "bias", "tie_embeddings", "scale_embedding", "rope",
])
# fmt: on
# The fields that only parts read which it does not have, and so says nothing about.
UNREAD = frozenset(["window", "mla", "delta", "future_weight"])


def faults(spec: ModelSpec) -> dict[str, bool]:
    """Return every field that this model knows one value of, and whether the spec has another."""
    return {
        "layers": set(spec.mixers) != {"gqa"},
        "qk_norm": spec.qk_norm,
        "attention_gate": spec.attention_gate,
        "attention_softcap": spec.attention_softcap is not None,
        "norm_place": spec.norm_place != "before",
        "position": spec.position == "alibi",
        "dropout": spec.dropout > 0,
        "logit_softcap": spec.logit_softcap is not None,
        "future_tokens": spec.future_tokens > 0,
        "rope": spec.rope.share != 1 or spec.rope.scaling != "none",
        "experts": spec.experts.n_experts > 0,
    }


def check(spec: ModelSpec) -> None:
    """Refuse a model that would not be the same here.

    Raises:
        UserError: naming the field.
    """
    for name, is_fault in faults(spec).items():
        if is_fault:
            raise UserError(
                f"The PyTorch model does not follow model.{name}={getattr(spec, name)}: compare with "
                "--against bare, or choose a gpt_* or llama_* model."
            )


class TorchModel(nn.Module):
    """Predict the next token at every position, as ``lmexp.model.LanguageModel`` does."""

    sinusoids: Tensor
    padding: Tensor

    def __init__(self, spec: ModelSpec, vocab_size: int, padded_vocab_size: int, context_length: int):
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(padded_vocab_size, spec.d_model)
        if spec.position == "learned":
            self.position = nn.Embedding(context_length, spec.d_model)
        if spec.position == "sinusoidal":
            self.register_buffer("sinusoids", _sinusoids(context_length, spec.d_model), persistent=False)
        self.layers = nn.ModuleList(_Block(spec, context_length) for _ in range(spec.n_layers))
        self.final_norm = _make_norm(spec)
        if not spec.tie_embeddings:
            self.head = nn.Linear(spec.d_model, padded_vocab_size, bias=False)
        padding = torch.zeros(padded_vocab_size)
        padding[vocab_size:] = -math.inf
        self.register_buffer("padding", padding, persistent=False)
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=INITIAL_DEVIATION)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (batch, time, padded_vocab_size) for tokens (batch, time) of a whole context or less."""
        time = tokens.shape[1]
        x = self.embedding(tokens)
        if self.spec.scale_embedding:
            x = x * math.sqrt(self.spec.d_model)
        if self.spec.position == "learned":
            x = x + self.position.weight[:time]
        if self.spec.position == "sinusoidal":
            x = x + self.sinusoids[:time]
        for layer in self.layers:
            x = layer(x)
        weight = self.embedding.weight if self.spec.tie_embeddings else self.head.weight
        return F.linear(self.final_norm(x), weight, self.padding)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cost of the targets in nats per token, in float32; inputs, targets: (batch, time)."""
        return F.cross_entropy(self(inputs).float().flatten(0, 1), targets.flatten())


class _Block(nn.Module):
    def __init__(self, spec: ModelSpec, context_length: int):
        super().__init__()
        self.mixer_norm, self.mixer = _make_norm(spec), _Attention(spec, context_length)
        self.feedforward_norm, self.feedforward = _make_norm(spec), _FeedForward(spec)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.mixer_norm(x))
        return x + self.feedforward(self.feedforward_norm(x))


class _Attention(nn.Module):
    def __init__(self, spec: ModelSpec, context_length: int):
        super().__init__()
        self.spec = spec
        width, kv_width = spec.n_heads * spec.head_dim, spec.kv_heads * spec.head_dim
        self.query = nn.Linear(spec.d_model, width, bias=spec.bias)
        self.key = nn.Linear(spec.d_model, kv_width, bias=spec.bias)
        self.value = nn.Linear(spec.d_model, kv_width, bias=spec.bias)
        self.output = nn.Linear(width, spec.d_model, bias=spec.bias)
        self.rotation = _Rotation(spec, context_length) if spec.position == "rope" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        queries, keys = self.rotation(self._heads(self.query(x))), self.rotation(self._heads(self.key(x)))
        mixed = F.scaled_dot_product_attention(
            queries,
            keys,
            self._heads(self.value(x)),
            is_causal=True,
            scale=self.spec.attention_scale,
            enable_gqa=self.spec.kv_heads != self.spec.n_heads,
        )
        return self.output(mixed.transpose(1, 2).reshape(batch, time, -1))

    def _heads(self, x: Tensor) -> Tensor:
        """Turn (batch, time, heads x head_dim) into (batch, heads, time, head_dim)."""
        return x.unflatten(-1, (-1, self.spec.head_dim)).transpose(1, 2)


class _Rotation(nn.Module):
    """Pairs are (i, i + head_dim / 2), as in LLaMA's published weights."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, spec: ModelSpec, context_length: int):
        super().__init__()
        frequencies = spec.rope.base ** (-torch.arange(0, spec.head_dim, 2) / spec.head_dim)
        angles = torch.arange(context_length)[:, None] * frequencies
        self.register_buffer("cosines", angles.cos(), persistent=False)
        self.register_buffer("sines", angles.sin(), persistent=False)

    def forward(self, heads: Tensor) -> Tensor:
        time = heads.shape[2]
        left, right = heads.float().chunk(2, dim=-1)
        cosines, sines = self.cosines[:time], self.sines[:time]
        return torch.cat([left * cosines - right * sines, right * cosines + left * sines], dim=-1).to(heads.dtype)


class _FeedForward(nn.Module):
    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.activation = _ACTIVATIONS[spec.ffn]
        self.gated = spec.ffn in GATED
        if self.gated:
            self.gate = nn.Linear(spec.d_model, spec.hidden_width, bias=spec.bias)
        self.up = nn.Linear(spec.d_model, spec.hidden_width, bias=spec.bias)
        self.down = nn.Linear(spec.hidden_width, spec.d_model, bias=spec.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.gate(x)) * self.up(x) if self.gated else self.activation(self.up(x))
        return self.down(hidden)


def _make_norm(spec: ModelSpec) -> nn.Module:
    if spec.norm == "rmsnorm":
        return nn.RMSNorm(spec.d_model, eps=spec.norm_epsilon)
    return nn.LayerNorm(spec.d_model, eps=spec.norm_epsilon, bias=spec.bias)


def _sinusoids(context_length: int, d_model: int) -> Tensor:
    """Return (context_length, d_model): sines in the left half, at the root mean square of a fresh embedding."""
    frequencies = _WAVELENGTH_BASE ** (-torch.arange(0, d_model, 2) / d_model)
    angles = torch.arange(context_length)[:, None] * frequencies
    return math.sqrt(2) * INITIAL_DEVIATION * torch.cat([angles.sin(), angles.cos()], dim=-1)
