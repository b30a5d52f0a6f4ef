"""What the doctor looks at: what is fast here, what is missing, and what to type to mend it."""

import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmexp.errors import UserError
from lmexp.files import cache_folder
from lmexp.platform import advice
from lmexp.platform.blas import REFERENCE, mend_reference
from lmexp.platform.compiler import has_cpp_compiler
from lmexp.platform.start import cuda_packages, is_installed, mlx_backend, prepare

_GIBIBYTE = 1 << 30
_MATRIX = 1024  # width of the measured product: large enough to show the rate, small enough for the reference BLAS
_MEASURE_SECONDS = 0.15
_SPIN_SECONDS = 0.2  # after which an idle OpenBLAS lets go of its cores
_FREE_GIBIBYTES = 2  # what a small run needs, with room to spare
_BUSY = 0.5  # share of the cores that others keep busy, from which on timings are doubtful
# GPT-2's merges and vocabulary, under the names (sha1 of their address) that tiktoken gives them.
_GPT2_FILES = ("6d1cbeee0f20b3d9449abfede4726ed8212e3aee", "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6")


@dataclass(frozen=True)
class Check:
    """One thing the doctor looked at."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    mend: str | None = None  # what to type, where something is to be mended


def doctor() -> list[Check]:
    """Look at everything that makes runs fast or possible; takes about a second. Call it before MLX is imported.

    Raises:
        RuntimeError: when MLX was imported before `prepare` was called.
    """
    load = check_load()  # first, for the others would count themselves
    cache = check_cache()
    label, refused = _prepare()
    mlx = check_mlx()
    works = mlx.state != "fail"
    checks = [
        check_device() if works else None,
        mlx,
        refused or (check_products(label) if works else None),
        check_compiler(),
        check_memory() if works else None,
        load,
        check_swap(),
        check_power(),
        check_lock() if works and cache.state == "ok" else None,
        check_results(),
        cache,
        check_data(),
        check_tiny_shakespeare(),
        check_tiktoken(),
    ]
    return [check for check in checks if check is not None]


def _prepare() -> tuple[str, Check | None]:
    """Ready the process; what the user must mend is a finding like any other."""
    try:
        return prepare(), None
    except UserError as error:
        return "", Check("matrix products", "fail", str(error))


# ---- computing


def check_device() -> Check:
    """Name the chip that computes."""
    from lmexp.platform.device import facts

    found = facts()
    return Check("device", "ok", f"{found.device}: {found.chip}, {found.cores} cores, {found.platform}")


def check_mlx() -> Check:
    """Tell MLX's version and backend. Its CPU and CUDA wheels write the same file, so they are alternatives."""
    wheel = "mlx" if sys.platform == "darwin" else "'mlx[cpu]'"
    try:
        import mlx.core  # noqa: F401
    except ImportError as error:
        return Check("mlx", "fail", f"cannot be imported: {error}", f"uv pip install --reinstall {wheel}")
    found = f"{importlib.metadata.version('mlx')}, {mlx_backend()} backend"
    if is_installed("mlx-cpu") and (cuda := cuda_packages()):
        mend = f"uv pip uninstall mlx-cpu {' '.join(cuda)}, then install one of them"
        return Check("mlx", "warn", f"{found}; mlx-cpu and {cuda[0]} overwrite each other's library", mend)
    return Check("mlx", "ok", found)


def check_products(label: str) -> Check:
    """Measure a float32 product through MLX in this process; on CPU, numpy's own BLAS says what a core can do."""
    ours = mlx_gflops()
    found = f"{label}: {_rate(ours)} in float32"
    if mlx_backend() != "cpu":
        return Check("matrix products", "ok", found)
    time.sleep(_SPIN_SECONDS)
    theirs = numpy_gflops()
    found += f" on a core (numpy: {_rate(theirs)})"
    if label == REFERENCE:
        return Check("matrix products", "warn", found, mend_reference())
    slow = ours < theirs / 2
    return Check(
        "matrix products", "warn" if slow else "ok", found, "close other programs, and look again" if slow else None
    )


def mlx_gflops() -> float:
    """Return the rate of a float32 product through MLX, in GFLOP/s."""
    import mlx.core as mx

    a = mx.random.normal((_MATRIX, _MATRIX), key=mx.random.key(0))
    return _best_gflops(lambda: mx.eval(a @ a))


def numpy_gflops() -> float:
    """Return the rate of the same product through numpy, in GFLOP/s: on one core, as MLX's (see `prepare`)."""
    import numpy as np
    import threadpoolctl

    a = np.random.default_rng(0).standard_normal((_MATRIX, _MATRIX), dtype=np.float32)
    with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
        return _best_gflops(lambda: a @ a)


def _best_gflops(multiply: Callable[[], object]) -> float:
    """Return the best of a few products: what the machine can do, rather than what it did while disturbed."""
    multiply()
    best, until = float("inf"), time.perf_counter() + _MEASURE_SECONDS
    while best == float("inf") or time.perf_counter() < until:
        started = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - started)
    return 2 * _MATRIX**3 / best / 1e9


def _rate(gflops: float) -> str:
    return f"{gflops / 1000:.1f} TFLOP/s" if gflops >= 1000 else f"{gflops:.0f} GFLOP/s"


def check_compiler() -> Check | None:
    """Tell whether mx.compile can fuse kernels; only the CPU backend needs a compiler for it."""
    if mlx_backend() != "cpu":
        return None
    if has_cpp_compiler():
        return Check("C++ compiler", "ok", "g++ found: mx.compile fuses kernels")
    return Check(
        "C++ compiler", "warn", "no g++: compiled runs fall back to uncompiled ones", advice.install_compiler()
    )


