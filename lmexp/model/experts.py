"""A mixture of experts: a router sends each token to a few of many feed-forwards, and only those are computed.

No expert has a capacity: no token is dropped, and what a token gets does not depend on the rest of its batch.
"""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn

from lmexp.model.activation import ACTIVATIONS
from lmexp.model.count import matrix_size
from lmexp.model.feedforward import make_dense
from lmexp.model.spec import GATED, INITIAL_DEVIATION, ModelSpec

_TINY = 1e-20  # keeps the weights numbers where every chosen sigmoid is 0 in float32


class Router(nn.Module):
    """Chooses the experts of each token, and how much each of them weighs.

    All of it is float32, whatever the dtype of the model: a rounded score sends a token elsewhere.

    ``balance`` is added to the scores where experts are chosen, and never to the weights: it is no trained parameter
    (no gradient reaches it), but state that :meth:`even` moves after each optimizer step, and it is saved with the
    weights. It exists where ``balance_rate`` is above 0.
    """

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.spec = spec.experts
        self.weight = _placeholder(spec.experts.n_experts, spec.d_model)
        if spec.experts.balance_rate > 0:
            self.balance = mx.zeros(spec.experts.n_experts)
            self.freeze(keys=["balance"])

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Return each token's experts and their weights, both (tokens, n_active), in no order; x: (tokens, d_model).

        Source: DeepSeek-AI 2024, "DeepSeek-V3", equations 12 to 16.
        """
        logits = x.astype(mx.float32) @ self.weight.astype(mx.float32).T
        scores = mx.sigmoid(logits) if self.spec.scores == "sigmoid" else mx.softmax(logits, axis=-1)
        chosen = self._choose(mx.stop_gradient(scores))
        weights = mx.take_along_axis(scores, chosen, axis=-1)
        if self.spec.normalise:
            weights = weights / (weights.sum(axis=-1, keepdims=True) + _TINY)
        return chosen, weights * self.spec.scale

    def even(self, expert_tokens: mx.array) -> None:
        """Make experts that got fewer tokens than the mean likelier to be chosen, and the others less likely.

        Source: Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts", algorithm 1.

        Args:
            expert_tokens: (n_experts,) whole numbers, the tokens that each expert got in a step.
        """
        if "balance" in self:
            # In whole numbers, so that a load that is exactly the mean stays where it is, however the step was cut.
            missing = mx.sign(expert_tokens.sum() - expert_tokens * self.spec.n_experts)
            self.balance = self.balance + self.spec.balance_rate * missing.astype(mx.float32)

    def _choose(self, scores: mx.array) -> mx.array:
        biased = scores + self.balance if "balance" in self else scores
        if self.spec.n_groups > 1:
            biased = self._within_groups(biased)
        return _largest(biased, self.spec.n_active)

    def _within_groups(self, scores: mx.array) -> mx.array:
        """Return the scores (tokens, n_experts) with all groups but the best at minus infinity.

        Source: DeepSeek-AI 2024, "DeepSeek-V2", section 2.2.2 (the best expert); "DeepSeek-V3", section 2.1.2 (the sum
        of the best two).
        """
        grouped = scores.reshape(-1, self.spec.n_groups, self.spec.n_experts // self.spec.n_groups)
        n_best = min(2 if self.spec.scores == "sigmoid" else 1, grouped.shape[-1])
        groups = _largest(mx.topk(grouped, n_best, axis=-1).sum(axis=-1), self.spec.n_active_groups)
        is_open = (groups[..., None] == mx.arange(self.spec.n_groups)).any(axis=1)
        return mx.where(is_open[..., None], grouped, -mx.inf).reshape(scores.shape)


class ExpertStack(nn.Module):
    """The matrices of all routed experts, (n_experts, width out, width in) each, as ``nn.Linear`` has them."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        n_experts, width = spec.experts.n_experts, spec.experts.width or spec.hidden_width
        self._activation = ACTIVATIONS[spec.ffn]
        if spec.ffn in GATED:
            self.gate = _placeholder(n_experts, width, spec.d_model)
        self.up = _placeholder(n_experts, width, spec.d_model)
        self.down = _placeholder(n_experts, spec.d_model, width)

    @property
    def expert_size(self) -> int:
        """Numbers in the matrices of one expert."""
        return sum(array[0].size for array in self.parameters().values())

    def __call__(self, blocks: mx.array, owners: mx.array) -> mx.array:
        """Pass each block of rows through the one expert that owns it.

        Args:
            blocks: (n_blocks, rows, d_model).
            owners: (n_blocks,) the expert of each block, in ascending order.
        """

        def passed(rows: mx.array, matrices: mx.array) -> mx.array:
            if rows.dtype != mx.float32 and mx.default_device() == mx.cpu:
                return rows @ matrices[owners].swapaxes(1, 2)  # copies matrices, but gather_mm is float32 only there
            return mx.gather_mm(rows, matrices.swapaxes(1, 2), rhs_indices=owners, sorted_indices=True)

        raised = passed(blocks, self.up)
        gated = "gate" in self
        inside = self._activation.gate(passed(blocks, self.gate), raised) if gated else self._activation(raised)
        return passed(inside, self.down)


