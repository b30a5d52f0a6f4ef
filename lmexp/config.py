"""From a composed Hydra config to one frozen, checked, hashed :class:`RunConfig`, and back from its file."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from lmexp import results
from lmexp.costs.spec import DecodeSpec
from lmexp.data.spec import DataSpec
from lmexp.errors import UserError, unknown
from lmexp.files import write_text
from lmexp.lock import read_lock
from lmexp.model.spec import ModelSpec
from lmexp.plan import canonical_json, read_plan
from lmexp.results import CONFIG_FILE
from lmexp.train.budget import BudgetSpec
from lmexp.train.schedule import ScheduleSpec
from lmexp.train.spec import CompileSpec, OptimizerSpec, PrecisionSpec, TrainSpec

ADHOC = "adhoc"

# Both read the same; the one that is written in C is ten times as fast, where it was built.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_SEEDS = 1 << 63  # what a column of whole numbers holds

# The sections of a config that decide a run's result, each checked by the dataclass that owns it.
SECTIONS: Mapping[str, type] = {
    "model": ModelSpec,
    "data": DataSpec,
    "optimizer": OptimizerSpec,
    "train": TrainSpec,
    "schedule": ScheduleSpec,
    "compile": CompileSpec,
    "precision": PrecisionSpec,
    "budget": BudgetSpec,
    "decode": DecodeSpec,
}


@dataclass(frozen=True)
class RunConfig:
    """Everything that one run is a function of, and what it is called."""

    experiment: str
    arm: str
    seed: int
    model: ModelSpec
    data: DataSpec
    optimizer: OptimizerSpec
    train: TrainSpec
    schedule: ScheduleSpec
    compile: CompileSpec
    precision: PrecisionSpec
    budget: BudgetSpec
    decode: DecodeSpec
    data_fingerprint: str
    overrides: tuple[str, ...]
    plan_sha256: str | None
    lock_sha256: str | None = None  # of the lock's entry that this run follows; None: the run is exploratory

    def __post_init__(self) -> None:
        if self.data.batch_size % self.optimizer.micro_batches:
            raise UserError(
                f"optimizer.micro_batches={self.optimizer.micro_batches} does not divide "
                f"data.batch_size={self.data.batch_size}; choose a divisor."
            )
        if self.decode.n_tokens is not None and self.decode.n_tokens > self.data.context_length:
            raise UserError(
                f"decode.n_tokens={self.decode.n_tokens} is more than the model sees at once: "
                f"add data.context_length={self.decode.n_tokens}."
            )

    @property
    def sha256(self) -> str:
        """Hash of everything that decides the result, and of nothing that does not (names, paths, where text lies)."""
        return self.sha256_without(())

    def sha256_without(self, keys: Iterable[str]) -> str:
        """Return the hash of what decides the result, but for some keys or sections: those that a plan leaves free."""
        deciding: dict[str, Any] = {name: dataclasses.asdict(getattr(self, name)) for name in SECTIONS}
        deciding["data"].pop("path")
        deciding |= {"seed": self.seed, "data_fingerprint": self.data_fingerprint}
        for key in keys:
            *sections, name = key.split(".")
            node: Any = deciding
            for section in sections:
                node = node.get(section) if isinstance(node, dict) else None
            if isinstance(node, dict):
                node.pop(name, None)
        return hashlib.sha256(canonical_json(deciding).encode()).hexdigest()

    @property
    def run_id(self) -> str:
        """The name of the run's folder: ``ARM-seedK-HASH8``."""
        return f"{self.arm}-seed{self.seed}-{self.sha256[:8]}"

    def row(self) -> dict[str, Any]:
        """Return the columns of ``run.parquet`` that are known before the run starts, whatever the machine."""
        return {
            "experiment": self.experiment,
            "arm": self.arm,
            "seed": self.seed,
            "run_id": self.run_id,
            "overrides": " ".join(self.overrides) or None,
            "plan_sha256": self.plan_sha256,
            "registered": self.lock_sha256 is not None,
            "lock_sha256": self.lock_sha256,
            "config_sha256": self.sha256,
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "budget_seconds": self.budget.seconds,
        }


