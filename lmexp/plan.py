"""A plan: the question, the design, the rival hypotheses and the tests, written once in ``plan.yaml``.

The sweep, the verdicts and the report all read the :class:`Plan` made here, and nothing repeats what it says.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lmexp import criteria
from lmexp.errors import UserError, unknown
from lmexp.files import installed_folder
from lmexp.results import MEASURED_COLUMNS

DIRECTIONS = ("lower", "higher")
NO_TEST = "none"
OMNIBUS_TESTS = ("blocked_anova", NO_TEST)
CONTRASTS = ("dunnett_blocked", NO_TEST)
EFFECT_SIZES = ("cohens_d", "hedges_g", "d_z")


@dataclass(frozen=True)
class Metric:
    """The measure that decides: a column of the run rows, which direction is better, and its unit.

    ``sesoi`` is the smallest effect size of interest, in the metric's unit.
    """

    name: str
    direction: str
    unit: str
    sesoi: float | None


@dataclass(frozen=True)
class Hypothesis:
    """A claim with the criteria (see :mod:`lmexp.criteria`) that would support it and prove it wrong."""

    id: str
    claim: str
    supported_if: str
    falsified_if: str


@dataclass(frozen=True)
class Analysis:
    """The tests, fixed before any run. ``full`` names the arm with every change: the denominator of ``share``."""

    alpha: float
    omnibus: str
    contrasts: str
    effect_size: str
    full: str | None


@dataclass(frozen=True)
class Plan:
    """One experiment. ``base``, each arm and the command line are lists of Hydra overrides; later ones win."""

    name: str
    question: str
    base: tuple[str, ...]
    arms: Mapping[str, tuple[str, ...]]
    control: str | None
    seeds: tuple[int, ...]
    free: tuple[str, ...]
    primary: Metric
    secondary: tuple[str, ...]
    hypotheses: tuple[Hypothesis, ...]
    analysis: Analysis
    exploratory: tuple[str, ...]
    deviations: tuple[str, ...]
    sha256: str
    path: Path

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric the plan names, the primary one first."""
        return (self.primary.name, *self.secondary)

    def overrides(self, arm: str) -> tuple[str, ...]:
        """Return the Hydra overrides that make this arm: the plan's base, then the arm's own changes.

        Raises:
            UserError: the plan has no such arm.
        """
        if arm not in self.arms:
            raise unknown(f"arm of {self.name}", arm, self.arms)
        return self.base + self.arms[arm]


@dataclass(frozen=True)
class Cell:
    """One run of a plan, before it is composed."""

    arm: str
    seed: int


def cells(plan: Plan, arms: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Cell]:
    """Return the plan's cells, or only those of the given arms and seeds.

    Raises:
        UserError: an arm that the plan does not have.
    """
    for arm in arms:
        plan.overrides(arm)
    return [Cell(arm, seed) for seed in seeds or plan.seeds for arm in arms or plan.arms]


def find_plans() -> dict[str, Path]:
    """Return every plan by name. ``experiments/`` of the working directory wins over the installed ones."""
    roots = [installed_folder("experiments"), Path("experiments").resolve()]
    return {path.parent.name: path for root in roots for path in sorted(root.glob("*/plan.yaml"))}


def read_plan(name: str) -> Plan:
    """Read the plan called ``name``.

    Raises:
        UserError: no such plan, or its file breaks a rule; the message names the field.
    """
    plans = find_plans()
    if name not in plans:
        raise unknown("experiment", name, plans)
    return parse_plan(plans[name])


def parse_plan(path: Path) -> Plan:
    """Read and validate one ``plan.yaml``.

    Raises:
        UserError: the file is not YAML, misses a field, has a field that nobody reads, or contradicts itself.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}. Mend that line.") from error
    top = _Fields(content, str(path))
    design, metrics = top.section("design"), top.section("metrics")
    plan = Plan(
        name=top.text("name"),
        question=top.text("question"),
        base=design.texts("base"),
        arms=design.arms("arms"),
        control=design.text("control", optional=True),
        seeds=design.seeds("seeds"),
        free=design.texts("free", optional=True),
        primary=_metric(metrics.section("primary")),
        secondary=metrics.texts("secondary", optional=True),
        hypotheses=tuple(_hypothesis(fields) for fields in top.sections("hypotheses")),
        analysis=_analysis(top.section("analysis")),
        exploratory=top.texts("exploratory", optional=True),
        deviations=top.texts("deviations", optional=True),
        sha256=hashlib.sha256(_canonical(content).encode()).hexdigest(),
        path=path,
    )
    for fields in (top, design, metrics):
        fields.refuse_unread()
    _check_consistent(plan)
    return plan


def _canonical(content: object) -> str:
    """Return JSON that is equal for equal content: comments, key order and layout of the YAML do not count."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _metric(fields: "_Fields") -> Metric:
    metric = Metric(
        fields.text("name"), fields.text("direction"), fields.text("unit"), fields.number("sesoi", optional=True)
    )
    fields.refuse_unread()
    if metric.direction not in DIRECTIONS:
        raise unknown(f"direction in {fields.where}", metric.direction, DIRECTIONS)
    return metric


