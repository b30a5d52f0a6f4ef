"""Streams: as many as there are cores and work for them."""

import mlx.core as mx
import pytest

from lmexp import platform


def test_a_little_work_stays_on_the_default_stream():
    assert platform.compute_streams(0) == (mx.default_stream(mx.default_device()),)


def test_more_work_adds_streams_and_keeps_those_there_were():
    most = platform.compute_streams(1e18)
    for flops in (1e6, 1e8, 2e8, 1e9):
        streams = platform.compute_streams(flops)
        assert streams == most[: len(streams)]


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="a GPU has one stream")
def test_a_great_deal_of_work_takes_every_core_up_to_eight():
    assert len(platform.compute_streams(1e18)) == min(platform.compute_cores(), 8)
