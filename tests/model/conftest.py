"""Makes ``numpy_model`` importable, whatever import mode pytest runs in, and keeps float32 products in float32."""

import os
import sys
from pathlib import Path

# CUDA's default rounds the factors to 10 bits (TF32), which the tolerances of a float32 law do not allow for.
os.environ.setdefault("MLX_ENABLE_TF32", "0")
sys.path.insert(0, str(Path(__file__).parent))
