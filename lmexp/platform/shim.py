"""A tiny library that lends the name ``cblas_sgemm`` to a BLAS that was loaded privately.

MLX finds its matrix products by name in the process's global symbol scope. Loading a whole BLAS into that scope works,
but lends out far more than a product: two builds of OpenBLAS share thousands of internal names, and numpy's own copy
then runs kernels of the other one (hundreds of such bindings were counted). So the BLAS itself is loaded privately, and
only this shim, which holds three names and three pointers, is made global.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lmexp.files import cache_folder

# All that MLX's CPU library takes from CBLAS. Integers are 32 bits wide; complex scalars travel by address.
PRODUCTS = ("sgemm", "dgemm", "cgemm")

SOURCE = r"""
#define FORWARD(name, scalar)                                                                                  \
    typedef void name##_t(int, int, int, int, int, int, scalar, const void *, int, const void *, int, scalar,  \
                          void *, int);                                                                        \
    static name##_t *name;                                                                                     \
    void cblas_##name(int order, int transpose_a, int transpose_b, int m, int n, int k, scalar alpha,          \
                      const void *a, int lda, const void *b, int ldb, scalar beta, void *c, int ldc) {         \
        name(order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);                   \
    }
FORWARD(sgemm, float)
FORWARD(dgemm, double)
FORWARD(cgemm, const void *)
void lmexp_bind(void *s, void *d, void *c) {
    sgemm = (sgemm_t *)s;
    dgemm = (dgemm_t *)d;
    cgemm = (cgemm_t *)c;
}
"""


class ShimError(Exception):
    """The shim cannot be built here; the message says why in a few words."""


def lend(addresses: Mapping[str, int]) -> None:
    """Make ``cblas_sgemm`` and its siblings visible to every library loaded from now on.

    Args:
        addresses: where the real function of each of `PRODUCTS` lies in this process.

    Raises:
        ShimError: when no shim is cached and none can be built.
        UserError: when there can be no cache folder.
    """
    shim = _load()
    shim.lmexp_bind(*(ctypes.c_void_p(addresses[name]) for name in PRODUCTS))


def shim_path() -> Path:
    """Return where the shim for this source and this kind of machine is cached (it may not exist yet)."""
    digest = hashlib.sha256(SOURCE.encode()).hexdigest()[:16]
    return cache_folder("blas") / f"shim-{platform.machine()}-{digest}.so"


def find_compiler() -> str | None:
    """Return the path of a C compiler, if there is one."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def _load() -> ctypes.CDLL:
    """Load the cached shim globally; build it when it is absent, and again when the cached file is damaged."""
    path = shim_path()
    try:
        return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        _build(path)
        return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _build(path: Path) -> None:
    """Compile into a folder of our own, then rename: a process that dies here leaves nothing another would load."""
    compiler = find_compiler()
    if compiler is None:
        raise ShimError("no C compiler was found")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="building-") as folder:
            _compile(compiler, Path(folder) / "shim.so")
            os.replace(Path(folder) / "shim.so", path)
    except OSError as error:
        raise ShimError(f"the cache folder cannot be written ({error.strerror})") from error


def _compile(compiler: str, output: Path) -> None:
    """Compile the source to a shared library on the disk. It needs no header and no C library, so none is linked."""
    command = [compiler, "-O2", "-shared", "-fPIC", "-nostdlib", "-x", "c", "-", "-o", str(output)]
    done = subprocess.run(command, input=SOURCE, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ShimError(f"{Path(compiler).name} failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    with output.open("rb+") as file:
        os.fsync(file.fileno())