def _hypothesis(fields: "_Fields") -> Hypothesis:
    hypothesis = Hypothesis(*(fields.text(key) for key in ("id", "claim", "supported_if", "falsified_if")))
    fields.refuse_unread()
    return hypothesis


def _analysis(fields: "_Fields") -> Analysis:
    analysis = Analysis(
        alpha=fields.number("alpha") or 0.0,
        omnibus=fields.text("omnibus"),
        contrasts=fields.text("contrasts"),
        effect_size=fields.text("effect_size"),
        full=fields.text("full", optional=True),
    )
    fields.refuse_unread()
    if not 0 < analysis.alpha < 1:
        raise UserError(f"{fields.where}.alpha={analysis.alpha:g} must lie between 0 and 1, for instance 0.05.")
    return analysis


def _check_consistent(plan: Plan) -> None:
    if plan.name != plan.path.parent.name:
        raise UserError(f"{plan.path} says name: {plan.name}; name it {plan.path.parent.name}, as its folder.")
    for role, arm in (("control", plan.control), ("analysis.full", plan.analysis.full)):
        if arm is not None and arm not in plan.arms:
            raise unknown(f"arm under {role} of {plan.name}", arm, plan.arms)
    if plan.hypotheses and plan.control is None:
        raise UserError(f"{plan.path} has hypotheses but no design.control; name the arm that others compare with.")
    for field, allowed in (("omnibus", OMNIBUS_TESTS), ("contrasts", CONTRASTS), ("effect_size", EFFECT_SIZES)):
        if getattr(plan.analysis, field) not in allowed:
            raise unknown(f"analysis.{field} of {plan.name}", getattr(plan.analysis, field), allowed)
    for metric in plan.metrics:
        if metric not in MEASURED_COLUMNS:
            raise unknown(f"metric of {plan.name}", metric, MEASURED_COLUMNS)
    for hypothesis in plan.hypotheses:
        for text in (hypothesis.supported_if, hypothesis.falsified_if):
            criteria.check(criteria.parse(text), plan.arms, plan.metrics)
            criteria.check_roles(criteria.parse(text), plan.control, plan.analysis.full)
    ids = [hypothesis.id for hypothesis in plan.hypotheses]
    if len(set(ids)) < len(ids):
        raise UserError(f"{plan.path} gives two hypotheses the same id ({', '.join(ids)}); give each its own.")


class _Fields:
    """The fields of one mapping in a plan: typed access, and a memory of what was read, so that nothing is dropped."""

    def __init__(self, content: Any, where: str):
        if not isinstance(content, dict):
            raise UserError(f"{where} must be a mapping of fields (key: value), not {content!r}.")
        self.content, self.where, self.read = content, where, set[str]()

    def refuse_unread(self) -> None:
        for key in self.content:
            if key not in self.read:
                raise unknown(f"field in {self.where}", str(key), self.read)

    def section(self, key: str) -> "_Fields":
        return _Fields(self._value(key, False), f"{self.where}: {key}")

    def sections(self, key: str) -> list["_Fields"]:
        items = self._list(key, optional=True)
        return [_Fields(item, f"{self.where}: {key}[{index}]") for index, item in enumerate(items)]

    def text(self, key: str, optional: bool = False) -> Any:
        value = self._value(key, optional)
        if value is not None and not isinstance(value, str):
            raise UserError(f"{self.where}: {key} must be text, not {value!r}.")
        return value

    def number(self, key: str, optional: bool = False) -> float | None:
        value = self._value(key, optional)
        try:
            return None if value is None else float(value)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.where}: {key} must be a number, not {value!r}.") from error

    def texts(self, key: str, optional: bool = False) -> tuple[str, ...]:
        items = self._list(key, optional)
        if any(not isinstance(item, str) for item in items):
            raise UserError(f"{self.where}: {key} must be a list of texts, not {items!r}.")
        return tuple(items)

    def seeds(self, key: str) -> tuple[int, ...]:
        items = self._list(key, optional=False)
        whole = all(type(item) is int and item >= 0 for item in items)
        if not items or not whole or len(set(items)) < len(items):
            raise UserError(f"{self.where}: {key} must be different whole numbers, like [0, 1, 2], not {items!r}.")
        return tuple(items)

    def arms(self, key: str) -> dict[str, tuple[str, ...]]:
        fields = self.section(key)
        if not fields.content:
            raise UserError(f"{fields.where} is empty; name at least one arm, for instance baseline: [].")
        return {str(arm): fields.texts(arm, optional=True) for arm in fields.content}

    def _list(self, key: str, optional: bool) -> list[Any]:
        value = self._value(key, optional)
        if value is not None and not isinstance(value, list):
            raise UserError(f"{self.where}: {key} must be a list, like [a, b], not {value!r}.")
        return value or []

    def _value(self, key: str, optional: bool) -> Any:
        self.read.add(key)
        if key not in self.content and not optional:
            raise UserError(f"{self.where} misses the field {key}; add it.")
        return self.content.get(key)
