"""Every test of the data room has a cache of its own, no shared data and no network."""

import socket

import pytest
from hypothesis import settings

from lmexp.data import plays

settings.register_profile("leaves_nothing_behind", database=None)  # the default writes a folder .hypothesis
settings.load_profile("leaves_nothing_behind")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMEXP_CACHE", str(tmp_path / "cache"))
    for name in ("LMEXP_DATA", "TIKTOKEN_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_):
        raise OSError("a test tried to use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def all_plays():
    return plays.read_plays()
