"""What a model is made of: the one description from which ``LanguageModel`` is built."""

import math
from dataclasses import dataclass

from lmexp.errors import UserError, unknown
from lmexp.model.parts import DeltaSpec, ExpertsSpec, LatentSpec, RopeSpec

MIXERS = ("gqa", "local", "mla", "delta")
FEEDFORWARDS = ("gelu", "relu2", "swiglu", "geglu")
GATED = ("swiglu", "geglu")
NORMS = ("layernorm", "rmsnorm")
NORM_PLACES = ("before", "around")
POSITIONS = ("sinusoidal", "learned", "rope", "alibi", "none")
ADDED_POSITIONS = ("sinusoidal", "learned")

INITIAL_DEVIATION = 0.02  # of matrices and embeddings (GPT-2's); fixed positions are added at the same size
_GATED_MULTIPLE = 8  # a gated hidden width is rounded to this, which matrix kernels like


@dataclass(frozen=True)
class ModelSpec:
    """An architecture, without the vocabulary and the context length (those belong to the data).

    The defaults stand in ``conf/model/*.yaml`` and nowhere else.

    Attributes:
        n_layers: blocks, each a mixer of tokens and a feed-forward.
        d_model: width of the residual stream.
        layers: the mixers, repeated over the layers: ``gqa`` (attention to all tokens before), ``local`` (to the last
            ``window``), ``mla`` (multi-head latent attention), ``delta`` (gated DeltaNet).
        n_heads: query heads per attention.
        n_kv_heads: key and value heads; None means as many as query heads (MHA), fewer means GQA.
        head_width: width of one head; None means d_model / n_heads.
        window: tokens that a ``local`` layer sees, its own included.
        qk_norm: whether each head's query and key pass an RMSNorm before they are rotated (Henry et al. 2020).
        attention_gate: whether attention's output is multiplied by a sigmoid gate made from its input.
        attention_scale: multiplies the scores; None means 1 / sqrt(width of a query).
        attention_softcap: scores s become cap tanh(s / cap) (Gemma 2); None turns it off.
        ffn: ``gelu``, ``relu2`` (two matrices), ``swiglu`` or ``geglu`` (three, gated).
        ffn_expansion: hidden width over d_model for two matrices; gated ones take 2/3 of it, so that parameters match.
        ffn_width: the hidden width itself; None means by ``ffn_expansion``.
        norm: ``layernorm`` or ``rmsnorm`` (which has a gain only, whatever ``bias`` says).
        norm_epsilon: added to the variance in every norm.
        norm_place: ``before`` each branch, or ``around`` it: once more on what it adds to the residual stream (Gemma).
        position: ``sinusoidal`` or ``learned`` (added to the embedding), ``rope`` (rotates queries and keys), ``alibi``
            (a penalty on distance) or ``none``. DeltaNet layers read added positions only.
        bias: whether linear maps and LayerNorm have a bias. The output head never has one.
        dropout: share of values zeroed in training: after the embedding and on both residual branches.
        tie_embeddings: whether the output head is the token embedding itself.
        scale_embedding: whether the embedding is multiplied by sqrt(d_model) (Vaswani et al. 2017, section 3.4).
        logit_softcap: as ``attention_softcap``, for the logits.
        future_tokens: further tokens that are predicted while training (multi-token prediction; DeepSeek-AI 2024,
            "DeepSeek-V3", section 2.2); 0 turns it off.
        future_weight: of their mean loss beside that of the next token.
        rope, mla, delta, experts: see :mod:`lmexp.model.parts`.
    """

    n_layers: int
    d_model: int
    layers: list[str]
    n_heads: int
    n_kv_heads: int | None
    head_width: int | None
    window: int | None
    qk_norm: bool
    attention_gate: bool
    attention_scale: float | None
    attention_softcap: float | None
    ffn: str
    ffn_expansion: float
    ffn_width: int | None
    norm: str
    norm_epsilon: float
    norm_place: str
    position: str
    bias: bool
    dropout: float
    tie_embeddings: bool
    scale_embedding: bool
    logit_softcap: float | None
    future_tokens: int
    future_weight: float
    rope: RopeSpec
    mla: LatentSpec
    delta: DeltaSpec
    experts: ExpertsSpec

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "n_kv_heads", "d_model", "head_width", "window", "ffn_width"):
            self._check_at_least_one(name)
        self._check_choices()
        self._check_ranges()
        self._check_heads()
        self._check_position()
        self._check_latent()
        self._check_experts()

    @property
    def mixers(self) -> list[str]:
        """The mixer of each layer: ``layers``, repeated."""
        return [self.layers[index % len(self.layers)] for index in range(self.n_layers)]

    @property
    def kv_heads(self) -> int:
        """Key and value heads: ``n_kv_heads``, or ``n_heads`` where that is None."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def head_dim(self) -> int:
        """Width of one head: ``head_width``, or d_model / n_heads where that is None."""
        return self.d_model // self.n_heads if self.head_width is None else self.head_width

    @property
    def hidden_width(self) -> int:
        """Width inside the feed-forward; three gated matrices of it weigh what two ungated ones would.

        Source: Shazeer 2020, "GLU Variants Improve Transformer", section 3.1.
        """
        if self.ffn_width is not None:
            return self.ffn_width
        width = self.ffn_expansion * self.d_model
        if self.ffn not in GATED:
            return max(1, round(width))
        return max(_GATED_MULTIPLE, round(width * 2 / 3 / _GATED_MULTIPLE) * _GATED_MULTIPLE)

    def _check_at_least_one(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and value < 1:
            raise UserError(f"model.{name}={value} is too small: choose a whole number from 1 up.")

    def _check_choices(self) -> None:
        choices = (("ffn", FEEDFORWARDS), ("norm", NORMS), ("norm_place", NORM_PLACES), ("position", POSITIONS))
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise unknown(f"model.{name}", getattr(self, name), allowed)
        if not self.layers:
            raise UserError(f"model.layers is empty: choose one or more of {', '.join(MIXERS)}, for instance [gqa].")
        for mixer in self.layers:
            if mixer not in MIXERS:
                raise unknown("model.layers entry", mixer, MIXERS)
        if "local" in self.mixers and self.window is None:
            raise UserError("model.layers has local attention: say how many tokens it sees, such as model.window=128.")

    def _check_ranges(self) -> None:
        if not 0 <= self.dropout < 1:
            raise UserError(
                f"model.dropout={self.dropout} is out of range: choose from 0 (off) to below 1, such as 0.1."
            )
        examples = {
            "ffn_expansion": 4.0,
            "norm_epsilon": 1e-5,
            "attention_scale": 0.125,
            "attention_softcap": 50.0,
            "logit_softcap": 30.0,
        }
        for name, example in examples.items():
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"model.{name}={value} is out of range: choose above 0, such as {example}.")
        for name in ("future_tokens", "future_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"model.{name}={getattr(self, name)} is out of range: choose from 0 up.")

    def _check_heads(self) -> None:
        if self.head_width is None and self.d_model % self.n_heads:
            raise UserError(_indivisible("n_heads", self.n_heads, "d_model", self.d_model))
        if self.n_heads % self.kv_heads:
            raise UserError(_indivisible("n_kv_heads", self.kv_heads, "n_heads", self.n_heads))
        key_heads, value_heads = self.delta.heads(self.n_heads)
        if "delta" in self.mixers and value_heads % key_heads:
            raise UserError(_indivisible("delta.key_heads", key_heads, "delta.value_heads", value_heads))

    def _check_position(self) -> None:
        if self.position == "rope" and (self.head_dim * self.rope.share) % 2:
            raise UserError(
                f"model.position=rope needs an even head width (and an even model.rope.share of it), but "
                f"{self._head_width_in_words}: choose other numbers, or model.position=learned."
            )
        if self.position == "sinusoidal" and self.d_model % 2:
            raise UserError(
                f"model.position=sinusoidal needs an even width, but model.d_model={self.d_model}: "
                f"choose {self.d_model + 1}, or model.position=learned."
            )

    @property
    def _head_width_in_words(self) -> str:
        if self.head_width is not None:
            return f"model.head_width={self.head_width}"
        return f"model.d_model={self.d_model} over model.n_heads={self.n_heads} makes {self.head_dim}"

    def _check_experts(self) -> None:
        if self.experts.n_experts and self.bias:
            raise UserError("Experts have no biases: choose model.bias=false, or model.experts.n_experts=0.")
        if self.experts.n_experts and self.experts.n_dense_layers >= self.n_layers:
            raise UserError(
                f"model.experts.n_dense_layers={self.experts.n_dense_layers} leaves none of model.n_layers="
                f"{self.n_layers} layers to the experts: choose fewer, or model.experts.n_experts=0."
            )

    def _check_latent(self) -> None:
        choices = {
            "position=alibi": self.position == "alibi",
            "qk_norm=true": self.qk_norm,
            "attention_gate=true": self.attention_gate,
            "attention_softcap": self.attention_softcap is not None,
        }
        unread = [name for name, is_chosen in choices.items() if is_chosen]
        if "mla" in self.layers and unread:
            raise UserError(
                f"model.layers has mla, which does not know model.{unread[0]}: leave that out, or choose gqa layers."
            )


def _indivisible(name: str, value: int, whole_name: str, whole: int) -> str:
    divisors = [number for number in range(1, whole + 1) if whole % number == 0]
    return (
        f"model.{name}={value} does not divide model.{whole_name}={whole}: "
        f"choose one of {', '.join(map(str, divisors))}."
    )
