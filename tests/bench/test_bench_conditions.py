"""Each side of a benchmark is measured under the conditions that its table claims."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from lmexp.bench import ceiling, harness
from lmexp.compose import compose_run


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_what_stands_for_others_starts_in_the_users_own_environment(monkeypatch, threads):
    given = {}

    def run_process(command, message, folder: Path | None, **environment):
        given.update(environment, threads=json.loads(message)["product_threads"])
        return '{"tokens_per_second": 1.0}'

    monkeypatch.setattr(harness, "run_process", run_process)
    monkeypatch.setattr(harness.platform, "environment", lambda: {"HUGE": "yes"})
    run = compose_run(["model=gpt_tiny"])
    assert harness.Measurement("train:ours", run, 1.0, {}, threads)(0) == {"tokens_per_second": 1.0}
    assert given == ({"threads": None} if threads is None else {"threads": threads, "HUGE": "yes"})


def test_the_ceiling_counts_the_products_of_all_streams():
    """Three products one after the other take three times as long as one: the same rate, a factor of 2 for noise."""
    stream = mx.default_stream(mx.default_device())
    one, three = (ceiling._rate(512, mx.float32, 0.3, [stream] * n_products) for n_products in (1, 3))
    assert 0.5 < three / one < 2


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="a GPU computes one product at a time")
def test_the_ceiling_is_that_of_all_cores_however_few_streams_train(monkeypatch):
    asked = []
    monkeypatch.setattr(ceiling.platform, "compute_cores", lambda: 11)  # more than a training step has streams
    monkeypatch.setattr(ceiling, "_rate", lambda width, dtype, seconds, streams: asked.append(len(set(streams))) or 1.0)
    assert ceiling.product_flops_per_second(mx.float32, 0.0) == 1.0
    assert set(asked) == {11}
