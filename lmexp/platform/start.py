"""What a process does once, before it imports MLX."""

import ctypes
import functools
import importlib.metadata
import os
import sys

from lmexp.platform import blas, compiler

# Names and values from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1
_ONE_GIBIBYTE = 1 << 30
_TUNABLES = "GLIBC_TUNABLES"


@functools.cache
def prepare(product_threads: int = 1) -> str:
    """Ready this process for MLX; call it before the first ``import mlx.core``, as often as you like.

    On Linux with the CPU wheel: loads a real BLAS (see `lmexp.platform.blas`), keeps each matrix product on one core,
    keeps freed memory, has MLX take up streams side by side, and gives its compiled kernels a private folder.
    With the CUDA wheel it keeps freed memory. Elsewhere there is nothing to do.

    Args:
        product_threads: of each matrix product. One is best for what MLX does on a CPU: the threads of a product spin
            while they wait for each other, and the other cores have parts of the batch to work on (see
            `lmexp.platform.streams`). Measured on two cores, llama_small: training on 16 x 256 tokens 1.9 times as fast
            as with two threads on one stream, decoding one token twice.

    Returns:
        What multiplies matrices, for the ``blas`` column: ``accelerate`` (macOS), ``cublas (tf32)``, ``reference``,
        ``openblas 0.3.34.481.3 (scipy-openblas32)``, or ``built-in`` for an MLX that was built by hand.

    Raises:
        UserError: when ``LMEXP_BLAS`` or ``LD_PRELOAD`` brings a library that cannot be used, or there can be no cache
            folder.
        RuntimeError: when MLX was imported before, so that a BLAS would come too late.
    """
    backend = mlx_backend()
    if backend in ("cpu", "cuda"):
        _keep_freed_memory()
    if backend != "cpu":
        return {"metal": "accelerate", "cuda": _cublas()}.get(backend, "built-in")
    label = _load_blas(product_threads)
    _take_up_streams_side_by_side()
    _isolate_kernels()
    return label


def environment() -> dict[str, str]:
    """Return the environment for a process that computes: this one's, and what glibc has to find when it starts.

    It then asks the kernel for pages of 2 MiB in place of 4 KiB, which a kernel may give, since MLX streams through
    large arrays: a step of llama_small on 16 x 256 tokens takes 0.95 of the time. A value of the user's own stands.
    """
    if not is_installed("mlx-cpu"):
        return dict(os.environ)
    return {_TUNABLES: "glibc.malloc.hugetlb=1", **os.environ}


def start_anew() -> None:
    """Start this very command again in the `environment` for it, if it is not: nothing less reaches glibc."""
    wanted = environment()
    if wanted != os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)


def _load_blas(product_threads: int) -> str:
    """Load a BLAS that computes products with so many threads, whichever thread of MLX's asks for them.

    MKL takes the number from the environment when it first multiplies; told later, it would hold for this thread alone.
    That MLX's integers have 32 bits it has to be told there as well, whatever the user's other programs want.
    """
    import threadpoolctl

    told = {"MKL_NUM_THREADS": str(product_threads), "MKL_INTERFACE_LAYER": "LP64"}
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        label = blas.preload()
    finally:
        # These are not for this process's children: PyTorch, for one, would be slowed by a single thread.
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value
    threadpoolctl.threadpool_limits(limits=product_threads, user_api="blas")
    return label


def _take_up_streams_side_by_side() -> None:
    """Have MLX hand out work breadth first, however wide a graph is.

    Beyond a width of 20 arrays MLX goes depth first: it hands out all of one stream's work, waits, as it lets only so
    many tasks be under way, and the other streams have none. A gradient has hundreds of arrays. Measured on two cores
    with two streams, breadth first: llama_tiny 2 times, gpt_small 1.4 times as fast, peak memory the same within 7%.
    """
    os.environ.setdefault("MLX_BFS_MAX_WIDTH", "100000")


def _cublas() -> str:
    """Say how CUDA multiplies float32 matrices: MLX rounds them to TF32 unless told not to."""
    return "cublas" if os.environ.get("MLX_ENABLE_TF32") == "0" else "cublas (tf32)"


def mlx_backend() -> str:
    """Tell what MLX will compute on, without importing it: ``metal``, ``cuda``, ``cpu`` or ``unknown``."""
    if sys.platform == "darwin":
        return "metal"
    cuda = cuda_packages()
    if cuda and _sees_a_gpu():
        return "cuda"
    # The CUDA wheel falls back to the CPU, with the reference BLAS like the CPU wheel.
    return "cpu" if sys.platform == "linux" and (cuda or is_installed("mlx-cpu")) else "unknown"


def _sees_a_gpu() -> bool:
    """Ask the CUDA driver, which knows what ``CUDA_VISIBLE_DEVICES`` hides; MLX would wake it a moment later anyway."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def cuda_packages() -> list[str]:
    """Return which of MLX's CUDA wheels are installed."""
    return [name for name in ("mlx-cuda-13", "mlx-cuda-12", "mlx-cuda") if is_installed(name)]


def is_installed(package: str) -> bool:
    """Tell whether a package is installed, without importing it."""
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _isolate_kernels() -> None:
    """Give MLX's kernels a private folder; without one they go where MLX puts them, which mostly works."""
    try:
        compiler.isolate_kernels()
    except OSError as error:
        print(f"lmexp: the cache cannot be written ({error}): set LMEXP_CACHE to a folder that can.", file=sys.stderr)


def _keep_freed_memory() -> None:
    """Tell glibc to reuse memory rather than return it to the kernel.

    MLX allocates every result anew; by default each large one is mapped, zeroed page by page and unmapped again, which
    takes 8 times as long as the arithmetic of an elementwise product of 8 million floats (20 ms against 2.5), and 5% of
    a training step at 256 tokens. On a CUDA device a step allocates little at a time, but often; returned after each
    and taken again, it costs the host a quarter of its time (llama_small on an H200: 4.1 ms a step in place of 3.1).
    Other C libraries have no mallopt.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_THRESHOLD, _ONE_GIBIBYTE)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
