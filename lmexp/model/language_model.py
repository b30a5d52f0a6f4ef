"""The one language model: mixers and feed-forwards around a residual stream, built from a spec."""

import math
from collections.abc import Sequence
from itertools import repeat

import mlx.core as mx
import mlx.nn as nn

from lmexp.model.block import Block, make_norm
from lmexp.model.cache import Cache
from lmexp.model.count import named_parameters
from lmexp.model.position import LearnedPosition, SinusoidalPosition
from lmexp.model.spec import ADDED_POSITIONS, ModelSpec

PADDING_LOGIT = -1e9  # finite, so that no infinity meets a zero; exp of it is 0 in float32 and in bfloat16
_EMBEDDING_PATHS = ("embedding.", "position.", "head.")


class LanguageModel(nn.Module):
    """Predict the next token at every position.

    It computes in whatever float dtype its parameters have and returns logits of that dtype; softmax and norms are
    float32 inside. Dropout is on in training mode (``model.train()``) and draws from MLX's global random state, which
    the trainer owns; in evaluation mode (``model.eval()``) nothing is random.

    Building a model draws placeholder weights lazily (never computed if ``initialise`` follows); seed the global state
    after building.
    """

    def __init__(self, spec: ModelSpec, vocab_size: int, padded_vocab_size: int, context_length: int):
        super().__init__()
        self.spec, self.context_length = spec, context_length
        self.vocab_size, self.padded_vocab_size = vocab_size, padded_vocab_size
        self.embedding = nn.Embedding(padded_vocab_size, spec.d_model)
        if spec.position in ADDED_POSITIONS:  # the others live in the attention
            self.position = _make_position(spec, context_length)
        self.dropout = nn.Dropout(spec.dropout)
        self.layers = [Block(spec, index) for index in range(spec.n_layers)]
        self.final_norm = make_norm(spec)
        if not spec.tie_embeddings:
            self.head = nn.Linear(spec.d_model, padded_vocab_size, bias=False)
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
        position = caches[0].position if caches else 0
        if isinstance(position, int) and position + tokens.shape[1] > self.context_length:
            raise ValueError(f"{tokens.shape[1]} tokens after {position} exceed a context of {self.context_length}")
        x = self._embed(tokens, position)
        for layer, cache in zip(self.layers, caches or repeat(None, len(self.layers)), strict=True):
            x = layer(x, cache)
        return self.final_norm(x)

    def logits(self, hidden: mx.array) -> mx.array:
        """Map (..., d_model) to logits (..., padded_vocab_size), the padding masked."""
        weight = self.embedding.weight if self.spec.tie_embeddings else self.head.weight
        cap = self.spec.logit_softcap
        if cap is not None:
            capped = cap * mx.tanh(hidden @ weight.T / cap)
            return capped if self.padded_vocab_size == self.vocab_size else capped + self._padding.astype(hidden.dtype)
        if self.padded_vocab_size == self.vocab_size:
            return hidden @ weight.T
        # As the bias of the product, the mask costs no pass of its own over the logits.
        return mx.addmm(self._padding.astype(hidden.dtype), hidden, weight.T)

    def make_caches(self, capacity: int | None = None) -> list[Cache]:
        """Return one empty cache per layer, each with room for ``capacity`` tokens (None: for the whole context)."""
        room = self.context_length if capacity is None else capacity
        return [layer.mixer.make_cache(room) for layer in self.layers]

    @property
    def n_params(self) -> int:
        """Every trained number, padding rows of the embedding included; a tied head counts once."""
        return sum(array.size for _, array in named_parameters(self))

    @property
    def n_params_non_embedding(self) -> int:
        """``n_params`` less the token embedding, learned positions and an untied output head."""
        return sum(array.size for path, array in named_parameters(self) if not path.startswith(_EMBEDDING_PATHS))

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token of a full context: forward and backward.

        Each weight of a matrix product takes 2 forward and 4 backward, and so does each product of two activations (for
        attention 2 x time x width in a layer: scores and mixing). Time is ``context_length``; the causal half that
        could be skipped is counted. The head's product is counted, tied or not; the embedding's lookup is none.

        Source: Chowdhery et al. 2022, "PaLM", appendix B.
        """
        inside = sum(layer.forward_flops(self.context_length) for layer in self.layers)
        return 3.0 * (inside + 2 * self.padded_vocab_size * self.spec.d_model)

    def _embed(self, tokens: mx.array, position: int | mx.array) -> mx.array:
        weight = self.embedding.weight
        # The gradient adds up all uses of a token. In bfloat16 such a sum stops growing at 256 terms; in float32 it is
        # exact enough, and where weights are float32 already the casts are nothing.
        x = weight.astype(mx.float32)[tokens].astype(weight.dtype)
        if self.spec.scale_embedding:
            x = x * math.sqrt(self.spec.d_model)
        if self.spec.position in ADDED_POSITIONS:
            x = self.position(x, position)
        return self.dropout(x)


def _make_position(spec: ModelSpec, context_length: int) -> nn.Module:
    if spec.position == "learned":
        return LearnedPosition(context_length, spec.d_model)
    return SinusoidalPosition(context_length, spec.d_model)
