"""The step: gradient, clipping, decay and update, compiled or not, in float32 or mixed precision."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map, tree_reduce

from lmexp.model import cuda
from lmexp.model.dropout import dropout_keys
from lmexp.model.language_model import LanguageModel
from lmexp.streams import stream_seed
from lmexp.train.masters import make_masters
from lmexp.train.objective import Measured, Objective, load_max_over_mean, over_streams, put_together, split_batch
from lmexp.train.optimizer import build_optimizer
from lmexp.train.spec import OptimizerSpec, PrecisionSpec

_DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16}
_CLIP_EPSILON = 1e-6  # as in mlx.optimizers.clip_grad_norm


class Batch(Protocol):
    """What a step learns from: token ids of shape (batch, time)."""

    @property
    def inputs(self) -> np.ndarray:
        """Token ids to predict from."""

    @property
    def targets(self) -> np.ndarray:
        """Token ids to predict: the inputs, shifted by one."""


class Tokens(NamedTuple):
    """A batch as MLX has it: (batch, time) each."""

    inputs: mx.array
    targets: mx.array


@dataclass(frozen=True)
class StepResult:
    """Lazy scalars: reading them waits for the device. The last is None for a model without experts."""

    loss_nats: mx.array
    grad_norm: mx.array
    expert_load_max_over_mean: mx.array | None = None


class Stepper:
    """A model, an optimizer, and the one step that changes them.

    A batch is computed in as many parts as there are streams, and the weights are updated in as many shares, each on a
    stream of its own: see `lmexp.platform.streams`.

    A compiled step names all the state it reads or writes: weights and optimizer state. Dropout's masks follow from
    keys that depend on the seed, the step and the example alone. The learning rate is an argument, so that a new rate
    neither recompiles nor waits.
    """

    def __init__(
        self,
        model: LanguageModel,
        objective: Objective,
        spec: OptimizerSpec,
        precision: PrecisionSpec,
        compiled: bool,
        seed: int,
        streams: Sequence[mx.Stream],
    ):
        self.model, self.spec, self.seed, self.streams = model, spec, seed, streams
        self.objective = over_streams(objective, streams)
        self.compute_dtype = _DTYPES[precision.compute]
        self.masters = make_masters(model, spec.name, len(streams))
        self.optimizers = [_optimizer_of(share, spec) for share in self.masters.shares()]
        states = [optimizer.state for optimizer in self.optimizers]
        self._state = [model.state, self.masters.state, states]
        wrap: Any = (
            partial(mx.compile, inputs=self._state, outputs=self._state) if compiled else lambda function: function
        )
        self._whole = wrap(self._whole_step)
        self._accumulate = wrap(self._accumulate_gradient)
        self._apply = wrap(self._apply_gradient)

    def step(self, index: int, tokens: Tokens, lr: float, following: Tokens | None = None) -> StepResult:
        """Hand optimizer step ``index`` to the device and return without waiting for it.

        The device fetches the tokens of the following step meanwhile, if they are given: beside this step's kernels (of
        a step in pieces, beside its update), and not when it comes to them.
        """
        rate, keys = mx.array(lr), self._keys(index, len(tokens.inputs))
        if self.spec.micro_batches == 1:
            result = self._whole(*tokens, keys, rate)
        else:
            result = self._step_in_pieces(*tokens, keys, rate)
        mx.async_eval(following, result, self._state)
        return StepResult(**result)

    def _keys(self, index: int, batch_size: int) -> mx.array | None:
        if not self.model.spec.dropout:
            return None
        return dropout_keys(stream_seed(self.seed, "dropout", index), batch_size, self.model.n_dropouts)

    def _whole_step(self, inputs: mx.array, targets: mx.array, keys: mx.array | None, lr: mx.array) -> Measured:
        measured, gradient = self._gradient(inputs, targets, keys)
        return self._apply_gradient(gradient, measured, lr)

    def _step_in_pieces(self, inputs: mx.array, targets: mx.array, keys: mx.array | None, lr: mx.array) -> Measured:
        """Accumulate piece by piece; each piece is evaluated before the next, so that memory stays flat."""
        total = tree_map(mx.zeros_like, self.masters.shares())
        measured = []
        pieces = (split_batch(array, self.spec.micro_batches) for array in (inputs, targets, keys))
        for piece in zip(*pieces, strict=True):
            of_piece, total = self._accumulate(total, *piece)
            mx.eval(of_piece, total)
            measured.append(of_piece)
        return self._apply(total, put_together(measured), lr)

    def _accumulate_gradient(
        self, total: Any, inputs: mx.array, targets: mx.array, keys: mx.array | None
    ) -> tuple[Measured, Any]:
        share = 1 / self.spec.micro_batches
        measured, gradient = self._gradient(inputs, targets, keys)
        return measured, tree_map(lambda sum_, piece: sum_ + share * piece, total, gradient)

    def _gradient(self, inputs: mx.array, targets: mx.array, keys: mx.array | None) -> tuple[Measured, Any]:
        """Return what was measured, and the objective's gradient: in the masters' layout, in float32."""

        def loss_of(weights: Any) -> tuple[mx.array, Measured]:
            with self.masters.lent(weights):
                return self.objective(self.model, inputs, targets, keys)

        (_, measured), gradient = mx.value_and_grad(loss_of)(self.masters.weights(self.compute_dtype))
        return measured, self.masters.gathered(gradient)

    def _apply_gradient(self, gradient: Any, measured: Measured, lr: mx.array) -> Measured:
        """Clip, decay and update, then even the load of experts; return what :class:`StepResult` holds.

        The norm is that of the gradient before clipping.
        """
        norm = mx.sqrt(sum(self._each(_sum_of_squares, gradient)))
        # Here, and not where they are used: mx.compile fails on a scalar that two streams compute from the same inputs.
        scale = mx.minimum(self.spec.clip_norm / (norm + _CLIP_EPSILON), 1.0)
        kept = 1 - lr * self.spec.weight_decay

        def updated(optimizer: optim.Optimizer, share: Any, gradient: Any) -> Any:
            optimizer.learning_rate = lr
            clipped = tree_map(lambda array: array * scale, gradient)
            return optimizer.apply_gradients(clipped, self.masters.decayed(share, kept))

        for share in self._each(updated, self.optimizers, self.masters.shares(), gradient):
            self.masters.update(share)
        result = {"loss_nats": measured["loss_nats"], "grad_norm": norm}
        if "expert_tokens" not in measured:
            return result
        self.model.even_loads(measured["expert_tokens"])
        return result | {"expert_load_max_over_mean": load_max_over_mean(measured["expert_tokens"])}

    def _each(self, function: Callable[..., Any], *shares: Sequence[Any]) -> list[Any]:
        """Apply a function to each share of the weights, on a stream of its own."""
        results = []
        for stream, *arguments in zip(self.streams, *shares, strict=True):
            with mx.stream(stream):
                results.append(function(*arguments))
        return results

    @staticmethod
    def tokens(batch: Batch) -> Tokens:
        """Return the tokens of a batch as `step` takes them.

        On a CUDA device they are still to be copied: what the device copies lies there, and a kernel that finds its
        tokens with the host waits for each page of them (llama_small, 64 x 256, on an H200: 3.4 ms a step, not 4.5).
        """
        inputs, targets = mx.array(batch.inputs), mx.array(batch.targets)
        return Tokens(*(mx.stack([inputs, targets]) if cuda.is_default() else (inputs, targets)))

    def warm(self, batches: Sequence[Batch]) -> float:
        """Take a few real steps so that every kernel is compiled, undo them, and return the seconds of the fastest.

        Weights and optimizer state are as before, so that warming up is neither charged nor free training.
        """
        before = tree_map(lambda array: array, self._state)
        durations = []
        all_tokens = [self.tokens(batch) for batch in batches]
        for index, tokens in enumerate(all_tokens):
            started = time.perf_counter()
            self.wait(self.step(index, tokens, self.spec.lr, all_tokens[(index + 1) % len(all_tokens)]))
            durations.append(time.perf_counter() - started)
        _fill(self._state, before)
        self.wait()
        return min(durations)

    def wait(self, *results: StepResult) -> None:
        """Wait until the device has finished these steps and all before them, and give the model their weights."""
        self.masters.show()
        mx.eval([vars(result) for result in results], self._state)


def _optimizer_of(share: Any, spec: OptimizerSpec) -> optim.Optimizer:
    optimizer = build_optimizer(spec)
    optimizer.init(share)
    return optimizer


def _sum_of_squares(gradient: Any) -> mx.array:
    total: mx.array = tree_reduce(lambda total, array: total + array.square().sum(), gradient, mx.array(0.0))
    return total


def _fill(target: Any, source: Any) -> None:
    """Put arrays back in place: the compiled functions hold on to these very containers."""
    for key in target if isinstance(target, dict) else range(len(target)):
        if isinstance(target[key], mx.array):
            target[key] = source[key]
        elif isinstance(target[key], dict | list):
            _fill(target[key], source[key])
