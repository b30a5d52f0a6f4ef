"""From what a user typed to frozen runs: Hydra composes, a plan supplies its part, errors become one sentence."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lmexp.config import ADHOC, FrozenRun, RunConfig, checked_seed, freeze
from lmexp.errors import UserError, unknown
from lmexp.files import installed_folder
from lmexp.lock import cell_key, read_lock
from lmexp.plan import Plan, cells, confirmation_cells, read_plan

CONFIG_NAME = "config"
# Keys that name a cell or a place rather than change what is computed: overriding them is no deviation from a plan.
NAMING_KEYS = ("experiment", "arm", "seed", "paths.results")


def value_of(key: str, overrides: Sequence[str]) -> str | None:
    """Return the value that ``key=value`` gives, the last one if several do, or None."""
    values = [item.partition("=")[2] for item in overrides if item.startswith(f"{key}=")]
    return values[-1] if values else None


def results_folder(overrides: Sequence[str]) -> Path:
    """Return where runs write: ``paths.results=DIR``, or what the config says, without composing it."""
    given = value_of("paths.results", overrides)
    if given is not None:
        return Path(given)
    content = yaml.safe_load((installed_folder("conf") / f"{CONFIG_NAME}.yaml").read_text(encoding="utf-8"))
    return Path(content["paths"]["results"])


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

    Args:
        overrides: what it is made of; for a plan's cell, the plan's part comes first (:func:`cell_overrides`).

    Raises:
        UserError: whatever is wrong with the overrides.
    """
    deviations = _deviations(overrides)
    run = _compose(overrides, deviations)
    if run.config.plan_sha256 is None:
        return run
    plan, config = read_plan(run.config.experiment), run.config
    if deviations and not _seed_is_foreign(plan, config.seed):
        # Saying again what the plan says changes nothing: the same config is the plan's own cell.
        planned = _compose(cell_overrides(plan, config.arm, config.seed, []), [])
        if planned.config.sha256 == config.sha256:
            config = replace(config, overrides=())
    return replace(run, config=replace(config, lock_sha256=_followed_entry(plan, config)))


def frozen_cells(plan: Plan) -> tuple[dict[str, RunConfig], dict[str, UserError]]:
    """Freeze every cell that a plan can come to need, from the plan as it is and not as its file says by now.

    An arm is composed once: a section of a config is frozen without the rest of it, so nothing in it can refer to the
    seed. Only what decides the result is in these configs; they belong to no plan.

    Returns:
        The config of each cell (:func:`lmexp.lock.cell_key`), and the error of each arm that does not compose.
    """
    seeds: dict[str, list[int]] = {}
    for cell in (*cells(plan), *confirmation_cells(plan)):
        seeds.setdefault(cell.arm, []).append(cell.seed)
    configs: dict[str, RunConfig] = {}
    errors: dict[str, UserError] = {}
    for arm, needed in seeds.items():
        try:
            config = _compose(plan.overrides(arm), []).config
            configs |= {cell_key(arm, seed): replace(config, seed=seed) for seed in needed}
        except UserError as error:
            errors[arm] = error
    return configs, errors


def faulty_overrides(arms: Mapping[str, Sequence[str]]) -> dict[str, list[UserError]]:
    """Return what is wrong with each override that Hydra cannot apply, where composing would name only the first.

    Keys of a group whose choice does not exist are passed over: nobody can tell whether the choice would have them.

    Args:
        arms: the overrides of each arm; what arms have in common is tried once.
    """
    tried: dict[tuple[str, ...], UserError | None] = {}
    return {arm: list(_faults(overrides, tried)) for arm, overrides in arms.items()}


def _faults(overrides: Sequence[str], tried: dict[tuple[str, ...], UserError | None]) -> Iterator[UserError]:
    kept: tuple[str, ...] = ()
    missing: set[str] = set()
    for item in overrides:
        key = item.partition("=")[0].lstrip("+~")
        if key.partition(".")[0] in missing:
            continue
        together = (*kept, item)
        if together not in tried:
            tried[together] = _fault(together)
        error = tried[together]
        if error is None:
            kept = together
        else:
            missing |= {key} if "." not in key else set()
            yield error


def _fault(overrides: Sequence[str]) -> UserError | None:
    try:
        with _hydra(), plain_errors():
            compose(CONFIG_NAME, overrides=list(overrides))
    except UserError as error:
        return error
    return None


def _followed_entry(plan: Plan, config: RunConfig) -> str | None:
    """Return the hash of the lock's entry that a run follows; None when it follows none and is exploratory."""
    lock = read_lock(plan)
    if lock is None or config.overrides or lock.current.plan_sha256 != plan.sha256 or lock.faults():
        return None
    promised = lock.current.cells.get(cell_key(config.arm, config.seed))
    return lock.current.sha256 if promised == config.sha256_without(plan.free) else None


def _seed_is_foreign(plan: Plan, seed: int) -> bool:
    return seed not in (*plan.seeds, *(plan.confirmation.seeds if plan.confirmation else ()))


def _compose(overrides: Sequence[str], deviations: Sequence[str]) -> FrozenRun:
    with _hydra(), plain_errors():
        try:
            composed = compose(CONFIG_NAME, overrides=[_as_text(item) for item in overrides], return_hydra_config=True)
        except (ValueError, TypeError, AttributeError) as error:  # what Hydra says of model=null, paths=1 and the like
            raise UserError(f"{' '.join(overrides)} cannot be composed: {' '.join(str(error).split())}.") from error
        model_choice = composed.hydra.runtime.choices.get("model", "model")
        with open_dict(composed):
            del composed["hydra"]
        return freeze(composed, model_choice, deviations)


def _as_text(item: str) -> str:
    """Quote the name of an arm, which Hydra would read as a number, a list or nothing at all: 0.001, [x], null."""
    key, _, value = item.partition("=")
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"arm='{escaped}'" if key == "arm" and value and value[0] not in "'\"" else item


def _deviations(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that come after the plan's part and that the plan does not leave free."""
    name, arm = value_of("experiment", overrides), value_of("arm", overrides)
    if name in (None, ADHOC) or arm is None:
        return []
    plan = read_plan(str(name))
    own = overrides[len(plan.overrides(arm)) :]
    free = {*NAMING_KEYS, *plan.free}
    foreign_seed = [item for item in own if item.startswith("seed=") and _seed_is_foreign(plan, checked_seed(item[5:]))]
    return [item for item in own if not _is_free(item.partition("=")[0].lstrip("+"), free)] + foreign_seed


def _is_free(key: str, free: Collection[str]) -> bool:
    """Tell whether a key, or a section that it lies in, is among those left free."""
    parts = key.split(".")
    return any(".".join(parts[:n]) in free for n in range(1, len(parts) + 1))


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
    words = str(error).partition("Config search path")[0].partition(" See https://")[0]
    if choice := re.search(r"Could not find '([^'/]+(?:/[^'/]+)*)/([^'/]+)'", words):
        options = words.partition("Available options in")[2].partition(":")[2].split()
        return unknown(
            f"choice of {choice[1]}", choice[2], [option for option in options if not option.startswith("_")]
        )
    if key := re.search(r"Could not (?:override|append to) '\+?([^'@]+)'", words):
        known = _keys_beside(key[1])
        if key[1] not in known:
            return unknown("key", key[1], known)
    if several := re.search(r"Ambiguous value for argument '([^']+)'", words):
        return UserError(f"{several[1]} is several values: sweep them with lmexp run -m {several[1]}.")
    said = " ".join(words.split()).rstrip(".:")
    return UserError(f"{said}; see `lmexp run --help` for groups and keys.")


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
