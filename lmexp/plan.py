"""A plan: the question, the design, the rival hypotheses and the tests, written once in ``plan.yaml``.

The sweep, the verdicts and the report all read the :class:`Plan` made here, and nothing repeats what it says.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from lmexp import criteria
from lmexp.errors import UserError, unknown
from lmexp.files import installed_folder
from lmexp.results import METRICS

DIRECTIONS = ("lower", "higher")
NO_TEST = "none"
OMNIBUS_TESTS = ("blocked_anova", "two_way_blocked", "permutation", "welch_anova", "one_way_anova", NO_TEST)
CONTRASTS = ("dunnett_blocked", "tukey_blocked", "holm_blocked", "sign_flip_holm", "games_howell", NO_TEST)
EFFECT_SIZES = ("cohens_d", "hedges_g", "d_z")
WARM_UP_RULES = ("mser5", "change_point", NO_TEST)
REPEAT_RULES = ("first", "refuse")


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
    """The tests, fixed before any run. ``full`` names the arm with every change: the denominator of ``share``.

    ``warm_up`` is the rule that cuts the start of a launch off before its speed is measured (none: nothing is cut).
    """

    alpha: float
    omnibus: str
    contrasts: str
    effect_size: str
    full: str | None
    warm_up: str = NO_TEST


@dataclass(frozen=True)
class Confirmation:
    """The second stage: the best arm of each competition runs again at fresh seeds, and only those runs are judged.

    ``competitions`` gives, for each arm that is judged, the arms of the sweep that compete for it; the rule that
    chooses is :func:`lmexp.stages.choose`.
    """

    competitions: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """One experiment. ``base``, each arm and the command line are lists of Hydra overrides; later ones win.

    ``factors`` gives the levels of each factor of a crossed design; its arms are named by their levels, joined by a
    hyphen. ``exploratory`` holds the arms that run along without entering any test. ``repeats`` says which run counts
    when a cell ran twice: the first that ended well, or none (then the plan is inadmissible). ``content`` is the file.
    """

    name: str
    question: str
    base: tuple[str, ...]
    arms: Mapping[str, tuple[str, ...]]
    factors: Mapping[str, tuple[str, ...]]
    confirmation: Confirmation | None
    repeats: str
    control: str | None
    seeds: tuple[int, ...]
    free: tuple[str, ...]
    primary: Metric
    secondary: tuple[str, ...]
    hypotheses: tuple[Hypothesis, ...]
    analysis: Analysis
    exploratory: tuple[str, ...]
    deviations: tuple[str, ...]
    references: tuple[str, ...]
    content: Mapping[str, Any]
    path: Path

    @property
    def sha256(self) -> str:
        """Hash of what the file says; comments, key order and layout do not count."""
        return hashlib.sha256(canonical_json(self.content).encode()).hexdigest()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric the plan names, the primary one first."""
        return (self.primary.name, *self.secondary)

    @property
    def judged_arms(self) -> tuple[str, ...]:
        """The arms that tests and criteria compare: those of the confirmation if there is one."""
        if self.confirmation is not None:
            return tuple(self.confirmation.competitions)
        return tuple(arm for arm in self.arms if arm not in self.exploratory)

    @property
    def judged_seeds(self) -> tuple[int, ...]:
        """The seeds of the runs that are judged."""
        return self.seeds if self.confirmation is None else self.confirmation.seeds

    def grid(self) -> dict[tuple[str, ...], str]:
        """Return the arms of a crossed design by their levels, in order; nothing when no factors are crossed."""
        return {levels: "-".join(levels) for levels in product(*self.factors.values())} if self.factors else {}

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
    """Return the cells of the plan's sweep, or only those of the given arms and seeds.

    Raises:
        UserError: an arm that the plan does not have.
    """
    for arm in arms:
        plan.overrides(arm)
    return [Cell(arm, seed) for seed in seeds or plan.seeds for arm in arms or plan.arms]


