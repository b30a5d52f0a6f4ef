"""Measure how fast mixers train: ``python benchmarks/mixers.py gqa delta [--tokens 1024] [--batch 2] [overrides]``.

Each side is llama_small with every layer of one mixer (``delta+delta+delta+gqa`` makes a pattern), its feed-forward cut
or widened until its parameters equal those of the first side. All sides take the laboratory's compiled steps in one
process, in turn, on the same random tokens; the ratios are of neighbours in time. Close other programs first. Nothing
here belongs to the test suite.
"""

import argparse
import statistics
import time
from typing import NamedTuple

import numpy as np

from lmexp import platform

platform.prepare()

from lmexp.compose import compose_run  # noqa: E402  (MLX is imported below)
from lmexp.config import RunConfig  # noqa: E402
from lmexp.model.initial import initialise  # noqa: E402
from lmexp.model.language_model import LanguageModel  # noqa: E402
from lmexp.train.objective import next_token_loss  # noqa: E402
from lmexp.train.step import Stepper  # noqa: E402

_VOCABULARY = 2048


class RandomBatch(NamedTuple):
    """Tokens without meaning: (batch, time)."""

    inputs: np.ndarray
    targets: np.ndarray


def main() -> None:
    """Train every side in turn and print tokens per second, and each side's ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sides", nargs="+", help="mixers, such as gqa or delta+delta+delta+gqa")
    parser.add_argument("--tokens", type=int, default=1024, help="context")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--set", nargs="*", default=[], help="overrides for every side, such as model.n_layers=2")
    given = parser.parse_args()
    models = _models(given)
    tokens = np.random.default_rng(0).integers(0, _VOCABULARY, (given.batch, given.tokens + 1)).astype(np.int32)
    batch = RandomBatch(tokens[:, :-1], tokens[:, 1:])
    steppers = {}
    for side, (config, model) in models.items():
        steppers[side] = Stepper(
            model,
            next_token_loss,
            config.optimizer,
            config.precision,
            compiled=True,
            seed=0,
            streams=platform.compute_streams(0),
        )
        steppers[side].warm([batch, batch])
        print(f"{side}: {model.n_params:,} parameters, {model.flops_per_token / 1e6:.1f} Mflop per token", flush=True)
    rates = {side: [] for side in steppers}
    for index in range(given.rounds):
        for side, stepper in steppers.items():
            rates[side].append(given.batch * given.tokens / _seconds(stepper, batch, index))
    _report(rates)


def _models(given: argparse.Namespace) -> dict[str, tuple[RunConfig, LanguageModel]]:
    models = {}
    for side in given.sides:
        config, model = _built(side, given, [])
        if models:
            first = next(iter(models.values()))[1]
            # Three gated matrices, or two: what one unit of width weighs is read off the model itself.
            unit = config.model.n_layers * config.model.d_model * (3 if config.model.ffn in ("swiglu", "geglu") else 2)
            width = config.model.hidden_width + round((first.n_params - model.n_params) / unit)
            config, model = _built(side, given, [f"model.ffn_width={width}"])
        models[side] = (config, model)
    return models


def _built(side: str, given: argparse.Namespace, overrides: list[str]) -> tuple[RunConfig, LanguageModel]:
    layers = f"model.layers=[{side.replace('+', ',')}]"
    config = compose_run(["model=llama_small", layers, *given.set, *overrides]).config
    model = LanguageModel(config.model, _VOCABULARY, _VOCABULARY, given.tokens)
    initialise(model, 0)
    return config, model


def _seconds(stepper: Stepper, batch: RandomBatch, index: int) -> float:
    started = time.perf_counter()
    stepper.wait(stepper.step(index, stepper.tokens(batch), 1e-4))
    return time.perf_counter() - started


def _report(rates: dict[str, list[float]]) -> None:
    first = next(iter(rates))
    for side, values in rates.items():
        ratios = [one / other for one, other in zip(values, rates[first], strict=True)]
        print(
            f"{side}: median {statistics.median(values):.0f} tokens/s; over {first}: median "
            f"{statistics.median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f}, n={len(ratios)})"
        )


if __name__ == "__main__":
    main()
