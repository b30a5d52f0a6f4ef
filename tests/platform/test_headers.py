"""The wrapper of g++: what it makes is what g++ makes, whatever becomes of the parsed header."""

import importlib.util
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from lmexp.platform import headers, start

REAL = headers.find_compiler()
pytestmark = [
    pytest.mark.skipif(start.mlx_backend() != "cpu", reason="only MLX's CPU backend compiles with g++"),
    pytest.mark.skipif(REAL is None, reason="needs g++"),
]

KERNEL = """
#include "mlx/backend/cpu/compiled_preamble.h"
using namespace mlx::core::detail;
extern "C" void kernel(float* x, float* y, size_t size) {
  for (size_t i = 0; i < size; ++i) y[i] = Add()(Exp()(x[i]), Sin()(y[i]));
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all kernels here are compiled: the names of files are in the library, so they must be the same."""
    return tmp_path_factory.mktemp("kernel")


@pytest.fixture
def parsed(tmp_path: Path) -> Path:
    return tmp_path / "parsed headers/mlx/backend/cpu/compiled_preamble.h.gch"


@pytest.fixture
def wrapper(tmp_path: Path) -> Path:
    """The wrapper, in folders whose names a careless shell would split."""
    (tmp_path / "one process").mkdir()
    return headers.write_wrapper(tmp_path / "one process", tmp_path / "parsed headers", str(REAL)) / "g++"


def build(compiler: str | Path | None, folder: Path, *own: str) -> bytes:
    """Compile the kernel as MLX does, with flags of our own before."""
    include = f"{importlib.util.find_spec('mlx').submodule_search_locations[0]}/include"
    (folder / "kernel.cpp").write_text(KERNEL)
    flags = ["-std=c++17", "-O3", "-Wall", "-fPIC", "-shared", "-I", include]
    subprocess.run([compiler, *own, *flags, "kernel.cpp", "-o", "kernel.so"], cwd=folder, check=True)
    return (folder / "kernel.so").read_bytes()


@pytest.fixture(scope="module")
def right(folder: Path) -> set[bytes]:
    """The kernel as g++ makes it: with our flags, or without, which is how a kernel ends that cannot be had with."""
    return {build(REAL, folder, *headers.FLAGS.split()), build(REAL, folder)}


def test_a_kernel_is_the_same_bytes_and_takes_less_than_half_the_time(wrapper, parsed, folder):
    """A quarter of the CPU time where this was measured; half leaves room for other machines."""

    def timed(compiler: str | Path | None, *own: str) -> tuple[bytes, float]:
        start = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        return build(compiler, folder, *own), sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - start

    first = build(wrapper, folder)
    header = parsed.stat()
    (again, seconds), (plain, plain_seconds) = timed(wrapper), timed(REAL, *headers.FLAGS.split())
    assert first == again == plain
    assert seconds < plain_seconds / 2
    assert parsed.stat().st_mtime_ns == header.st_mtime_ns
    assert [path.name for path in wrapper.parent.iterdir()] == ["g++"]


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A header that was parsed without damage."""
    own = tmp_path_factory.mktemp("whole")
    build(headers.write_wrapper(own, own / "headers", str(REAL)) / "g++", folder)
    (header,) = (own / "headers").rglob("*.gch")
    return header.read_bytes()


@pytest.mark.parametrize("damage", ["empty", "half", "noise", "folder"])
def test_a_broken_header_does_no_harm(wrapper, parsed, folder, right, whole, damage):
    parsed.parent.mkdir(parents=True)
    if damage == "folder":
        parsed.mkdir()
    else:
        parsed.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "noise": bytes(range(256)) * 99}[damage])
    assert build(wrapper, folder) in right


def test_a_folder_that_cannot_be_written_does_no_harm(wrapper, folder, right, tmp_path):
    (tmp_path / "parsed headers").write_text("a file")
    assert build(wrapper, folder) in right


def test_a_header_that_cannot_be_parsed_is_tried_once(folder, right, tmp_path):
    """The empty header that stands for it keeps the next kernel from trying again."""
    refuse = f'case "$*" in *c++-header*) echo tried >> {tmp_path}/log; exit 1;; esac'
    (tmp_path / "picky").write_text(f'#!/bin/sh\n{refuse}\nexec {REAL} "$@"\n')
    (tmp_path / "picky").chmod(0o755)
    wrapper = headers.write_wrapper(tmp_path, tmp_path / "headers", str(tmp_path / "picky")) / "g++"
    assert {build(wrapper, folder), build(wrapper, folder)} <= right
    assert (tmp_path / "log").read_text() == "tried\n"


def test_a_mistake_in_a_kernel_is_told_as_g_plus_plus_tells_it(wrapper, tmp_path):
    (tmp_path / "kernel.cpp").write_text("no kernel")
    command = ["-std=c++17", "-O3", "-Wall", "-fPIC", "-shared", "-I", ".", "kernel.cpp", "-o", "kernel.so"]
    told = [subprocess.run([path, *command], cwd=tmp_path, capture_output=True) for path in (wrapper, REAL)]
    assert told[0].returncode == told[1].returncode != 0
    assert told[0].stderr == told[1].stderr != b""


def test_other_commands_pass_through(wrapper, parsed):
    told = [subprocess.run([path, "--version"], capture_output=True, check=True).stdout for path in (wrapper, REAL)]
    assert told[0] == told[1]
    assert not parsed.exists()


def test_an_inherited_wrapper_is_not_taken_for_the_compiler(wrapper, monkeypatch):
    monkeypatch.setenv("PATH", os.pathsep.join((str(wrapper.parent), os.environ["PATH"])))
    assert shutil.which("g++") == str(wrapper)
    assert headers.find_compiler() == REAL


STRIDED = """
import ctypes
from pathlib import Path
from lmexp.platform import prepare
prepare()
import mlx.core as mx
import numpy as np
big, row, column = (np.random.default_rng(0).normal(size=size).astype(np.float32) for size in {sizes})
given = [mx.array(big).swapaxes(-1, -2), mx.array(row), mx.array(column)]
function = lambda big, row, column: mx.exp(big - row) * column
close = np.allclose(mx.compile(function)(*given), np.exp(big.swapaxes(-1, -2) - row) * column, rtol=1e-5)
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
texts = [path.read_text() for path in Path(getenv(b"TMPDIR").decode()).rglob("*_strided_*.cpp")]
print(close, [("const int shape[] = {{" in text, text.count("_strides[] = {{")) for text in texts])
"""


@pytest.mark.parametrize(
    "sizes", [((17, 33), (17,), (33, 1)), ((3, 17, 33), (17,), (3, 33, 1)), ((2, 3, 4, 5), (2, 1, 1, 4), (3, 1, 4))]
)
def test_a_strided_kernel_of_mlx_knows_its_strides_and_is_right(run_python, tmp_path, sizes):
    """Shape and strides are copied into arrays of the kernel's own, for each of its three inputs."""
    told = run_python(STRIDED.format(sizes=sizes), LMEXP_CACHE=str(tmp_path)).stdout
    assert told.split(" ", 1) == ["True", "[(True, 3)]\n"]
