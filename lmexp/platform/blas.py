"""A real BLAS under MLX on Linux CPU.

The CPU wheel of MLX brings the reference BLAS, some 60 times slower than a tuned one. MLX looks the product's name up
in the global symbol scope first, so whatever stands there when MLX is first imported takes its place.

Candidates, in this order: what the process already shows (``LD_PRELOAD``), what ``LMEXP_BLAS`` names, the ``mkl`` wheel
(which nobody installs by accident: 0.9 GB), and the OpenBLAS of the ``scipy-openblas32`` wheel, which comes with lmexp:
newer than what scipy carries in itself and than most distributions' own, and the faster for it.
"""

import ctypes
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lmexp.errors import UserError
from lmexp.platform import advice, shim

REFERENCE = "reference"
_INSTALL = "uv pip install --reinstall scipy-openblas32"

# Wheels that carry a BLAS, best first, and how its file's name begins.
_WHEELS = {"mkl": "libmkl_rt.so", "scipy-openblas32": "libscipy_openblas.so"}


@dataclass(frozen=True)
class Blas:
    """A BLAS loaded into this process, not yet (or already) the one that MLX will find."""

    library: ctypes.CDLL
    source: str  # where it came from, for the label

    @property
    def prefix(self) -> str:
        """What stands before each exported name: the builds for Python's wheels keep theirs apart from all others'."""
        return "" if hasattr(self.library, "cblas_sgemm") else "scipy_"

    def address(self, product: str) -> int:
        """Return where ``cblas_<product>`` lies; AttributeError when the library lacks it."""
        function = getattr(self.library, f"{self.prefix}cblas_{product}")
        return ctypes.cast(function, ctypes.c_void_p).value or 0

    @property
    def label(self) -> str:
        """Name, version and origin in a few words: ``openblas 0.3.34.481.3 (scipy-openblas32)``."""
        return f"{_name_and_version(self)} ({self.source})"


def preload() -> str:
    """Put the best BLAS at hand where MLX will find it, and return the label of the one that MLX will use.

    Raises:
        UserError: when ``LMEXP_BLAS`` names a library that cannot be used, or a preloaded one cannot.
        RuntimeError: when MLX is already imported, so that it would keep the BLAS it has.
    """
    choice = os.environ.get("LMEXP_BLAS", "")
    if (present := _already_visible()) is not None:
        return present.label
    if choice == "off":
        return REFERENCE
    if "mlx.core" in sys.modules:
        raise RuntimeError(
            "prepare() must be called before the first import of mlx.core: MLX has bound its BLAS already"
        )
    chosen = _named(choice) if choice else next(_candidates(), None)
    if chosen is None:
        return _settle_for_reference("no OpenBLAS or MKL was found")
    return _make_visible(chosen)


def mend_reference() -> str:
    """Return what to type, or to do, so that MLX no longer multiplies with its reference BLAS."""
    if os.environ.get("LMEXP_BLAS") == "off":
        return "unset LMEXP_BLAS"
    if next(_candidates(), None) is None:
        return _INSTALL
    return "set LMEXP_CACHE to a folder that can be written" if shim.find_compiler() else advice.install_compiler()


def _make_visible(chosen: Blas) -> str:
    """Lend the product's names to MLX; without a compiler a library with plain names is made global as a whole."""
    try:
        shim.lend({product: chosen.address(product) for product in shim.PRODUCTS})
    except shim.ShimError as error:
        if chosen.prefix:
            return _settle_for_reference(str(error))
        ctypes.CDLL(chosen.library._name, mode=ctypes.RTLD_GLOBAL)
    if not _multiplies(Blas(ctypes.CDLL(None), "global scope")):
        raise RuntimeError(f"{chosen.label} was loaded, but the process's cblas_sgemm does not multiply")
    return chosen.label


def _settle_for_reference(why: str) -> str:
    print(
        f"lmexp: MLX multiplies matrices with its slow reference BLAS, because {why}; to mend it: {mend_reference()}",
        file=sys.stderr,
    )
    return REFERENCE


