"""``lmexp run``: the Hydra application. One run in this process, or a sweep of fresh processes with ``-m``."""

import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lmexp import platform
from lmexp.compose import CONFIG_NAME, compose_run, plain_errors, single_overrides
from lmexp.errors import UserError
from lmexp.files import installed_folder

QUICKSTART = "experiment=quickstart"


def run_command(arguments: Sequence[str]) -> int:
    """Carry out ``lmexp run ARGUMENTS`` as Hydra would; return the exit code.

    Raises:
        UserError: whatever is wrong with the arguments.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]  # one sentence in place of the usage
    parsed = parser.parse_args(list(arguments))
    flags = [argument for argument in arguments if argument not in parsed.overrides]
    overrides = parsed.overrides or [QUICKSTART]
    _check_form(overrides)
    if not parsed.multirun:
        overrides = single_overrides(overrides)
        compose_run(overrides)  # whatever is wrong is said here, before Hydra sets up anything
    given = [*overrides, *flags]
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
    verb = line.split()[1:2]
    if line and verb != ["run"]:
        return 0  # only `run` has keys and choices to complete
    os.environ["COMP_LINE"] = re.sub(r"^(\S+)\s+run\b", r"\1", line)
    sys.argv = ["lmexp", *(argument for argument in arguments if argument != "run")]
    _job()
    return 0


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; see `lmexp run --help` for groups and keys, `lmexp run --hydra-help` for flags.")


def _check_form(overrides: Sequence[str]) -> None:
    for item in overrides:
        if "=" not in item and not item.startswith("~"):
            raise UserError(f"'{item}' is neither a flag nor key=value; for instance model=gpt_tiny.")


@hydra.main(version_base="1.3", config_path=str(installed_folder("conf").resolve()), config_name=CONFIG_NAME)
def _job(composed: DictConfig) -> None:
    """Run one composed config in this process.

    Hydra drops what a job returns and adds lines of its own to what it raises: both leave through SystemExit instead.
    """
    try:
        sys.exit(_run_here())
    except UserError as error:
        raise SystemExit(error) from error


def _run_here() -> int:
    frozen = compose_run(list(HydraConfig.get().overrides.task))
    platform.prepare()  # before MLX is imported, which happens just below
    from lmexp.single import run_with_summary

    return run_with_summary(frozen)
