"""What a model is made of: the one description from which ``LanguageModel`` is built."""

import math
from dataclasses import dataclass

from lmexp.errors import UserError, unknown

FEEDFORWARDS = ("gelu", "swiglu", "relu2")
NORMS = ("layernorm", "rmsnorm")
POSITIONS = ("sinusoidal", "learned", "rope")

INITIAL_DEVIATION = 0.02  # of matrices and embeddings (GPT-2's); fixed positions are added at the same size
_GATED_MULTIPLE = 8  # a gated hidden width is rounded to this, which matrix kernels like


@dataclass(frozen=True)
class ModelSpec:
    """An architecture, without the vocabulary and the context length (those belong to the data).

    The defaults stand in ``conf/model/*.yaml`` and nowhere else.

    Attributes:
        n_layers: blocks, each an attention and a feed-forward.
        n_heads: query heads per attention.
        n_kv_heads: key and value heads; None means as many as query heads (MHA), fewer means GQA.
        d_model: width of the residual stream.
        ffn: ``gelu`` (two matrices), ``swiglu`` (three, gated) or ``relu2`` (two, squared ReLU).
        ffn_expansion: hidden width over d_model for two matrices; ``swiglu`` takes 2/3 of it, so that parameters match.
        norm: ``layernorm`` or ``rmsnorm`` (which has a gain only, whatever ``bias`` says).
        position: ``sinusoidal`` or ``learned`` (added to the embedding), or ``rope`` (rotates queries and keys).
        rope_base: the longest wavelength of ``rope`` is 2 pi times about this many tokens.
        bias: whether linear maps and LayerNorm have a bias. The output head never has one.
        dropout: share of values zeroed in training: after the embedding and on both residual branches.
        tie_embeddings: whether the output head is the token embedding itself.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int | None
    d_model: int
    ffn: str
    ffn_expansion: float
    norm: str
    position: str
    rope_base: float
    bias: bool
    dropout: float
    tie_embeddings: bool

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "n_kv_heads", "d_model"):
            self._check_at_least_one(name)
        self._check_choices()
        self._check_ranges()
        self._check_heads()
        self._check_position()

    @property
    def kv_heads(self) -> int:
        """Key and value heads: ``n_kv_heads``, or ``n_heads`` where that is None."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads

    @property
    def hidden_width(self) -> int:
        """Width inside the feed-forward; three gated matrices of it weigh what two ungated ones would.

        Source: Shazeer 2020, "GLU Variants Improve Transformer", section 3.1.
        """
        width = self.ffn_expansion * self.d_model
        if self.ffn != "swiglu":
            return max(1, round(width))
        return max(_GATED_MULTIPLE, round(width * 2 / 3 / _GATED_MULTIPLE) * _GATED_MULTIPLE)

    def _check_at_least_one(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and value < 1:
            raise UserError(f"model.{name}={value} is too small: choose a whole number from 1 up.")

    def _check_choices(self) -> None:
        for name, allowed in (("ffn", FEEDFORWARDS), ("norm", NORMS), ("position", POSITIONS)):
            if getattr(self, name) not in allowed:
                raise unknown(f"model.{name}", getattr(self, name), allowed)

    def _check_ranges(self) -> None:
        if not 0 <= self.dropout < 1:
            raise UserError(
                f"model.dropout={self.dropout} is out of range: choose from 0 (off) to below 1, such as 0.1."
            )
        if not (0 < self.ffn_expansion < math.inf):
            raise UserError(f"model.ffn_expansion={self.ffn_expansion} is out of range: choose above 0, such as 4.0.")
        if not (1 < self.rope_base < math.inf):
            raise UserError(f"model.rope_base={self.rope_base} is out of range: choose above 1, such as 10000.0.")

    def _check_heads(self) -> None:
        if self.d_model % self.n_heads:
            raise UserError(_indivisible("n_heads", self.n_heads, "d_model", self.d_model))
        if self.n_heads % self.kv_heads:
            raise UserError(_indivisible("n_kv_heads", self.kv_heads, "n_heads", self.n_heads))

    def _check_position(self) -> None:
        if self.position == "rope" and self.head_dim % 2:
            raise UserError(
                f"model.position=rope needs an even head width, but model.d_model={self.d_model} over "
                f"model.n_heads={self.n_heads} makes {self.head_dim}: choose other numbers, or model.position=learned."
            )
        if self.position == "sinusoidal" and self.d_model % 2:
            raise UserError(
                f"model.position=sinusoidal needs an even width, but model.d_model={self.d_model}: "
                f"choose {self.d_model + 1}, or model.position=learned."
            )


def _indivisible(name: str, value: int, whole_name: str, whole: int) -> str:
    divisors = [number for number in range(1, whole + 1) if whole % number == 0]
    return (
        f"model.{name}={value} does not divide model.{whole_name}={whole}: "
        f"choose one of {', '.join(map(str, divisors))}."
    )
