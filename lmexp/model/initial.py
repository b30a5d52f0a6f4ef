"""The weights a model starts from."""

import math

import mlx.core as mx

from lmexp.model.count import named_parameters
from lmexp.model.language_model import LanguageModel
from lmexp.model.spec import INITIAL_DEVIATION, ModelSpec
from lmexp.streams import stream_seed

_RESIDUAL_OUTPUTS = (
    ".mixer.output.weight",
    ".feedforward.down.weight",
    ".feedforward.experts.down",
    ".feedforward.shared.down.weight",
)
_ZERO_AT_FIRST = (".bias", ".router.balance")


def initialise(model: LanguageModel, seed: int) -> None:
    """Draw every parameter of the model anew, in float32.

    Matrices and embeddings are N(0, 0.02); those that write into the residual stream are divided by sqrt(2 n_layers)
    (Radford et al. 2019, section 2.3), so that its variance does not grow with depth. Biases are 0, those that balance
    experts among them; norm gains are 1.

    Each parameter has a stream of its own, keyed by its path, and no global random state is read: two models of one
    seed agree on every parameter whose path and shape they share, whatever else differs.
    """
    drawn = [(path, _draw(path, array.shape, model.spec, seed)) for path, array in named_parameters(model)]
    model.load_weights(drawn)


def _draw(path: str, shape: tuple[int, ...], spec: ModelSpec, seed: int) -> mx.array:
    if path.endswith(_ZERO_AT_FIRST):
        return mx.zeros(shape)
    if len(shape) == 1:
        return mx.ones(shape)  # a norm's gain
    deviation = INITIAL_DEVIATION
    if path.endswith(_RESIDUAL_OUTPUTS):
        deviation /= math.sqrt(2 * spec.n_layers)
    key = mx.random.key(stream_seed(seed, "weights", path))
    # On the CPU whatever the default device is, so that a seed means the same weights on every device.
    return mx.random.normal(shape, scale=deviation, key=key, stream=mx.cpu)
