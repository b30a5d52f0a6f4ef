"""lmexp's sweeper and launcher, where Hydra looks for plugins.

Every Hydra application in the environment imports this file, so it imports nothing heavy at the top.
"""

import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class PairedSweeper(Sweeper):
    """Expands a plan, or what the command line sweeps, into blocks of one seed with shuffled arms."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from lmexp.sweep import expand

        assert self.launcher is not None
        outcomes = self.launcher.launch(expand(arguments), initial_job_idx=0)
        if any(outcome.status is not JobStatus.COMPLETED for outcome in outcomes):
            sys.exit(1)  # the display has said which
        return outcomes


class FreshProcessLauncher(Launcher):
    """Composes and freezes every run, then gives each a process of its own, one at a time."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from lmexp.sweep import launch

        returns = []
        for overrides, row in launch(job_overrides):
            outcome = JobReturn(overrides=overrides)
            if row is not None and row["status"] == "ok":
                outcome.status, outcome.return_value = JobStatus.COMPLETED, row["val_bpb"]
            else:
                outcome.status, outcome.return_value = JobStatus.FAILED, RuntimeError(row and row["error"])
            returns.append(outcome)
        return returns
