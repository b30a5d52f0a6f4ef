"""Multi-token prediction: modules that look further ahead than the next token, while training only."""

import mlx.core as mx
import mlx.nn as nn

from lmexp.model.block import Block, make_norm
from lmexp.model.spec import ModelSpec


class FutureModule(nn.Module):
    """Takes the states at one depth, and the tokens one further on, to the states that predict one token further.

    Its block is of the last layer's kind. The embedding and the output head are the model's own.

    Source: DeepSeek-AI 2024, "DeepSeek-V3", section 2.2, equations 21 to 23. There ``hidden`` is "the representation
    given by the main model"; here that is what the head reads, after the final norm, at every depth.
    """

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.hidden_norm = make_norm(spec)
        self.embedding_norm = make_norm(spec)
        self.combine = nn.Linear(2 * spec.d_model, spec.d_model, bias=spec.bias)
        self.block = Block(spec, spec.n_layers - 1)
        self.final_norm = make_norm(spec)

    def __call__(self, hidden: mx.array, embedded: mx.array, keys: mx.array | None) -> tuple[mx.array, mx.array | None]:
        """Return the states one depth further, as the head reads them, and the load of the block's experts.

        Args:
            hidden: (batch, time, d_model) of the depth before.
            embedded: (batch, time, d_model); at position t the token after those that ``hidden`` knows at t.
            keys: of the block's dropout, (batch, 2, 2); None: nothing is dropped.
        """
        both = mx.concatenate([self.hidden_norm(hidden), self.embedding_norm(embedded)], axis=-1)
        x, load = self.block.with_load(self.combine(both), None, keys)
        return self.final_norm(x), load

    def forward_flops(self, context_length: int) -> float:
        """Return the floating-point operations for one token of a full context, forward."""
        return 2.0 * self.combine.weight.size + self.block.forward_flops(context_length)
