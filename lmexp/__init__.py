"""lmexp: a laboratory for small language models on MLX."""

__version__ = "0.1.0"
