"""The weights a model starts from."""

import math
from collections.abc import Callable

import mlx.core as mx

from lmexp.model.count import named_parameters
from lmexp.model.language_model import LanguageModel
from lmexp.model.spec import INITIAL_DEVIATION, ModelSpec
from lmexp.streams import stream_seed

_LEAST_RATE = 0.01  # kept above 0, whose logarithm is infinite
_RESIDUAL_OUTPUTS = (
    ".mixer.output.weight",
    ".feedforward.down.weight",
    ".feedforward.experts.down",
    ".feedforward.shared.down.weight",
)


def initialise(model: LanguageModel, seed: int) -> None:
    """Draw every parameter of the model anew, in float32.

    Matrices and embeddings are N(0, 0.02); those that write into the residual stream are divided by sqrt(2 n_layers)
    (Radford et al. 2019, section 2.3), so that its variance does not grow with depth. Biases are 0, those that balance
    experts among them; norm gains are 1.

    Gated DeltaNet starts as Mamba-2 (Dao and Gu 2024) and its public implementations do: decay rates uniform in
    (0.01, 16), time steps log-uniform in (0.001, 0.1), convolutions uniform within 1 / sqrt(width).

    Each parameter has a stream of its own, keyed by its path, and no global random state is read: two models of one
    seed agree on every parameter whose path and shape they share, whatever else differs.
    """
    drawn = [(path, _draw(path, array.shape, model.spec, seed)) for path, array in named_parameters(model)]
    model.load_weights(drawn)


def _draw(path: str, shape: tuple[int, ...], spec: ModelSpec, seed: int) -> mx.array:
    key = mx.random.key(stream_seed(seed, "weights", path))
    # On the CPU whatever the default device is, so that a seed means the same weights on every device.
    with mx.stream(mx.cpu):
        name = path.rsplit(".", 1)[-1]
        if name in _LAWS:
            return _LAWS[name](shape, key)
        if len(shape) == 1:
            return mx.ones(shape)  # a norm's gain
        deviation = INITIAL_DEVIATION
        if path.endswith(_RESIDUAL_OUTPUTS):
            deviation /= math.sqrt(2 * spec.n_layers)
        return mx.random.normal(shape, scale=deviation, key=key)


def _log_rate(shape: tuple[int, ...], key: mx.array) -> mx.array:
    return mx.log(mx.random.uniform(_LEAST_RATE, 16.0, shape, key=key))


def _time_step_offset(shape: tuple[int, ...], key: mx.array) -> mx.array:
    """Return what softplus turns into time steps of 0.001 to 0.1, even on a logarithmic scale."""
    steps = mx.exp(mx.random.uniform(math.log(1e-3), math.log(1e-1), shape, key=key))
    return steps + mx.log(-mx.expm1(-steps))


def _convolution(shape: tuple[int, ...], key: mx.array) -> mx.array:
    bound = shape[1] ** -0.5  # (channels, width, 1)
    return mx.random.uniform(-bound, bound, shape, key=key)


# What is neither a matrix nor a gain, by the last part of its path.
_LAWS: dict[str, Callable[[tuple[int, ...], mx.array], mx.array]] = {
    "bias": lambda shape, _: mx.zeros(shape),
    "balance": lambda shape, _: mx.zeros(shape),
    "convolution": _convolution,
    "log_rate": _log_rate,
    "time_step_offset": _time_step_offset,
}
