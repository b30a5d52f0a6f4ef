"""lmexp: a laboratory for small language models on MLX."""

import time
from typing import Any

__version__ = "0.1.0"
__all__ = ["STARTED_AT", "__version__", "load_pretrained"]

# As near to the start of the process as our own code can be: the time to the first step is counted from here.
STARTED_AT = time.perf_counter()


def __getattr__(name: str) -> Any:
    """Load ``load_pretrained`` when it is asked for: it brings MLX, which most of the laboratory does without."""
    if name == "load_pretrained":
        from lmexp.pretrained import load_pretrained

        return load_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
