"""lmexp: a laboratory for small language models on MLX."""

import time

__version__ = "0.1.0"

# As near to the start of the process as our own code can be: the time to the first step is counted from here.
STARTED_AT = time.perf_counter()
