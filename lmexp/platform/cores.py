"""How many cores this process may use, and how many of them compute. Imports nothing heavy."""

import os


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compute_cores() -> int:
    """Return how many cores computing on a CPU may use: what OpenBLAS is told from outside, or all."""
    told = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or ""
    return min(int(told), usable_cores()) if told.isdecimal() and int(told) else usable_cores()
