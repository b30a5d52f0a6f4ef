"""MLX's compiled kernels: shared when whole and of the same make, never otherwise."""

import os
import shutil
from pathlib import Path

import pytest

from lmexp.platform import compiler, start

pytestmark = [
    pytest.mark.skipif(start.mlx_backend() != "cpu", reason="only MLX's CPU backend compiles with g++"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]

# Fuses one function and says whether it worked; 2 exp(x) + 1 at 0 is 3.
FUSE = """
import os, signal, tempfile
from lmexp.platform import prepare
prepare()
import mlx.core as mx
assert mx.compile(lambda x: mx.exp(x) * 2 + 1)(mx.zeros((3, 5))).tolist() == [[3.0] * 5] * 3
"""


@pytest.fixture
def logging_compiler(tmp_path: Path) -> Path:
    """A g++ that notes each kernel it builds in ``log`` beside it."""
    folder = tmp_path / "compiler"
    folder.mkdir()
    script = f'#!/bin/sh\ncase "$*" in *-shared*) echo built >> {folder}/log;; esac\nexec {shutil.which("g++")} "$@"\n'
    (folder / "g++").write_text(script)
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


def test_another_compiler_never_gets_our_kernels(run_python, logging_compiler):
    run_python(FUSE)
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


def test_python_keeps_its_own_temporary_folder(run_python, tmp_path):
    assert run_python(FUSE + "print(tempfile.gettempdir())").stdout.strip() == str(tmp_path / "tmp")


def test_without_a_compiler_compiled_functions_still_work(run_python, no_tools):
    code = FUSE + "from lmexp.platform import has_cpp_compiler; print(has_cpp_compiler())"
    assert run_python(code, PATH=no_tools, LMEXP_BLAS="off").stdout.strip() == "False"
    assert run_python(code, LMEXP_BLAS="off").stdout.strip() == "True"
