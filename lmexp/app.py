"""``lmexp run``: the Hydra application. One run in this process, or a sweep of fresh processes with ``-m``."""

import logging
import os
import re
import sys
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lmexp import platform
from lmexp.compose import CONFIG_NAME, plain_errors, single_overrides
from lmexp.config import freeze
from lmexp.errors import UserError
from lmexp.files import installed_folder

QUICKSTART = "experiment=quickstart"


def run_command(arguments: Sequence[str]) -> int:
    """Carry out ``lmexp run ARGUMENTS`` as Hydra would; return the exit code.

    Raises:
        UserError: whatever is wrong with the arguments.
    """
    given = list(arguments)
    if not _overrides(given):
        given.append(QUICKSTART)
    if not {"-m", "--multirun"} & set(given):
        given = [*single_overrides(_overrides(given)), *_flags(given)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise here, where errors become one sentence
    logging.raiseExceptions = False  # Hydra logs what --info shows: a reader that has had enough (| head) is no error
    sys.argv = ["lmexp run", *given]
    try:
        with plain_errors():
            _job()
    except SystemExit as ending:
        if isinstance(ending.code, UserError):
            raise ending.code from None
        return int(ending.code or 0)
    return 0


def complete(arguments: Sequence[str]) -> int:
    """Answer Hydra's shell completion, which calls the program without its verb: ``lmexp -sc query=bash``."""
    line = os.environ.get("COMP_LINE", "")
    os.environ["COMP_LINE"] = re.sub(r"^(\S+)\s+run\b", r"\1", line)
    sys.argv = ["lmexp", *(argument for argument in arguments if argument != "run")]
    _job()
    return 0


def _overrides(arguments: Sequence[str]) -> list[str]:
    return [
        argument for argument in arguments if not argument.startswith("-") and ("=" in argument or argument[0] in "+~")
    ]


def _flags(arguments: Sequence[str]) -> list[str]:
    overrides = set(_overrides(arguments))
    return [argument for argument in arguments if argument not in overrides]


@hydra.main(version_base="1.3", config_path=str(installed_folder("conf").resolve()), config_name=CONFIG_NAME)
def _job(composed: DictConfig) -> None:
    """Run one composed config in this process.

    Hydra drops what a job returns and adds lines of its own to what it raises: both leave through SystemExit instead.
    """
    try:
        sys.exit(_run_here(composed))
    except UserError as error:
        raise SystemExit(error) from error


def _run_here(composed: DictConfig) -> int:
    context = HydraConfig.get()
    frozen = freeze(composed, list(context.overrides.task), str(context.runtime.choices["model"]))
    platform.prepare()  # before MLX is imported, which happens just below
    from lmexp.single import run_with_summary

    return run_with_summary(frozen)