def confirmation_cells(plan: Plan) -> list[Cell]:
    """Return every cell that the confirmation might need: each competing arm at each fresh seed. None without one."""
    if plan.confirmation is None:
        return []
    competing = {arm for arms in plan.confirmation.competitions.values() for arm in arms}
    return [Cell(arm, seed) for seed in plan.confirmation.seeds for arm in plan.arms if arm in competing]


def check_measured(plan: Plan) -> None:
    """Check that lmexp measures every metric the plan names. A plan may be written before its measure is built.

    Raises:
        UserError: a metric that no run measures; the nearest is suggested.
    """
    for metric in plan.metrics:
        if metric not in METRICS:
            raise unknown(f"metric of {plan.name}", metric, METRICS)


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
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}. Mend that line.") from error
    return plan_of(content, path)


def plan_of(content: Any, path: Path) -> Plan:
    """Validate what a plan's file says. ``path`` names it in messages.

    Raises:
        UserError: as :func:`parse_plan`.
    """
    top = _Fields(content, str(path))
    design, metrics = top.section("design"), top.section("metrics")
    crossed = design.factors("factors")
    arms = _crossed_arms(crossed) | design.arms("arms", optional=bool(crossed))
    plan = Plan(
        name=top.text("name"),
        question=top.text("question"),
        base=design.texts("base"),
        arms=arms,
        factors={factor: tuple(levels) for factor, levels in crossed.items()},
        confirmation=_confirmation(design.section("confirmation"), arms) if "confirmation" in design.content else None,
        repeats=design.text("repeats", optional=True) or REPEAT_RULES[0],
        control=design.text("control", optional=True),
        seeds=design.seeds("seeds"),
        free=design.texts("free", optional=True),
        primary=_metric(metrics.section("primary")),
        secondary=metrics.texts("secondary", optional=True),
        hypotheses=tuple(_hypothesis(fields) for fields in top.sections("hypotheses")),
        analysis=_analysis(top.section("analysis")),
        exploratory=_matching(top.texts("exploratory", optional=True), arms, f"{path}: exploratory"),
        deviations=top.texts("deviations", optional=True),
        references=top.texts("references", optional=True),
        content=content,
        path=path,
    )
    for fields in (top, design, metrics):
        fields.refuse_unread()
    _check_consistent(plan)
    return plan


