"""Optimizers, through ``mlx.optimizers``, with one rule of weight decay for all of them."""

from typing import Any

import mlx.core as mx
import mlx.optimizers as optim

from lmexp.errors import UserError
from lmexp.train.spec import OptimizerSpec


class _Muon(optim.Muon):
    """Muon, which takes a stack of matrices (one for each expert) one by one; MLX's would see one wide matrix."""

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        if parameter.ndim < 3:
            return super().apply_single(gradient, parameter, state)

        def one(gradient: mx.array, matrix: mx.array, momentum: mx.array) -> tuple[mx.array, mx.array]:
            own = {"v": momentum}
            return optim.Muon.apply_single(self, gradient, matrix, own), own["v"]

        parameter, state["v"] = mx.vmap(one)(gradient, parameter, state["v"])
        return parameter


class _MuonWithAdam(optim.MultiOptimizer):
    """Muon for the matrices of the blocks, Adam for all other weights, at a fixed ratio of Muon's rate."""

    def __init__(self, muon: optim.Muon, adam: optim.Adam, adam_lr_ratio: float):
        super().__init__([muon, adam], [_is_matrix_of_a_block])
        self.adam_lr_ratio = adam_lr_ratio

    @property
    def learning_rate(self) -> mx.array:
        return self.optimizers[0].learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: float | mx.array) -> None:
        self.optimizers[0].learning_rate = learning_rate
        self.optimizers[1].learning_rate = learning_rate * self.adam_lr_ratio


def _is_matrix_of_a_block(path: str, weight: mx.array) -> bool:
    return path.startswith(("layers.", "future.")) and (weight.ndim == 2 or ".experts." in path)


def _adam(options: dict[str, Any]) -> optim.Adam:
    return optim.Adam(learning_rate=0.0, bias_correction=True, **options)


def _adafactor(options: dict[str, Any]) -> optim.Optimizer:
    return optim.Adafactor(learning_rate=0.0, relative_step=False, warmup_init=False, **options)


def _muon(options: dict[str, Any]) -> optim.Optimizer:
    muon = {key: options[key] for key in options if not key.startswith("adam_")}
    adam = _adam({"betas": options["adam_betas"], "eps": options["adam_eps"]})
    return _MuonWithAdam(_Muon(learning_rate=0.0, weight_decay=0.0, **muon), adam, float(options["adam_lr_ratio"]))


# Those whose update of a number depends on the gradients and the state of that number alone.
ELEMENTWISE = ("adamw", "sgd", "lion")

BUILDERS = {
    "adamw": _adam,
    "sgd": lambda options: optim.SGD(learning_rate=0.0, **options),
    "adafactor": _adafactor,
    "lion": lambda options: optim.Lion(learning_rate=0.0, **options),
    "muon": _muon,
}


def build_optimizer(spec: OptimizerSpec) -> optim.Optimizer:
    """Build the optimizer without its own weight decay: :func:`decayed` applies one rule to all of them.

    Raises:
        UserError: an option that this optimizer does not have, or a value it cannot use.
    """
    try:
        return BUILDERS[spec.name](spec.options)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"optimizer.options={spec.options} do not fit {spec.name} ({error}); "
            f"see conf/optimizer/{spec.name}.yaml for those it has."
        ) from error


def decayed(weight: mx.array, kept: mx.array | float) -> mx.array:
    """Return a matrix multiplied by ``kept``; vectors (norm gains, biases) are left as they are."""
    return weight * kept if weight.ndim >= 2 else weight
