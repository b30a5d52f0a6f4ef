"""What a module computes on a GPU, computed here: its formulas for that device, on whatever device there is."""

import mlx.core


class MlxOnAGpu:
    """MLX as one module sees it (``monkeypatch.setattr(module, "mx", MlxOnAGpu())``): its default device is a GPU."""

    def __getattr__(self, name):
        return getattr(mlx.core, name)

    def default_device(self):
        return mlx.core.Device(mlx.core.gpu)
