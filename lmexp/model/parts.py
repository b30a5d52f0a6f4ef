"""What only some models have, each part described by itself: rotated positions, latent attention, DeltaNet, experts."""

import math
from dataclasses import dataclass

from lmexp.errors import UserError, unknown

ROPE_SCALINGS = ("none", "linear", "llama3", "yarn")
ROUTER_SCORES = ("softmax", "sigmoid")


@dataclass(frozen=True)
class RopeSpec:
    """Rotary positions (Su et al. 2021), and how they are stretched beyond the context that a model was trained with.

    Attributes:
        base: the longest wavelength is 2 pi times about this many tokens.
        local_base: the base in ``local`` layers; None means the same.
        share: of a head's width that is rotated, from its front; the rest knows no position.
        scaling: ``none``, ``linear`` (positions divided by ``factor``), ``llama3`` or ``yarn`` (fast wavelengths kept,
            slow ones divided, a ramp between). It is not applied in ``local`` layers.
        factor: by which the context was stretched.
        original_context: tokens of the context before it was stretched; None where ``scaling`` does not need it.
        slow_turns: wavelengths that turn fewer times than this in the original context are divided by ``factor``.
        fast_turns: those that turn more often are kept.
        temperature: multiplies each rotated query and key; None means 0.1 ln(factor) + 1 for yarn, else 1.
    """

    base: float
    local_base: float | None
    share: float
    scaling: str
    factor: float
    original_context: int | None
    slow_turns: float
    fast_turns: float
    temperature: float | None

    def __post_init__(self) -> None:
        for name in ("base", "local_base"):
            value = getattr(self, name)
            if value is not None and not (1 < value < math.inf):
                raise UserError(f"model.rope.{name}={value} is out of range: choose above 1, such as 10000.0.")
        if not 0 < self.share <= 1:
            raise UserError(f"model.rope.share={self.share} is out of range: choose above 0, up to 1 (the whole head).")
        if self.scaling not in ROPE_SCALINGS:
            raise unknown("model.rope.scaling", self.scaling, ROPE_SCALINGS)
        if not 1 <= self.factor < math.inf:
            raise UserError(f"model.rope.factor={self.factor} is out of range: choose 1 (not stretched) or above.")
        if self.scaling in ("llama3", "yarn") and self.original_context is None:
            raise UserError(
                f"model.rope.scaling={self.scaling} needs the context before it was stretched: add for instance "
                "model.rope.original_context=8192."
            )
        if self.original_context is not None and self.original_context < 1:
            raise UserError(f"model.rope.original_context={self.original_context} is too small: choose from 1 up.")
        if not 0 < self.slow_turns < self.fast_turns:
            raise UserError(
                f"model.rope.slow_turns={self.slow_turns} must be above 0 and below "
                f"model.rope.fast_turns={self.fast_turns}."
            )
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise UserError(f"model.rope.temperature={self.temperature} is out of range: choose above 0.")


@dataclass(frozen=True)
class LatentSpec:
    """Multi-head latent attention (DeepSeek-AI 2024, "DeepSeek-V2", section 2.1); read by ``mla`` layers.

    Attributes:
        kv_rank: width of the latent that is cached in place of keys and values.
        query_rank: width of the latent that queries are made from; None means straight from the residual stream.
        rope_width: width of the rotated part of a query, and of the one rotated key that all heads share.
        value_width: of one head; None means the head's width.
    """

    kv_rank: int
    query_rank: int | None
    rope_width: int
    value_width: int | None

    def __post_init__(self) -> None:
        _check_at_least_one("model.mla", self, ("kv_rank", "query_rank", "rope_width", "value_width"))
        if self.rope_width % 2:
            raise UserError(f"model.mla.rope_width={self.rope_width} must be even: a rotation takes pairs.")


