"""What every test shares: caches of its own, the machine's BLAS, a small corpus, a run that takes a second."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from lmexp import platform

sys.path.insert(0, str(Path(__file__).parent))  # makes tiny_specs importable, whatever import mode pytest runs in


def pytest_configure(config: pytest.Config) -> None:
    """Keep lmexp's caches out of the user's, no data of the machine's in, and choose a BLAS before MLX is imported.

    Under pytest-xdist each worker does so for itself: the device lock lies in the cache, and workers that shared it
    would wait for each other. The process that hands out the tests must not: they would inherit its caches.
    """
    if config.getoption("dist", "no") != "no":
        return
    cache = tempfile.TemporaryDirectory(prefix="lmexp-tests-")
    config.add_cleanup(cache.cleanup)
    os.environ["LMEXP_CACHE"] = cache.name
    os.environ.pop("LMEXP_DATA", None)
    platform.prepare()


@pytest.fixture(scope="session")
def _emulated(tmp_path_factory):
    """Return MLX with a CUDA device that runs here; the workers share what is compiled for it."""
    from emulated_cuda import MlxWithCuda

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "emulated-cuda"
    folder.mkdir(exist_ok=True)
    return MlxWithCuda(folder)


@pytest.fixture
def cuda_kernels(monkeypatch, request):
    """Let our own CUDA kernels run, emulated where there is no such device; returns the names of those that ran."""
    import mlx.core as mx

    from lmexp.model import cuda

    ran, call = [], cuda.Kernel.__call__

    def noted(kernel, *arguments, **named):
        ran.append(kernel.name)
        return call(kernel, *arguments, **named)

    monkeypatch.setattr(cuda.Kernel, "__call__", noted)
    if not mx.cuda.is_available():
        if sys.platform != "linux" or shutil.which("g++") is None:
            pytest.skip("CUDA is emulated on Linux, with g++")
        monkeypatch.setattr(cuda, "mx", request.getfixturevalue("_emulated"))
    return ran


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Return a file of 15,000 bytes of English-like text: enough for every split."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {n}: the quick brown fox number {n * 7 % 13} jumps.\n" for n in range(300)))
    return path


@pytest.fixture
def small(text: Path, tmp_path: Path) -> list[str]:
    """Return overrides of a run that takes a second: a tiny model, bytes of a small text, ten steps."""
    return [
        "model=gpt_tiny",
        "model.d_model=16",
        "data=text",
        f"data.path={text}",
        "data.tokenizer=byte",
        "data.context_length=12",
        "data.batch_size=4",
        "budget=steps",
        "budget.steps=10",
        "budget.evaluations=2",
        "compile=none",
        f"paths.results={tmp_path / 'results'}",
    ]