class Experts(nn.Module):
    """The feed-forward of a block as a mixture of experts, some of them shared by all tokens."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.spec = spec.experts
        self.router = Router(spec)
        self.experts = ExpertStack(spec)
        if spec.experts.n_shared:
            width = spec.experts.n_shared * (spec.experts.width or spec.hidden_width)
            self.shared = make_dense(replace(spec, ffn_width=width))
            if spec.experts.shared_gate:
                self.shared_gate = nn.Linear(spec.d_model, 1, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """Map (batch, time, d_model) to the same shape, each token by itself."""
        return self.with_load(x)[0]

    def with_load(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Return the output and the tokens that each expert got: (batch, time, d_model) and (n_experts,) int32."""
        tokens = x.reshape(-1, x.shape[-1])
        chosen, weights = self.router(tokens)
        load = mx.zeros(self.spec.n_experts, mx.int32).at[chosen.flatten()].add(1)
        rows = best_rows_per_block(chosen.size, self.spec.n_experts)
        outputs = dispatch(self.experts, tokens, chosen, load, rows).astype(mx.float32)
        mixed = (outputs * weights[..., None]).sum(axis=1).astype(x.dtype).reshape(x.shape)
        return (mixed + self._shared(x) if self.spec.n_shared else mixed), load

    def forward_flops(self) -> float:
        """Return the floating-point operations for one token, forward: of the experts that it is sent to."""
        shared = sum(matrix_size(self[name]) for name in ("shared", "shared_gate") if name in self)
        return 2.0 * (matrix_size(self.router) + self.spec.n_active * self.experts.expert_size + shared)

    @property
    def n_params_idle(self) -> int:
        """Numbers in the experts that one token is not sent to."""
        return (self.spec.n_experts - self.spec.n_active) * self.experts.expert_size

    def _shared(self, x: mx.array) -> mx.array:
        output = self.shared(x)
        return mx.sigmoid(self.shared_gate(x)) * output if "shared_gate" in self else output


def make_feedforward(spec: ModelSpec, index: int) -> nn.Module:
    """Build the feed-forward of layer ``index``: experts, where the model has them and the layer is not kept dense."""
    if spec.experts.n_experts and index >= spec.experts.n_dense_layers:
        return Experts(spec)
    return make_dense(spec)


def best_rows_per_block(n_rows: int, n_experts: int) -> int:
    """Return how many rows of one expert are multiplied together: 1 leaves it to the kernel, which gets sorted rows.

    On a CPU the gradient of sorted single rows adds up one outer product each. Forward and backward, 256 wide and 344
    inside: 512 rows for each of 8 experts take 374 ms in blocks of 64, 432 in blocks of 16, 662 one by one; 128 rows
    for each of 64 experts 808, 786 and 1,001 ms. But 16 rows for each of them take 352, 219 and 146 ms, since every
    expert's last block is filled up; so decoding goes row by row. Computing all of 8 experts for every token, as a
    batched product, took three times as long as blocks, and of 4 experts twice. A GPU's kernels make such blocks
    themselves from sorted rows.
    """
    return 64 if mx.default_device() == mx.cpu and n_rows >= 64 * n_experts else 1


def dispatch(experts: ExpertStack, x: mx.array, chosen: mx.array, load: mx.array, rows_per_block: int) -> mx.array:
    """Pass each token through its experts and no other: only their matrices are read.

    Rows are sorted by expert, and multiplied in blocks that belong to one expert each. The last block of every expert
    is filled up with rows that nobody reads. So the number of blocks has a bound that does not depend on the choice,
    and shapes stay fixed (Gale et al. 2022, "MegaBlocks", section 5).

    Args:
        experts: the matrices.
        x: (tokens, d_model).
        chosen: (tokens, n_active) the experts of each token.
        load: (n_experts,) how often each of them was chosen.
        rows_per_block: any gives the same result, up to rounding.

    Returns:
        (tokens, n_active, d_model), unweighted.
    """
    n_rows, n_experts = chosen.size, load.size
    n_blocks = (n_rows + min(n_experts, n_rows) * (rows_per_block - 1)) // rows_per_block
    blocks_of = (load + rows_per_block - 1) // rows_per_block
    blocks_end, rows_end = mx.cumsum(blocks_of), mx.cumsum(load)

    order = mx.argsort(chosen.flatten())
    owner_of_row = chosen.flatten()[order]
    before = (blocks_end - blocks_of) * rows_per_block - (rows_end - load)  # filling before an expert's first row
    place = mx.arange(n_rows) + before[owner_of_row]
    token_at = mx.zeros(n_blocks * rows_per_block, mx.int32)
    token_at[place] = (order // chosen.shape[1]).astype(mx.int32)
    place_of = mx.zeros(n_rows, mx.int32)
    place_of[order] = place.astype(mx.int32)
    owners = mx.full(n_blocks, n_experts - 1, mx.int32)  # unused blocks come last, and owners ascend
    owners[place // rows_per_block] = owner_of_row.astype(mx.int32)

    blocks = x[token_at].reshape(n_blocks, rows_per_block, -1)
    outputs = experts(blocks, owners).reshape(n_blocks * rows_per_block, -1)
    return outputs[place_of].reshape(*chosen.shape, -1)


def _largest(values: mx.array, count: int) -> mx.array:
    """Return where the largest of each row stand, (rows, count), in no order."""
    return mx.argpartition(-values, kth=count - 1, axis=-1)[:, :count]


def _placeholder(*shape: int) -> mx.array:
    """Return weights that ``initialise`` or a checkpoint replaces; they are drawn when they are read, not before."""
    return mx.random.normal(shape, scale=INITIAL_DEVIATION)