def _already_visible() -> Blas | None:
    """Return the BLAS in the global scope (from ``LD_PRELOAD``, or an embedding program), if there is one."""
    everything = ctypes.CDLL(None)
    if not hasattr(everything, "cblas_sgemm"):
        return None
    blas = Blas(ctypes.CDLL(_file_of(everything.cblas_sgemm)), "preloaded")
    if not _multiplies(blas):  # which sets its threads up, too
        raise UserError(f"The preloaded {blas.label} multiplies wrongly: leave it out of LD_PRELOAD.")
    return blas


def _named(path: str) -> Blas:
    """Load the library that ``LMEXP_BLAS`` names."""
    mend = "Give the path of a 32-bit-integer BLAS such as libopenblas.so.0, or LMEXP_BLAS=off for none"
    try:
        blas = Blas(ctypes.CDLL(path), "LMEXP_BLAS")
    except OSError as error:
        raise UserError(f"LMEXP_BLAS={path} cannot be loaded ({error}). {mend}.") from error
    if not _usable(blas):
        raise UserError(f"LMEXP_BLAS={path} has no cblas_sgemm, cblas_dgemm and cblas_cgemm that MLX can use. {mend}.")
    return blas


def _candidates() -> Iterator[Blas]:
    """Yield every usable BLAS of an installed wheel, best first, loading each only when it is asked for."""
    for wheel, name in _WHEELS.items():
        for path in _files_of(wheel, name):
            try:
                blas = Blas(ctypes.CDLL(str(path)), wheel)
            except OSError:  # made for another machine, or its file is gone: the next one, then
                continue
            if _usable(blas):
                yield blas


def _files_of(wheel: str, name: str) -> list[Path]:
    """Find an installed wheel's files whose names begin so, without importing anything of it."""
    try:
        files = importlib.metadata.files(wheel) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())) for file in files if file.name.startswith(name)]


def _usable(blas: Blas) -> bool:
    """Tell whether the library has all that MLX needs, takes 32-bit integers, and multiplies."""
    try:
        addresses = [blas.address(product) for product in shim.PRODUCTS]
    except AttributeError:
        return False
    return all(addresses) and "USE64BITINT" not in _openblas_config(blas) and _multiplies(blas)


def _multiplies(blas: Blas) -> bool:
    """Multiply [[1, 2, 3], [4, 5, 6]] by [[1, 0], [2, 1], [0, 3]], all exact in float32."""
    left, right, product = (
        (ctypes.c_float * 6)(1, 2, 3, 4, 5, 6),
        (ctypes.c_float * 6)(1, 0, 2, 1, 0, 3),
        (ctypes.c_float * 4)(),
    )
    row_major, plain = 101, 111
    gemm = getattr(blas.library, f"{blas.prefix}cblas_sgemm")
    gemm.restype = None
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    gemm(row_major, plain, plain, 2, 2, 3, one, left, 3, right, 2, zero, product, 2)
    return list(product) == [5, 11, 14, 23]


def _name_and_version(blas: Blas) -> str:
    """Ask the library who it is; one that does not say is called by its file's name."""
    if config := _openblas_config(blas).split():  # "OpenBLAS 0.3.34.481.3 DYNAMIC_ARCH ..."
        return f"openblas {config[1]}"
    if hasattr(blas.library, "MKL_Get_Version"):
        return f"mkl {_mkl_version(blas.library)}"
    return Path(_file_of(getattr(blas.library, f"{blas.prefix}cblas_sgemm"))).name


def _openblas_config(blas: Blas) -> str:
    """Return OpenBLAS's description of its own build, "" from any other library."""
    function = getattr(blas.library, f"{blas.prefix}openblas_get_config", None)
    if function is None:
        return ""
    function.restype = ctypes.c_char_p
    return function().decode()


def _mkl_version(library: ctypes.CDLL) -> str:
    """Read MKLVersion, a struct that begins with the three parts of the version."""
    parts = (ctypes.c_int * 64)()
    library.MKL_Get_Version(parts)
    return ".".join(str(part) for part in parts[:3])


class _SymbolInfo(ctypes.Structure):
    """The Dl_info of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _file_of(function: object) -> str:
    """Return the file that a loaded function came from."""
    info = _SymbolInfo()
    ctypes.CDLL(None).dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(info))  # type: ignore[arg-type]
    return os.fsdecode(info.file)
