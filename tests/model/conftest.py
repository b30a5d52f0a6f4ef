"""Makes ``numpy_model`` importable, whatever import mode pytest runs in, and keeps float32 products in float32."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# CUDA's default rounds the factors to 10 bits (TF32), which the tolerances of a float32 law do not allow for.
os.environ.setdefault("MLX_ENABLE_TF32", "0")
sys.path.insert(0, str(Path(__file__).parent))

_HEADER = "mlx/backend/cpu/compiled_preamble.h"  # which every kernel that MLX writes for a CPU includes


@pytest.fixture(scope="module")
def parsed_headers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let ``g++`` parse MLX's headers once instead of for every kernel, which takes 0.1 s so and 0.5 s otherwise."""
    import mlx.core as mx

    compiler, include = shutil.which("g++"), Path(mx.__file__).parent / "include"
    if compiler is None or not (include / _HEADER).exists():
        yield
        return
    folder = tmp_path_factory.mktemp("headers")
    parsed, wrapper = folder / f"{_HEADER}.gch", folder / "bin" / "g++"
    parsed.parent.mkdir(parents=True)
    wrapper.parent.mkdir()
    # MLX's own flags: a header that was parsed with others is left aside, silently, and nothing but time is lost.
    command = [compiler, "-std=c++17", "-O3", "-Wall", "-fPIC", "-I", include, "-x", "c++-header", include / _HEADER]
    subprocess.run([*command, "-o", parsed], check=True, capture_output=True)
    wrapper.write_text(f'#!/bin/sh\nexec "{compiler}" -I "{folder}" "$@"\n')  # ahead of MLX's own folder
    wrapper.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}")
        yield
