"""From a ModelSpec to one LanguageModel: attention, feed-forward, positions, caches, initial weights, sampling.

Nothing is imported here, so that reading a ModelSpec does not load MLX (its BLAS must be chosen before it is imported).
"""