def check_memory() -> Check:
    """Tell the memory, and on Linux how much of the machine's is free."""
    from lmexp.platform.device import facts

    found = f"{_gib(facts().memory_bytes)} on the device"
    free = _meminfo().get("MemAvailable")
    if free is None:
        return Check("memory", "ok", found)
    scarce = free < _FREE_GIBIBYTES * _GIBIBYTE
    found += f", {_gib(free)} of the machine's free"
    return Check("memory", "warn" if scarce else "ok", found, "close other programs" if scarce else None)


# ---- a quiet machine


def check_load() -> Check:
    """Tell whether other processes keep the cores busy."""
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0]
    found = f"{load:.1f} of {cores} cores busy over the last minute"
    if load < _BUSY * cores:
        return Check("load", "ok", found)
    return Check("load", "warn", f"{found}: timings are not to be trusted", "close other programs")


def check_swap() -> Check | None:
    """Warn when the machine (Linux) has swapped memory out."""
    memory = _meminfo()
    used = memory.get("SwapTotal", 0) - memory.get("SwapFree", 0)
    if used < _GIBIBYTE:
        return None
    return Check("swap", "warn", f"{_gib(used)} swapped out: runs may stall", "close other programs")


def check_power() -> Check | None:
    """Warn when a Mac saves power, which slows every run."""
    if sys.platform != "darwin":
        return None
    shown = subprocess.run(["pmset", "-g"], capture_output=True, text=True, check=False).stdout
    saving = any(line.split()[:2] == ["lowpowermode", "1"] for line in shown.splitlines())
    if not saving:
        return Check("power", "ok", "full power")
    return Check("power", "warn", "low power mode slows every run", "sudo pmset -a lowpowermode 0")


def check_lock() -> Check:
    """Tell whether a run holds the device."""
    from lmexp.platform.device import default_device
    from lmexp.platform.lock import holder

    who = holder(default_device())
    if who is None:
        return Check("device lock", "ok", "free")
    return Check("device lock", "warn", f"held by {who}: a run would wait for it")


# ---- folders and texts


def check_results() -> Check:
    """Try to write where runs go by default."""
    folder = Path("results").resolve()
    if (why := _unwritable(folder)) is None:
        return Check("results", "ok", f"{folder} can be written")
    return Check("results", "fail", f"{folder} cannot be written: {why}", "add paths.results=FOLDER to your command")


def check_cache() -> Check:
    """Try to write the cache, and tell its size."""
    try:
        root = cache_folder("data").parent
    except UserError as error:
        return Check("cache", "fail", str(error), "export LMEXP_CACHE=FOLDER")
    if (why := _unwritable(root)) is not None:
        return Check("cache", "fail", f"{root} cannot be written: {why}", "export LMEXP_CACHE=FOLDER")
    n_bytes = sum(file.lstat().st_size for file in root.rglob("*") if file.is_file())
    return Check("cache", "ok", f"{root}, {n_bytes / 1e6:.0f} MB")


def check_data() -> Check | None:
    """Tell whether LMEXP_DATA, where it is set, is a folder."""
    folder = os.environ.get("LMEXP_DATA")
    if not folder:
        return None
    if Path(folder).is_dir():
        return Check("LMEXP_DATA", "ok", folder)
    return Check("LMEXP_DATA", "warn", f"{folder} is not a folder", "export LMEXP_DATA=FOLDER, or unset it")


def check_tiny_shakespeare() -> Check:
    """Tell whether tiny Shakespeare is at hand."""
    folders = [*_shared(""), *_cached("data")]
    return _at_hand("tiny Shakespeare", folders, ("tiny_shakespeare.txt",), "data=tiny_shakespeare")


def check_tiktoken() -> Check:
    """Tell whether GPT-2's vocabulary is at hand."""
    own = os.environ.get("TIKTOKEN_CACHE_DIR")
    folders = [Path(own)] if own else [*_shared("tiktoken"), *_cached("tiktoken")]
    return _at_hand("GPT-2 vocabulary", folders, _GPT2_FILES, "data.tokenizer=gpt2")


def _at_hand(name: str, folders: list[Path], files: tuple[str, ...], choice: str) -> Check:
    """Look for files that a choice needs; what is missing is no fault, since the first run that needs it fetches it."""
    for folder in folders:
        if all((folder / file).is_file() for file in files):
            return Check(name, "ok", f"in {folder}")
    return Check(name, "ok", f"not here yet: the first run with {choice} downloads it")


def _shared(name: str) -> list[Path]:
    """Return a folder under LMEXP_DATA, if that is set."""
    root = os.environ.get("LMEXP_DATA")
    return [Path(root, name)] if root else []


def _cached(name: str) -> list[Path]:
    """Return a cache folder, unless none can be made (which `check_cache` reports)."""
    return [cache_folder(name)] if check_cache().state == "ok" else []


def _unwritable(folder: Path) -> str | None:
    """Say why no file can be made in the folder, or in the nearest that exists above it; None when it can."""
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _meminfo() -> dict[str, int]:
    """Return Linux's memory figures in bytes; empty elsewhere."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    rows = (line.replace(":", "").split() for line in lines)
    return {row[0]: int(row[1]) * 1024 for row in rows if row[2:] == ["kB"]}


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / _GIBIBYTE:.1f} GiB"