@dataclass(frozen=True)
class FrozenRun:
    """A config and the folder it writes to: what a process is given to run."""

    config: RunConfig
    folder: Path

    @property
    def is_done(self) -> bool:
        """Whether the run is done: a run that follows a lock is not done by one from before the plan was locked."""
        if not results.is_done(self.folder):
            return False
        row = results.read_row(self.folder)
        return row is not None and (self.config.lock_sha256 is None or self._follows_our_lock(row))

    def _follows_our_lock(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row names an entry of the chain that this run follows, be it an earlier one."""
        if row["lock_sha256"] == self.config.lock_sha256:
            return True
        lock = read_lock(read_plan(self.config.experiment)) if row["lock_sha256"] else None
        return lock is not None and lock.entry(row["lock_sha256"]) is not None

    @property
    def state(self) -> str:
        """What is true of the run now: ``done``, ``failed``, ``running`` or ``missing``."""
        state = results.state(self.folder)
        return "missing" if state == "done" and not self.is_done else state


def freeze(composed: DictConfig, label: str, deviations: Sequence[str]) -> FrozenRun:
    """Check a composed config and freeze it.

    Args:
        composed: the job's config, without the ``hydra`` node.
        label: what to call the run when it belongs to no plan.
        deviations: the overrides by which it departs from its plan.

    Raises:
        UserError: a wrong type, a value out of range, an unknown plan, a text that is not there.
    """
    from lmexp.data import fingerprint

    _refuse_unknown_keys(composed)
    plan = None if composed.experiment == ADHOC else read_plan(composed.experiment)
    sections = {name: _section(name, spec, composed) for name, spec in SECTIONS.items()}
    sections["data"] = _with_absolute_path(sections["data"])
    config = RunConfig(
        experiment=composed.experiment,
        arm=label if plan is None else composed.arm,
        seed=checked_seed(composed.seed),
        data_fingerprint=fingerprint(sections["data"]),
        overrides=tuple(deviations),
        plan_sha256=None if plan is None else plan.sha256,
        **sections,
    )
    return FrozenRun(config, Path(composed.paths.results) / config.experiment / config.run_id)


def _refuse_unknown_keys(composed: DictConfig) -> None:
    """Refuse what nobody would read, and a results folder that is none."""
    known = [*SECTIONS, "experiment", "arm", "seed", "paths"]
    for key in composed:
        if key not in known:
            raise unknown("key", str(key), known)
    paths = composed.paths
    if not (isinstance(paths, DictConfig) and set(paths) == {"results"} and isinstance(paths.results, str)):
        raise UserError(f"paths={paths} must hold one folder, results; for instance paths.results=results.")


def to_mapping(run: FrozenRun) -> dict[str, Any]:
    """Turn a frozen run into plain values, for its file or for another process."""
    content = dataclasses.asdict(run.config)
    return {**content, "overrides": list(run.config.overrides), "sha256": run.config.sha256}


def from_mapping(content: Mapping[str, Any], folder: Path) -> FrozenRun:
    """Turn plain values back into a frozen run, checking its ranges and its hash again.

    Raises:
        UserError: the values were changed since they were frozen.
    """
    fields = {key: value for key, value in content.items() if key != "sha256"}
    # The hash below vouches for the types, which were checked when the run was frozen: no need for OmegaConf again.
    sections = {name: spec_from(spec, fields[name]) for name, spec in SECTIONS.items()}
    config = RunConfig(**{**fields, "overrides": tuple(fields["overrides"]), **sections})
    if config.sha256 != content["sha256"]:
        raise UserError(f"The config in {folder} was edited after it was frozen; compose a new run instead.")
    return FrozenRun(config, folder)


def spec_from(spec: type, values: Mapping[str, Any]) -> Any:
    """Build a spec, and the specs within it, from plain values."""
    parts = {field.name: field.type for field in dataclasses.fields(spec) if dataclasses.is_dataclass(field.type)}
    built = {key: spec_from(cast(type, parts[key]), value) for key, value in values.items() if key in parts}
    return spec(**{**values, **built})


def save(run: FrozenRun) -> None:
    """Write the frozen config into the run's folder, which must exist."""
    write_text(run.folder / CONFIG_FILE, yaml.safe_dump(to_mapping(run), sort_keys=False))


def load(folder: Path) -> FrozenRun:
    """Read the frozen config of a run's folder.

    Raises:
        UserError: there is none, or it was edited since it was frozen.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        raise UserError(
            f"{folder} is not a run's folder (it has no {CONFIG_FILE}); `lmexp status NAME` lists the runs."
        )
    try:
        return from_mapping(yaml.load(path.read_text(encoding="utf-8"), _LOADER), folder)
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; move {folder} away and run again.") from error


def _with_absolute_path(data: DataSpec) -> DataSpec:
    """Return the spec with a path that means the same in another working directory."""
    path = data.path and str(Path(data.path).expanduser().absolute())
    return dataclasses.replace(data, path=path)


def checked_seed(value: object) -> int:
    """Return a seed, given as a number or as typed.

    Raises:
        UserError: not a whole number from 0 up.
    """
    if not str(value).isdecimal() or int(str(value)) >= _SEEDS:
        raise UserError(
            f"seed={value} must be a whole number from 0 up, below 2**63; to sweep several, use -m seed=0,1,2."
        )
    return int(str(value))


def _section(name: str, spec: type, composed: DictConfig) -> Any:
    """Build one spec from its section: types checked by OmegaConf, ranges by the spec itself."""
    fields = dataclasses.fields(spec)
    try:
        return OmegaConf.to_object(OmegaConf.merge(_schema(spec), composed[name]))
    except ConfigKeyError as error:
        key = str(getattr(error, "full_key", "") or getattr(error, "key", "") or "")
        raise unknown("key", f"{name}.{key}", [f"{name}.{known}" for known in _keys(spec)]) from error
    except MissingMandatoryValue as error:
        words = " ".join(str(error).split())
        raise UserError(f"{name} misses a value ({words}); see conf/{name}/ for complete examples.") from error
    except (ValidationError, OmegaConfBaseException) as error:
        full_key = str(getattr(error, "full_key", "") or "")
        if not full_key or dataclasses.is_dataclass({field.name: field.type for field in fields}.get(full_key)):
            raise UserError(
                f"{name} has a section that was given one value: set its keys, see conf/{name}/."
            ) from error
        reason = re.split(r"\n", str(error))[0].rstrip(".")
        raise UserError(f"{name}.{full_key} must be {_in_words(_kind(spec, full_key))}: {reason}.") from error


@functools.cache
def _schema(spec: type) -> DictConfig:
    """Return the types of a frozen dataclass, and of those within it, as a config to merge values with; do not edit."""
    schema = OmegaConf.structured(spec)
    OmegaConf.set_readonly(schema, False)
    for field in dataclasses.fields(spec):
        if dataclasses.is_dataclass(field.type):
            schema[field.name] = _schema(cast(type, field.type))
    return schema


def _keys(spec: type) -> list[str]:
    """Return every key of a spec, those of the specs within it as ``part.key``."""
    keys = []
    for field in dataclasses.fields(spec):
        if dataclasses.is_dataclass(field.type):
            keys += [f"{field.name}.{key}" for key in _keys(cast(type, field.type))]
        else:
            keys.append(field.name)
    return keys


def _kind(spec: type, full_key: str) -> str:
    """Return the name of the type of a key such as ``rope.base``."""
    first, _, rest = full_key.partition(".")
    kinds = {field.name: field.type for field in dataclasses.fields(spec)}
    kind = kinds.get(first, str)
    if rest and dataclasses.is_dataclass(kind):
        return _kind(cast(type, kind), rest)
    return getattr(kind, "__name__", str(kind))


def _in_words(kind: str) -> str:
    """Say a type as a person would."""
    words = {
        "list": "a list, such as [gqa]",
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "text",
    }
    for name, word in words.items():
        if kind.split(" ")[0] == name:
            return word + (" or null" if "None" in kind else "")
    return "of another type"
