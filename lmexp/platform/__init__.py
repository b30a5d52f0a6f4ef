"""The machine under the laboratory: a fast BLAS, facts, memory, the drift probe, the device lock, the doctor.

Importing this package imports nothing heavy, and MLX least of all: `prepare` must run before MLX is imported.
"""

from typing import TYPE_CHECKING, Any

from lmexp.platform.compiler import has_cpp_compiler
from lmexp.platform.cores import compute_cores, usable_cores
from lmexp.platform.start import environment, is_installed, mlx_backend, prepare, start_anew

if TYPE_CHECKING:
    from lmexp.platform.checks import Check, doctor
    from lmexp.platform.device import Facts, facts, peak_memory_bytes, reset_peak_memory
    from lmexp.platform.drift import probe
    from lmexp.platform.lock import device_lock, holder_here
    from lmexp.platform.show import print_doctor
    from lmexp.platform.streams import compute_streams

__all__ = [
    "Check",
    "Facts",
    "compute_cores",
    "compute_streams",
    "device_lock",
    "doctor",
    "environment",
    "facts",
    "has_cpp_compiler",
    "holder_here",
    "is_installed",
    "mlx_backend",
    "peak_memory_bytes",
    "prepare",
    "print_doctor",
    "probe",
    "reset_peak_memory",
    "start_anew",
    "usable_cores",
]

_ROOMS = {
    "Check": "checks",
    "doctor": "checks",
    "print_doctor": "show",
    "Facts": "device",
    "facts": "device",
    "peak_memory_bytes": "device",
    "reset_peak_memory": "device",
    "probe": "drift",
    "device_lock": "lock",
    "holder_here": "lock",
    "compute_streams": "streams",
}


def __getattr__(name: str) -> Any:
    """Import on first use what imports MLX, filelock or rich."""
    import importlib

    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)