def canonical_json(content: object) -> str:
    """Return JSON that is equal for equal content: comments, key order and layout of the YAML do not count.

    Nor does a journey through a JSON file, which turns every key into text.
    """
    as_read_back = json.loads(json.dumps(content, default=str))
    return json.dumps(as_read_back, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _crossed_arms(factors: Mapping[str, Mapping[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """Return an arm for every combination of levels, with the overrides of each of its levels."""
    if not factors:
        return {}
    return {
        "-".join(levels): tuple(
            item for factor, level in zip(factors, levels, strict=True) for item in factors[factor][level]
        )
        for levels in product(*factors.values())
    }


def _confirmation(fields: "_Fields", arms: Iterable[str]) -> Confirmation:
    patterns = fields.arms("arms")
    where = f"{fields.where}: arms"
    confirmation = Confirmation(
        {name: _matching(given, arms, f"{where}: {name}") for name, given in patterns.items()}, fields.seeds("seeds")
    )
    fields.refuse_unread()
    return confirmation


def _matching(patterns: Sequence[str], arms: Iterable[str], where: str) -> tuple[str, ...]:
    """Return the arms that any pattern (``adamw-*``) matches, in the plan's order."""
    known = list(arms)
    for pattern in patterns:
        if not any(fnmatchcase(arm, pattern) for arm in known):
            raise unknown(f"arm in {where}", pattern, known)
    return tuple(arm for arm in known if any(fnmatchcase(arm, pattern) for pattern in patterns))


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
        warm_up=fields.text("warm_up", optional=True) or NO_TEST,
    )
    fields.refuse_unread()
    if not 0 < analysis.alpha < 1:
        raise UserError(f"{fields.where}.alpha={analysis.alpha:g} must lie between 0 and 1, for instance 0.05.")
    return analysis


def _check_consistent(plan: Plan) -> None:
    if plan.name != plan.path.parent.name:
        raise UserError(f"{plan.path} says name: {plan.name}; name it {plan.path.parent.name}, as its folder.")
    judged = plan.judged_arms
    if not judged:
        raise UserError(f"{plan.path} calls every arm exploratory, so nothing is left to judge; take one out.")
    if len(set(plan.grid().values())) < len(plan.grid()):
        raise UserError(f"{plan.path}: two crossings of design.factors give the same arm name; rename a level.")
    for role, arm in (("design.control", plan.control), ("analysis.full", plan.analysis.full)):
        if arm is not None and arm not in judged:
            raise unknown(f"arm under {role} of {plan.name}", arm, judged)
    if plan.hypotheses and plan.control is None:
        raise UserError(f"{plan.path} has hypotheses but no design.control; name the arm that others compare with.")
    _check_choices(plan)
    for hypothesis in plan.hypotheses:
        for text in (hypothesis.supported_if, hypothesis.falsified_if):
            criteria.check(criteria.parse(text), judged, plan.metrics)
            criteria.check_roles(criteria.parse(text), plan.control, plan.analysis.full)
    ids = [hypothesis.id for hypothesis in plan.hypotheses]
    if len(set(ids)) < len(ids):
        raise UserError(f"{plan.path} gives two hypotheses the same id ({', '.join(ids)}); give each its own.")


def _check_choices(plan: Plan) -> None:
    analysis = plan.analysis
    choices = (
        ("analysis.omnibus", analysis.omnibus, OMNIBUS_TESTS),
        ("analysis.contrasts", analysis.contrasts, CONTRASTS),
        ("analysis.effect_size", analysis.effect_size, EFFECT_SIZES),
        ("analysis.warm_up", analysis.warm_up, WARM_UP_RULES),
        ("design.repeats", plan.repeats, REPEAT_RULES),
    )
    for field, value, allowed in choices:
        if value not in allowed:
            raise unknown(f"{field} of {plan.name}", value, allowed)
    if analysis.omnibus == "two_way_blocked" and (len(plan.factors) != 2 or plan.confirmation is not None):
        raise UserError(
            f"{plan.path} asks for two_way_blocked, which needs two design.factors and no confirmation; "
            "cross two factors, or choose blocked_anova."
        )
    if plan.confirmation is not None and set(plan.confirmation.seeds) & set(plan.seeds):
        raise UserError(f"{plan.path}: confirmation.seeds must be fresh: none of them may be among design.seeds.")


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice: people may read the first, YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = (key_node.tag, str(key_node.value))
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Fields:
    """The fields of one mapping in a plan: typed access, and a memory of what was read, so that nothing is dropped."""

    def __init__(self, content: Any, where: str):
        if not isinstance(content, dict):
            raise UserError(f"{where} must be a mapping of fields (key: value), not {content!r}.")
        for key in content:
            # yes, no, null and dates are no text in YAML, and would come back from the lock's JSON by other names
            if type(key) not in (str, int, float) or key in (math.inf, -math.inf) or key != key:
                raise UserError(f"{where} has the name {key!r}, which YAML does not read as text; put it in quotes.")
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

    def arms(self, key: str, optional: bool = False) -> dict[str, tuple[str, ...]]:
        if optional and key not in self.content:
            return {}
        fields = self.section(key)
        if not fields.content:
            raise UserError(f"{fields.where} is empty; name at least one arm, for instance baseline: [].")
        return {str(arm): fields.texts(arm, optional=True) for arm in fields.content}

    def factors(self, key: str) -> dict[str, dict[str, tuple[str, ...]]]:
        """Read ``factor: {level: [overrides]}``; nothing when the field is absent."""
        if key not in self.content:
            return {}
        fields = self.section(key)
        return {str(factor): fields.arms(factor) for factor in fields.content}

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
