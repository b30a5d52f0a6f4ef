"""What can be chosen about a step. Nothing here loads MLX, so that a config is checked before the device is touched."""

from dataclasses import dataclass
from typing import Any

from lmexp.errors import UserError, unknown

OPTIMIZERS = ("adamw", "sgd", "adafactor", "lion", "muon")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer and how its step is made.

    Attributes:
        name: one of ``adamw``, ``sgd``, ``adafactor``, ``lion``, ``muon``.
        lr: peak learning rate; the schedule scales it.
        weight_decay: decoupled decay of matrices, multiplied by the learning rate (Loshchilov and Hutter 2019).
        clip_norm: largest global norm of the gradient.
        micro_batches: pieces that a batch is cut into; the memory of a step is that of one piece.
        options: what only this optimizer has, passed on to ``mlx.optimizers``.
    """

    name: str
    lr: float
    weight_decay: float
    clip_norm: float
    micro_batches: int
    options: dict[str, Any]

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise unknown("optimizer.name", self.name, OPTIMIZERS)
        if not 0 < self.lr < float("inf"):
            raise UserError(f"optimizer.lr={self.lr:g} must be above 0, for instance optimizer.lr=1e-3.")
        if not self.weight_decay >= 0:
            raise UserError(f"optimizer.weight_decay={self.weight_decay:g} must be at least 0; 0 turns it off.")
        if not self.clip_norm > 0:
            raise UserError(f"optimizer.clip_norm={self.clip_norm:g} must be above 0; 1.0 is usual, inf turns it off.")
        if self.micro_batches < 1:
            raise UserError(f"optimizer.micro_batches={self.micro_batches} must be at least 1: the batch in one piece.")


@dataclass(frozen=True)
class PrecisionSpec:
    """``compute`` is the type of activations and products: ``float32`` or ``bfloat16``. Weights are always float32."""

    compute: str

    def __post_init__(self) -> None:
        if self.compute not in PRECISIONS:
            raise unknown("precision.compute", self.compute, PRECISIONS)


@dataclass(frozen=True)
class CompileSpec:
    """What goes through ``mx.compile``: the training step, the evaluation."""

    step: bool
    evaluation: bool


@dataclass(frozen=True)
class TrainSpec:
    """What a step trades for what.

    Attributes:
        checkpoint: keep only each layer's input for the backward pass, and compute the layer again there: less memory,
            a fifth to two fifths more time on a CPU, the same gradient.
    """

    checkpoint: bool
