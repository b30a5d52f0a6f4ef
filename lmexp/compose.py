"""From what a user typed to frozen runs: Hydra composes, a plan supplies its part, errors become one sentence."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lmexp.config import ADHOC, FrozenRun, freeze
from lmexp.errors import UserError, unknown
from lmexp.files import installed_folder
from lmexp.plan import Plan, read_plan

CONFIG_NAME = "config"


def value_of(key: str, overrides: Sequence[str]) -> str | None:
    """Return the value that ``key=value`` gives, the last one if several do, or None."""
    values = [item.partition("=")[2] for item in overrides if item.startswith(f"{key}=")]
    return values[-1] if values else None


def cell_overrides(plan: Plan, arm: str, seed: int, user: Sequence[str]) -> list[str]:
    """Return the overrides of one cell. What wins: conf/, then the plan's base, then the arm, then the command line."""
    named = [f"experiment={plan.name}", f"arm={arm}", f"seed={seed}"]
    keys = {item.partition("=")[0] for item in named}
    return [*plan.overrides(arm), *(item for item in user if item.partition("=")[0] not in keys), *named]


def single_overrides(user: Sequence[str]) -> list[str]:
    """Return the overrides of one run as the user typed it, with its plan's part put before.

    Raises:
        UserError: an unknown plan or arm, or a plan of several arms and no ``arm=``.
    """
    name = value_of("experiment", user)
    if name is None or name == ADHOC:
        return list(user)
    plan = read_plan(name)
    arm = value_of("arm", user) or (next(iter(plan.arms)) if len(plan.arms) == 1 else None)
    if arm is None:
        raise UserError(
            f"experiment={name} has the arms {', '.join(plan.arms)}: choose one with arm=NAME, "
            f"or run them all with lmexp run -m experiment={name}."
        )
    return [*plan.overrides(arm), *user, *([] if value_of("arm", user) else [f"arm={arm}"])]


def compose_run(overrides: Sequence[str]) -> FrozenRun:
    """Compose and freeze one run.

    Raises:
        UserError: whatever is wrong with the overrides.
    """
    with _hydra(), plain_errors():
        composed = compose(CONFIG_NAME, overrides=list(overrides), return_hydra_config=True)
        model_choice = composed.hydra.runtime.choices.model
        with open_dict(composed):
            del composed["hydra"]
    return freeze(composed, overrides, model_choice)


@contextmanager
def _hydra() -> Iterator[None]:
    """Use the Hydra that is running, with its search path, or start one."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(installed_folder("conf").resolve()), version_base="1.3"):
        yield


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what Hydra says of a user's mistake into one sentence.

    Raises:
        UserError: in place of any error of Hydra's or OmegaConf's.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise _plain(error) from error


def _plain(error: Exception) -> UserError:
    words = str(error)
    if choice := re.search(r"Could not find '([^'/]+(?:/[^'/]+)*)/([^'/]+)'", words):
        available = words.partition("Available options in")[2].partition(":")[2].partition("Config search path")[0]
        options = [option for option in available.split() if not option.startswith("_")]
        return unknown(f"choice of {choice[1]}", choice[2], options)
    if key := re.search(r"Could not (?:override|append to) '([^'@]+)'", words):
        return unknown("key", key[1].lstrip("+"), _keys_beside(key[1].lstrip("+")))
    first = " ".join(line.strip() for line in words.splitlines() if line.strip())
    return UserError(f"{first.rstrip('.')}; see `lmexp run --help` for groups and keys.")


def _keys_beside(key: str) -> list[str]:
    """Return the keys of the default config in the section that ``key`` names, or the top level if there is none."""
    with _hydra():
        config = OmegaConf.to_container(compose(CONFIG_NAME), resolve=False)
    assert isinstance(config, dict)
    known, section = list(_paths(config, "")), key.rpartition(".")[0]
    return [path for path in known if path.rpartition(".")[0] == (section if section in known else "")]


def _paths(node: dict, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
