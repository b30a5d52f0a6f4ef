"""Which backend MLX will use, told before MLX is imported."""

import os

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
    ("backend", "label", "keeps_memory"),
    [("metal", "accelerate", False), ("cuda", "cublas (tf32)", True), ("unknown", "built-in", False)],
)
def test_elsewhere_nothing_is_loaded_even_after_mlx(monkeypatch, backend, label, keeps_memory):
    import mlx.core  # noqa: F401

    kept = []
    monkeypatch.setattr(start, "_keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(start, "mlx_backend", lambda: backend)
    monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
    assert start.prepare.__wrapped__() == label
    assert bool(kept) == keeps_memory


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


TOLD = "print('begun', flush=True); {}; import os; print(os.environ.get('GLIBC_TUNABLES'))"
START_ANEW = "from lmexp.platform import start_anew; start_anew()"


@pytest.mark.skipif(start.mlx_backend() != "cpu", reason="MLX's CPU wheel on Linux")
def test_a_command_starts_anew_once_and_asks_glibc_for_huge_pages(run_python):
    assert run_python(TOLD.format(START_ANEW)).stdout.split() == ["begun", "begun", "glibc.malloc.hugetlb=1"]


@pytest.mark.skipif(start.mlx_backend() != "cpu", reason="MLX's CPU wheel on Linux")
def test_what_the_user_tells_glibc_stands(run_python):
    told = run_python(TOLD.format(START_ANEW), GLIBC_TUNABLES="glibc.malloc.hugetlb=0")
    assert told.stdout.split() == ["begun", "glibc.malloc.hugetlb=0"]


def test_without_the_cpu_wheel_the_environment_is_as_it_is(monkeypatch):
    monkeypatch.setattr(start, "is_installed", lambda name: False)
    assert start.environment() == dict(os.environ)


@pytest.mark.skipif(start.mlx_backend() != "cpu", reason="MLX's CPU wheel on Linux")
@pytest.mark.parametrize("own", [None, "3"])
def test_mkl_is_told_of_its_threads_while_it_loads_and_nobody_else(monkeypatch, own):
    """MKL reads the variable in its first product; PyTorch, in a child of this process, would read it too."""
    seen = []
    monkeypatch.setattr(start.blas, "preload", lambda: seen.append(os.environ["MKL_NUM_THREADS"]) or "some blas")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    if own:
        monkeypatch.setenv("MKL_NUM_THREADS", own)
    assert start._load_blas(2) == "some blas"
    start._load_blas(1)
    assert seen == ["2", "1"]
    assert os.environ.get("MKL_NUM_THREADS") == own