@dataclass(frozen=True)
class DeltaSpec:
    """Gated DeltaNet (Yang et al. 2024); read by ``delta`` layers.

    Attributes:
        key_heads: heads of queries and keys; None means ``n_heads``.
        value_heads: heads of values, a multiple of ``key_heads``; None means as many.
        key_width: of one head; None means the attention's head width.
        value_width: of one head; None means ``key_width``.
        convolution_width: tokens that the causal convolution before the recurrence sees.
    """

    key_heads: int | None
    value_heads: int | None
    key_width: int | None
    value_width: int | None
    convolution_width: int

    def __post_init__(self) -> None:
        names = ("key_heads", "value_heads", "key_width", "value_width", "convolution_width")
        _check_at_least_one("model.delta", self, names)

    def heads(self, n_heads: int) -> tuple[int, int]:
        """Return the heads of keys and of values, in a model whose attention has ``n_heads``."""
        keys = n_heads if self.key_heads is None else self.key_heads
        return keys, keys if self.value_heads is None else self.value_heads

    def widths(self, head_width: int) -> tuple[int, int]:
        """Return the widths of one key and of one value, in a model whose attention has heads of ``head_width``."""
        key = head_width if self.key_width is None else self.key_width
        return key, key if self.value_width is None else self.value_width


@dataclass(frozen=True)
class ExpertsSpec:
    """A mixture of experts in place of one feed-forward (Shazeer et al. 2017; shared experts: Dai et al. 2024).

    Attributes:
        n_experts: routed experts in a layer; 0 means none: every layer has one feed-forward.
        n_active: of them that each token is sent to.
        n_shared: experts that every token passes, merged into one of so many times the width.
        shared_gate: whether the shared experts' output is multiplied by a sigmoid gate of the token.
        width: hidden width of one expert; None means that of the dense feed-forward.
        n_dense_layers: first layers that keep one dense feed-forward.
        scores: ``softmax`` or ``sigmoid`` of the router's logits.
        normalise: whether the weights of a token's experts are divided by their sum.
        scale: multiplies the weights after that.
        n_groups: groups of experts; a token's experts come from ``n_active_groups`` of them. 1 means no groups.
        n_active_groups: groups chosen, by their best expert (softmax) or their two best together (sigmoid).
        balance_rate: step of the bias that evens the load after each optimizer step (Wang et al. 2024); 0: off.
    """

    n_experts: int
    n_active: int
    n_shared: int
    shared_gate: bool
    width: int | None
    n_dense_layers: int
    scores: str
    normalise: bool
    scale: float
    n_groups: int
    n_active_groups: int
    balance_rate: float

    def __post_init__(self) -> None:
        _check_at_least_one("model.experts", self, ("n_active", "width", "n_groups", "n_active_groups"))
        for name in ("n_experts", "n_shared", "n_dense_layers", "balance_rate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"model.experts.{name}={getattr(self, name)} is out of range: choose from 0 up.")
        if self.scores not in ROUTER_SCORES:
            raise unknown("model.experts.scores", self.scores, ROUTER_SCORES)
        if not 0 < self.scale < math.inf:
            raise UserError(f"model.experts.scale={self.scale} is out of range: choose above 0, such as 1.0.")
        if self.n_experts:
            self._check_choice()

    def _check_choice(self) -> None:
        if self.n_experts % self.n_groups or self.n_active_groups > self.n_groups:
            raise UserError(
                f"model.experts.n_groups={self.n_groups} must divide model.experts.n_experts={self.n_experts} and be "
                f"at least model.experts.n_active_groups={self.n_active_groups}."
            )
        reachable = self.n_experts // self.n_groups * self.n_active_groups
        if self.n_active > reachable:
            raise UserError(
                f"model.experts.n_active={self.n_active} is too many where a token can reach {reachable}: choose "
                "fewer, or more experts."
            )


def _check_at_least_one(section: str, spec: object, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(spec, name)
        if value is not None and value < 1:
            raise UserError(f"{section}.{name}={value} is too small: choose a whole number from 1 up.")
