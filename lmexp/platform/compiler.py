"""The C++ compiler behind ``mx.compile`` on CPU, and a kernel cache that cannot be spoiled.

MLX writes each fused kernel as C++, runs ``g++`` (that name, from PATH) and keeps the library in
``$TMPDIR/mlx/<version>/cpu`` under a name made from its operations alone. In a shared temporary folder that goes wrong
in three ways: another user's folder cannot be written, another compiler's kernel is taken for ours, and a library that
is still being written, or whose compiler was killed, is loaded by the next process (for ever, in the second case).

So every process gets a temporary folder of its own, filled with links to the finished kernels of earlier ones. When it
ends, the kernels that it has itself loaded (hence whole) are moved to the store, each by one atomic rename.

They are compiled for this processor, and in a quarter of the usual time, see `lmexp.platform.headers`.
"""

import atexit
import contextlib
import ctypes
import hashlib
import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

from lmexp.files import cache_folder
from lmexp.platform import headers

# Lines of /proc/cpuinfo: what it can do and which model it is, on x86 and on ARM.
_PROCESSOR = ("flags", "model", "cpu family", "Features", "CPU part", "CPU implementer")


def has_cpp_compiler() -> bool:
    """Tell whether ``mx.compile`` can fuse kernels on CPU: MLX runs ``g++`` and takes no other name."""
    return headers.find_compiler() is not None


def isolate_kernels() -> None:
    """Give this process kernels that nobody else writes (Linux).

    Only the C library's idea of ``TMPDIR`` and ``PATH`` changes: MLX reads that one, while Python's ``tempfile`` and
    ``os.environ`` keep their own. A process started from here inherits it and, when it calls this too, chooses its own
    in turn.

    Raises:
        OSError: when the cache folder cannot be written; MLX then keeps its shared folder.
        UserError: when there can be no cache folder.
    """
    root = cache_folder(f"kernels/{_key()}").resolve()
    store, folder = root / "store", root / f"process-{os.getpid()}"
    _sweep(root)
    shutil.rmtree(folder, ignore_errors=True)  # a dead process once had our number
    _link_all(store, folder)
    _set_for_c("TMPDIR", str(folder))
    if compiler := headers.find_compiler():
        wrapper = headers.write_wrapper(folder, root / "headers", compiler)
        _set_for_c("PATH", os.pathsep.join((str(wrapper), headers.path_without_wrapper())))
    atexit.register(_publish, folder, store, os.getpid())


def _set_for_c(name: str, value: str) -> None:
    """Set an environment variable for the C library, not for ``os.environ``."""
    ctypes.CDLL(None).setenv(os.fsencode(name), os.fsencode(value), 1)


def _key() -> str:
    """Name all but its operations that a kernel depends on: host, processor, MLX, the compiler's own file, flags."""
    compiler = Path(headers.find_compiler() or os.devnull).resolve()
    stat = compiler.stat()
    version = importlib.metadata.version("mlx")
    parts = (
        platform.node(),
        _processor(),
        version,
        compiler,
        stat.st_size,
        stat.st_mtime_ns,
        headers.FLAGS,
        headers.SCRIPT,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _processor() -> tuple[str, ...]:
    """Return what tells apart processors that a kernel for one may not run on another; without /proc nothing."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return tuple(sorted({line for line in lines if line.startswith(_PROCESSOR)}))
    return ()


def _link_all(store: Path, folder: Path) -> None:
    """Mirror the store in ``folder`` as symbolic links."""
    folder.mkdir(parents=True)
    for kernel in store.rglob("*.so"):
        link = folder / kernel.relative_to(store)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(kernel)


def _publish(folder: Path, store: Path, owner: int) -> None:
    """Move the kernels that this process loaded to the store, and remove its folder. A forked child does nothing."""
    if os.getpid() != owner:
        return
    loaded = Path("/proc/self/maps").read_text()
    for kernel in folder.rglob("*.so"):
        if not kernel.is_symlink() and str(kernel) in loaded:
            target = store / kernel.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            kernel.replace(target)
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Remove what killed processes left."""
    for folder in root.glob("process-*"):
        if not Path("/proc", folder.name.removeprefix("process-")).exists():
            shutil.rmtree(folder, ignore_errors=True)
