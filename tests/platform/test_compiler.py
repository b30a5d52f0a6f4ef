"""MLX's compiled kernels: shared when whole and of the same make, never otherwise."""

import math
import os
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from lmexp.platform import compiler, headers, start

pytestmark = [
    pytest.mark.skipif(start.mlx_backend() != "cpu", reason="only MLX's CPU backend compiles with g++"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]

PREPARE = """
import os, signal, subprocess, sys, tempfile
from lmexp.platform import prepare
prepare()
"""
# Fuses one function and says whether it worked; 2 exp(x) + 1 at 0 is 3.
FUSE = f"""{PREPARE}
import mlx.core as mx
assert mx.compile(lambda x: mx.exp(x) * 2 + 1)(mx.zeros((3, 5))).tolist() == [[3.0] * 5] * 3
"""


@pytest.fixture
def logging_compiler(tmp_path: Path) -> Path:
    """A g++ that notes each kernel it builds in ``log`` beside it; it parses no header, to save two seconds."""
    folder = tmp_path / "compiler"
    folder.mkdir()
    watch = f'case "$*" in *-shared*) echo built >> {folder}/log;; *c++-header*) exit 1;; esac'
    (folder / "g++").write_text(f'#!/bin/sh\n{watch}\nexec {headers.find_compiler()} "$@"\n')
    (folder / "g++").chmod(0o755)
    return folder


def builds(folder: Path) -> int:
    log = folder / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def path_with(folder: Path) -> str:
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_a_kernel_is_built_once_and_nothing_is_written_outside_the_cache(run_python, logging_compiler, tmp_path):
    for _ in range(2):
        run_python(FUSE, PATH=path_with(logging_compiler))
    assert builds(logging_compiler) == 1
    assert list((tmp_path / "tmp").iterdir()) == list((tmp_path / "home").iterdir()) == []
    assert not list((tmp_path / "cache").rglob("process-*"))


def test_a_kernel_that_was_rewritten_otherwise_is_another_kernel(monkeypatch):
    ours = compiler._key()
    monkeypatch.setattr(compiler.headers, "SCRIPT", "another way of rewriting")
    assert compiler._key() != ours


def test_another_processor_never_gets_our_kernels(monkeypatch):
    ours = compiler._key()
    monkeypatch.setattr(compiler, "_processor", lambda: ("flags: another",))
    assert compiler._key() != ours


def test_another_compiler_never_gets_our_kernels(run_python, logging_compiler, tmp_path):
    run_python(FUSE)
    (header,) = (tmp_path / "cache").rglob("*.gch")  # so MLX's command is still the one that the wrapper knows
    assert header.stat().st_size > 0
    run_python(FUSE, PATH=path_with(logging_compiler))
    assert builds(logging_compiler) == 1


def test_a_killed_process_leaves_nothing_that_another_loads(run_python, logging_compiler, tmp_path):
    path = path_with(logging_compiler)
    killed = run_python(FUSE + "os.kill(os.getpid(), signal.SIGKILL)", check=False, PATH=path)
    assert killed.returncode == -9
    assert len(list((tmp_path / "cache").rglob("process-*"))) == 1
    run_python(FUSE, PATH=path)
    assert builds(logging_compiler) == 2
    assert not list((tmp_path / "cache").rglob("process-*"))


def test_only_kernels_that_were_loaded_are_published(tmp_path):
    folder, store = tmp_path / "process-1", tmp_path / "store"
    folder.mkdir()
    (folder / "libhalf.so").write_bytes(b"half")
    compiler._publish(folder, store, os.getpid())
    assert not folder.exists()
    assert not store.exists()


def test_a_forked_child_publishes_nothing(tmp_path):
    folder = tmp_path / "process-1"
    folder.mkdir()
    compiler._publish(folder, tmp_path / "store", os.getpid() + 1)
    assert folder.exists()


def test_python_keeps_its_own_temporary_folder_and_path(run_python, tmp_path):
    code = PREPARE + "print(tempfile.gettempdir(), os.environ['PATH'], sep='\\n')"
    assert run_python(code, PATH="/bin:/usr/bin").stdout.splitlines() == [str(tmp_path / "tmp"), "/bin:/usr/bin"]


def test_a_child_process_uses_the_kernels_of_its_parents_compiler(run_python, logging_compiler):
    """The child inherits a PATH with its parent's wrapper, which must not pass for another compiler."""
    run_python(FUSE, PATH=path_with(logging_compiler))
    child = "subprocess.run([sys.executable, '-c', sys.argv[-1]], check=True)"
    code = PREPARE + f"sys.argv.append({FUSE!r})\n" + child
    run_python(code, PATH=path_with(logging_compiler))
    assert builds(logging_compiler) == 1


def test_without_a_compiler_compiled_functions_still_work(run_python, logging_compiler, no_tools):
    code = FUSE + "from lmexp.platform import has_cpp_compiler; print(has_cpp_compiler())"
    assert run_python(code, PATH=no_tools, LMEXP_BLAS="off").stdout.strip() == "False"
    assert run_python(code, PATH=path_with(logging_compiler), LMEXP_BLAS="off").stdout.strip() == "True"


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_kernels_in_vector_code_are_what_mlx_computes_one_by_one(dtype):
    """Our flags let GCC turn MLX's exponential into vector code, where a careless one would read stale memory."""
    special = [-0.0, 1e-30, 88.0, -88.0, 87.3, -87.3, math.inf, -math.inf, math.nan]
    x = mx.concatenate([mx.linspace(-20, 20, 1001), mx.array(special)]).astype(dtype)
    # Products and sums may be rounded once where they were rounded twice: 1e-7 of it, or a digit of bfloat16.
    rounding = 2e-7 if dtype == mx.float32 else 0.008
    for kernel in (lambda x: 2 * mx.exp(x), lambda x: x * mx.sigmoid(x), lambda x: mx.sin(x) + x * x):
        expected, found = (function(x).astype(mx.float32) for function in (kernel, mx.compile(kernel)))
        np.testing.assert_allclose(found, expected, rtol=rounding, atol=rounding)
