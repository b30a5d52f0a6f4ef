"""The one language model: mixers and feed-forwards around a residual stream, built from a spec."""

import math
from collections.abc import Sequence
from itertools import repeat

import mlx.core as mx
import mlx.nn as nn

from lmexp.errors import UserError
from lmexp.model.block import Block, make_norm
from lmexp.model.cache import Cache
from lmexp.model.count import n_trained
from lmexp.model.dropout import dropped
from lmexp.model.experts import Experts
from lmexp.model.future import FutureModule
from lmexp.model.likelihood import mean_nats
from lmexp.model.lookup import looked_up
from lmexp.model.position import LearnedPosition, SinusoidalPosition
from lmexp.model.recompute import recomputed
from lmexp.model.spec import ADDED_POSITIONS, ModelSpec

PADDING_LOGIT = -1e9  # finite, so that no infinity meets a zero; exp of it is 0 in float32 and in bfloat16
_EMBEDDING_PATHS = ("embedding.", "position.", "head.")


class LanguageModel(nn.Module):
    """Predict the next token at every position.

    It computes in whatever float dtype its parameters have and returns logits of that dtype; softmax and norms are
    float32 inside. Nothing is random: values are dropped only where keys are given, and the keys say which.

    Building a model draws placeholder weights lazily (never computed if ``initialise`` follows).
    """

    def __init__(self, spec: ModelSpec, vocab_size: int, padded_vocab_size: int, context_length: int):
        super().__init__()
        self.spec, self.context_length = spec, context_length
        self.vocab_size, self.padded_vocab_size = vocab_size, padded_vocab_size
        self.embedding = nn.Embedding(padded_vocab_size, spec.d_model)
        if spec.position in ADDED_POSITIONS:  # the others live in the attention
            self.position = _make_position(spec, context_length)
        self.layers = [Block(spec, index) for index in range(spec.n_layers)]
        self.final_norm = make_norm(spec)
        if not spec.tie_embeddings:
            self.head = nn.Linear(spec.d_model, padded_vocab_size, bias=False)
        if spec.future_tokens:
            _check_future(spec, context_length)
            self.future = [FutureModule(spec) for _ in range(spec.future_tokens)]
        if padded_vocab_size > vocab_size:
            # The underscore keeps it out of the parameters.
            self._padding = mx.where(mx.arange(padded_vocab_size) < vocab_size, 0.0, PADDING_LOGIT)

    def __call__(self, tokens: mx.array, caches: Sequence[Cache] | None = None) -> mx.array:
        """Return the logits of each next token.

        Args:
            tokens: (batch, time) int32, each in [0, vocab_size).
            caches: from ``make_caches``; the tokens then follow those that the caches hold, and are added to them.

        Returns:
            (batch, time, padded_vocab_size); those beyond ``vocab_size`` are about -1e9: no loss or sample sees them.

        Raises:
            ValueError: when the tokens and those before them are more than ``context_length``.
        """
        return self.logits(self.hidden(tokens, caches))

    def hidden(self, tokens: mx.array, caches: Sequence[Cache] | None = None) -> mx.array:
        """Return the normed residual stream (batch, time, d_model) that ``logits`` reads; arguments as ``__call__``."""
        return self.hidden_and_loads(tokens, caches)[0]

    def hidden_and_loads(
        self,
        tokens: mx.array,
        caches: Sequence[Cache] | None = None,
        keys: mx.array | None = None,
        checkpoint: bool = False,
    ) -> tuple[mx.array, list[mx.array]]:
        """Return ``hidden``, and of each layer with experts how many tokens each of them got: (n_experts,) int32.

        With ``keys`` (`dropout_keys` for ``n_dropouts`` places) values are dropped. With ``checkpoint``, and no caches,
        the gradient computes every layer again (`recomputed`).
        """
        position = caches[0].position if caches else 0
        if isinstance(position, int) and position + tokens.shape[1] > self.context_length:
            raise ValueError(f"{tokens.shape[1]} tokens after {position} exceed a context of {self.context_length}")
        x = self._embed(tokens, position, _places(keys, 0))
        loads = []
        for index, (layer, cache) in enumerate(zip(self.layers, caches or repeat(None, len(self.layers)), strict=True)):
            of_layer = _places(keys, 1 + 2 * index, 2)
            x, load = recomputed(layer, x, of_layer) if checkpoint else layer.with_load(x, cache, of_layer)
            loads.append(load)
        return self.final_norm(x), _known(loads)

    def future_hidden(
        self, hidden: mx.array, tokens: mx.array, keys: mx.array | None = None
    ) -> tuple[list[mx.array], list[mx.array]]:
        """Return what predicts tokens beyond the next, where the spec has ``future_tokens``, and loads as above.

        Position t at depth k (from 1) has read the tokens up to t + k, and predicts the one at t + k + 1.

        Args:
            hidden: (batch, time, d_model), from these tokens.
            tokens: (batch, time), the whole text from its first token on.
            keys: those that the states were made with.

        Returns:
            For each depth k (batch, time - k, d_model), which ``logits`` reads; the loads of the modules' experts.
        """
        futures, loads = [], []
        for depth, module in enumerate(self.future, start=1):
            place = 1 + 2 * len(self.layers) + 3 * (depth - 1)
            embedded = self._embed(tokens[:, depth:], depth, _places(keys, place))
            hidden, load = module(hidden[:, :-1], embedded, _places(keys, place + 1, 2))
            futures.append(hidden)
            loads.append(load)
        return futures, _known(loads)

    def logits(self, hidden: mx.array) -> mx.array:
        """Map (..., d_model) to logits (..., padded_vocab_size), the padding masked."""
        return self._head(hidden, self._head_weight)

    def mean_nats(self, hidden: mx.array, targets: mx.array) -> mx.array:
        """Return what training lowers: the mean cost in nats of targets (batch, time) after ``hidden``, a scalar.

        Made to be differentiated: where all logits would be too many, its gradient comes with it (`mean_nats`).
        """
        return mean_nats(self._head, hidden, self._head_weight, targets)

    def make_caches(self, capacity: int | None = None) -> list[Cache]:
        """Return one empty cache per layer, each with room for ``capacity`` tokens (None: for the whole context)."""
        room = self.context_length if capacity is None else capacity
        return [layer.mixer.make_cache(room) for layer in self.layers]

    def even_loads(self, expert_tokens: mx.array) -> None:
        """Move the bias that balances the experts of every layer: after a training step, and at no other time.

        Args:
            expert_tokens: (routed layers, n_experts) int32, the tokens of that step, in the order of the loads.
        """
        for experts, tokens in zip(self._mixtures, expert_tokens, strict=True):
            experts.router.even(tokens)

    @property
    def n_dropouts(self) -> int:
        """Places where values are dropped: the embedding and two branches a layer; the same for each further token."""
        return 1 + 2 * len(self.layers) + 3 * len(self._futures)

    @property
    def n_params(self) -> int:
        """Every trained number, padding rows of the embedding included; a tied head counts once.

        Modules that predict further tokens count, though they serve in training only.
        """
        return n_trained(self)

    @property
    def n_params_active(self) -> int:
        """``n_params`` less what predicting a text's next token does not touch: idle experts, ``future`` modules."""
        idle = sum(layer.feedforward.n_params_idle for layer in self.layers if isinstance(layer.feedforward, Experts))
        return self.n_params - idle - sum(n_trained(module) for module in self._futures)

    @property
    def n_params_non_embedding(self) -> int:
        """``n_params`` less the token embedding, learned positions and an untied output head."""
        return n_trained(self, without=_EMBEDDING_PATHS)

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token of a full context: forward and backward.

        Each weight of a matrix product takes 2 forward and 4 backward, and so does each product of two activations (for
        attention 2 x time x width in a layer: scores and mixing). Time is ``context_length``; the causal half that
        could be skipped is counted. The head's product is counted, tied or not; the embedding's lookup is none. Of
        experts, those count that a token is sent to; modules that predict further tokens count, each with a head.

        Source: Chowdhery et al. 2022, "PaLM", appendix B.
        """
        inside = sum(part.forward_flops(self.context_length) for part in (*self.layers, *self._futures))
        return 3.0 * (inside + (1 + len(self._futures)) * 2 * self.padded_vocab_size * self.spec.d_model)

    @property
    def _head_weight(self) -> mx.array:
        return self.embedding.weight if self.spec.tie_embeddings else self.head.weight

    def _head(self, hidden: mx.array, weight: mx.array) -> mx.array:
        cap = self.spec.logit_softcap
        if cap is not None:
            capped = cap * mx.tanh(hidden @ weight.T / cap)
            return capped if self.padded_vocab_size == self.vocab_size else capped + self._padding.astype(hidden.dtype)
        if self.padded_vocab_size == self.vocab_size:
            return hidden @ weight.T
        # As the bias of the product, the mask costs no pass of its own over the logits.
        return mx.addmm(self._padding.astype(hidden.dtype), hidden, weight.T)

    @property
    def _futures(self) -> list[FutureModule]:
        return self.future if "future" in self else []

    @property
    def _mixtures(self) -> list[Experts]:
        blocks = [*self.layers, *(module.block for module in self._futures)]
        return [block.feedforward for block in blocks if isinstance(block.feedforward, Experts)]

    def _embed(self, tokens: mx.array, position: int | mx.array, keys: mx.array | None) -> mx.array:
        x = looked_up(self.embedding.weight, tokens)
        if self.spec.scale_embedding:
            x = x * math.sqrt(self.spec.d_model)
        if self.spec.position in ADDED_POSITIONS:
            x = self.position(x, position)
        return dropped(x, self.spec.dropout, keys)


def _places(keys: mx.array | None, first: int, count: int | None = None) -> mx.array | None:
    """Return the keys of ``count`` places, (batch, count, 2), or of one, (batch, 2)."""
    if keys is None:
        return None
    return keys[:, first] if count is None else keys[:, first : first + count]


def _make_position(spec: ModelSpec, context_length: int) -> nn.Module:
    if spec.position == "learned":
        return LearnedPosition(context_length, spec.d_model)
    return SinusoidalPosition(context_length, spec.d_model)


def _check_future(spec: ModelSpec, context_length: int) -> None:
    if spec.future_tokens >= context_length:
        raise UserError(
            f"model.future_tokens={spec.future_tokens} looks beyond data.context_length={context_length}: "
            f"choose {context_length - 1} or less."
        )


def _known(loads: Sequence[mx.array | None]) -> list[mx.array]:
    return [load for load in loads if load is not None]
