"""Which backend MLX will use, told before MLX is imported."""

import pytest

from lmexp.platform import start


@pytest.mark.parametrize(
    ("system", "installed", "gpu", "backend"),
    [
        ("darwin", {"mlx"}, False, "metal"),
        ("linux", {"mlx", "mlx-cpu"}, True, "cpu"),
        ("linux", {"mlx", "mlx-cuda-13"}, True, "cuda"),
        ("linux", {"mlx", "mlx-cuda-13"}, False, "cpu"),
        ("linux", {"mlx"}, True, "unknown"),
    ],
)
def test_the_backend_follows_from_packages_and_gpus(monkeypatch, system, installed, gpu, backend):
    monkeypatch.setattr(start.sys, "platform", system)
    monkeypatch.setattr(start, "is_installed", installed.__contains__)
    monkeypatch.setattr(start, "_sees_a_gpu", lambda: gpu)
    assert start.mlx_backend() == backend


@pytest.mark.parametrize(
    ("backend", "label"), [("metal", "accelerate"), ("cuda", "cublas (tf32)"), ("unknown", "built-in")]
)
def test_elsewhere_nothing_is_loaded_even_after_mlx(monkeypatch, backend, label):
    import mlx.core  # noqa: F401

    monkeypatch.setattr(start, "mlx_backend", lambda: backend)
    monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
    assert start.prepare.__wrapped__() == label


@pytest.mark.skipif(start.mlx_backend() != "cpu", reason="MLX's CPU wheel on Linux")
def test_freed_memory_is_kept(run_python):
    # Once freed, 32 MiB stay resident for the next array, where by default the kernel gets them back at once.
    code = """
from pathlib import Path
from lmexp.platform import prepare
prepare()
import mlx.core as mx
def resident_pages():
    return int(Path("/proc/self/statm").read_text().split()[1])
mx.eval(mx.ones((4, 1024, 1024)) + 1)
before = resident_pages()
array = mx.ones((8, 1024, 1024)) + 1
mx.eval(array)
held = resident_pages()
del array
print((held - before) * 4096 > 2**24, (held - resident_pages()) * 4096 < 2**20)
"""
    assert run_python(code, LMEXP_BLAS="off").stdout.split() == ["True", "True"]


@pytest.mark.skipif(start.mlx_backend() != "cpu", reason="MLX's CPU wheel on Linux")
@pytest.mark.parametrize("own", [None, "7"])
def test_streams_are_taken_up_side_by_side_unless_the_user_says_otherwise(run_python, own):
    # A gradient is some hundreds of arrays wide, and MLX goes depth first beyond the width that this variable tells.
    code = f"""
import os
os.environ.pop("MLX_BFS_MAX_WIDTH", None)  # as a test, this process inherits it
os.environ.update({{}} if {own!r} is None else {{"MLX_BFS_MAX_WIDTH": {own!r}}})
from lmexp.platform import prepare
prepare()
print(os.environ["MLX_BFS_MAX_WIDTH"])
"""
    width = int(run_python(code, LMEXP_BLAS="off").stdout)
    assert width > 10_000 if own is None else width == 7
