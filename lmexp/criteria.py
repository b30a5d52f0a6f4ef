"""The language in which a plan says what would support a hypothesis and what would prove it wrong.

    criterion  := conjunction { "or" conjunction }
    conjunction:= condition { "and" condition }
    condition  := "(" criterion ")" | term operator number | number operator term
    operator   := "<" | "<=" | ">" | ">="
    term       := name "(" [ arm { "," arm } ] [ "," "metric" "=" column ] ")"

The terms are named estimates, each with an interval of its own (see :mod:`lmexp.analysis`). With ``m(arm)`` the mean of
the metric over seeds, and the sign of an improvement set by the metric's direction (positive is always better):

    mean(a)            m(a)
    diff(a, b)         m(a) - m(b)
    ratio(a, b)        m(a) / m(b)
    improvement(a)     how much better a is than the control
    share(a)           improvement(a) / improvement(full): the part of the whole change that a alone brings
    share(a, c, f)     the same with c in place of the control and f in place of the full arm
    slope(a, b, ...)   how much m changes from one arm to the next, fitted over the arms in the order given
    interaction(...)   improvement(full) minus the sum of the improvements of the given arms (none given: every arm
                       but the control and the full one); above zero the whole is more than its parts

Of a speed or a duration (see :mod:`lmexp.analysis.measures`) ``ratio`` and ``slope`` are geometric: the mean of the
logarithms over seeds, turned back into a factor.

There is no arithmetic and nothing is ever handed to Python's ``eval``: a criterion can only be what is written here.
"""

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from lmexp.errors import UserError, unknown


@dataclass(frozen=True)
class Term:
    """One named estimate, for instance ``share(gqa)``. ``metric`` None is the plan's primary metric."""

    name: str
    arms: tuple[str, ...]
    metric: str | None

    def __str__(self) -> str:
        arguments = [_quoted(arm) for arm in self.arms] + ([f"metric={_quoted(self.metric)}"] if self.metric else [])
        return f"{self.name}({', '.join(arguments)})"


@dataclass(frozen=True)
class Comparison:
    """``term operator threshold``: a half-line in which the estimate should lie."""

    term: Term
    operator: str
    threshold: float

    def __str__(self) -> str:
        return f"{self.term} {self.operator} {repr(self.threshold).removesuffix('.0')}"


@dataclass(frozen=True)
class And:
    """Every part has to hold."""

    parts: "tuple[Criterion, ...]"

    def __str__(self) -> str:
        return " and ".join(f"({part})" if isinstance(part, Or) else str(part) for part in self.parts)


@dataclass(frozen=True)
class Or:
    """One part that holds is enough."""

    parts: "tuple[Criterion, ...]"

    def __str__(self) -> str:
        return " or ".join(map(str, self.parts))


Criterion = Comparison | And | Or


@dataclass(frozen=True)
class _Signature:
    takes: str
    counts: Collection[int]  # how many arms it takes
    needs_control: bool = False
    needs_full: bool = False


_MANY = 1000
_SIGNATURES = {
    "mean": _Signature("1 arm", (1,)),
    "diff": _Signature("2 arms", (2,)),
    "ratio": _Signature("2 arms", (2,)),
    "improvement": _Signature("1 arm", (1,), needs_control=True),
    "share": _Signature(
        "1 arm, or 3: the arm, its control and its full arm", (1, 3), needs_control=True, needs_full=True
    ),
    "slope": _Signature("2 arms or more", range(2, _MANY)),
    "interaction": _Signature("any number of arms", range(_MANY), needs_control=True, needs_full=True),
}
TERMS = tuple(_SIGNATURES)
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_DEEPEST = 32  # nested parentheses; a plan that needs more cannot be read by people either

_TOKEN = re.compile(
    r"""(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
      | (?P<word>\w[\w.\-+]*)
      | (?P<quoted>'[^']*'|"[^"]*")
      | (?P<operator><=|>=|<|>)
      | (?P<mark>[(),=])""",
    re.VERBOSE,
)
_PLAIN_WORD = re.compile(r"\w[\w.\-+]*")


def _quoted(name: str) -> str:
    quote = '"' if "'" in name else "'"
    return name if _PLAIN_WORD.fullmatch(name) else f"{quote}{name}{quote}"


def parse(text: str) -> Criterion:
    """Parse one criterion.

    Raises:
        UserError: the text is not of the language; the message gives the column and what was expected there.
    """
    return _Parser(text).whole()


def comparisons(criterion: Criterion) -> Iterator[Comparison]:
    """Yield every comparison of a criterion, left to right."""
    if isinstance(criterion, Comparison):
        yield criterion
        return
    for part in criterion.parts:
        yield from comparisons(part)


def terms(criterion: Criterion) -> tuple[Term, ...]:
    """Return the different terms of a criterion, in order of first appearance."""
    return tuple(dict.fromkeys(comparison.term for comparison in comparisons(criterion)))


def check(criterion: Criterion, arms: Collection[str], metrics: Collection[str]) -> None:
    """Check that a criterion only names arms and metrics that exist.

    Raises:
        UserError: an unknown name (the nearest is suggested), or an arm given twice to one term.
    """
    for term in terms(criterion):
        for arm in term.arms:
            if arm not in arms:
                raise unknown(f"arm in the criterion {term}", arm, arms)
        if len(set(term.arms)) < len(term.arms):
            raise UserError(f"The criterion term {term} names one arm twice; compare two different arms.")
        if term.metric is not None and term.metric not in metrics:
            raise unknown(f"metric in the criterion {term}", term.metric, metrics)


def check_roles(criterion: Criterion, control: str | None, full: str | None) -> None:
    """Check that the plan names the arms whose roles a criterion needs, and that no term is trivial.

    Raises:
        UserError: the plan lacks the control or the full arm, or a term asks for the share of one of them.
    """
    for term in terms(criterion):
        signature = _SIGNATURES[term.name]
        if len(term.arms) == 3 and term.name == "share":
            continue  # it names its own control and full arm
        if signature.needs_control and control is None:
            raise UserError(f"The criterion term {term} needs a control; name one under design.control.")
        if signature.needs_full and full is None:
            raise UserError(f"The criterion term {term} needs the arm with every change; name it under analysis.full.")
        if signature.needs_full and full == control:
            raise UserError(f"The criterion term {term} needs analysis.full to differ from design.control ({control}).")
        trivial = {control} if not signature.needs_full else {control, full}
        if signature.needs_control and trivial & set(term.arms):
            roles = "the control" if not signature.needs_full else "the control and the full arm"
            raise UserError(f"The criterion term {term} is settled by definition; name an arm other than {roles}.")


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    column: int  # from 1


def _tokens(text: str) -> list[_Token]:
    found, position = [], 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        match = _TOKEN.match(text, position)
        if match is None:
            expected = "a share as a number, such as 0.2" if text[position] == "%" else "a term, a number, and or or"
            raise _error(text, position + 1, f"'{text[position]}' has no meaning", expected)
        found.append(_Token(str(match.lastgroup), match.group(), position + 1))
        position = match.end()
    return [*found, _Token("end", "the end", len(text) + 1)]


def _error(text: str, column: int, problem: str, expected: str) -> UserError:
    return UserError(f'Cannot read the criterion "{text}": at column {column} {problem}; expected {expected}.')


class _Parser:
    """Recursive descent, one method per rule of the grammar."""

    def __init__(self, text: str):
        self.text, self.tokens, self.place, self.depth = text, _tokens(text), 0, 0

    @property
    def now(self) -> _Token:
        return self.tokens[self.place]

    def whole(self) -> Criterion:
        criterion = self.any_of()
        if self.now.kind == "operator":
            raise self.wrong("and, or or the end (write a < 1 and a > 0 for a range)")
        if self.now.kind != "end":
            raise self.wrong("and, or or the end")
        return criterion

    def any_of(self) -> Criterion:
        parts = [self.all_of()]
        while self.skip("word", "or"):
            parts.append(self.all_of())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def all_of(self) -> Criterion:
        parts = [self.condition()]
        while self.skip("word", "and"):
            parts.append(self.condition())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def condition(self) -> Criterion:
        if self.now.text == "(":
            return self.parenthesis()
        if self.now.kind == "number":
            threshold, operator = self.number(), self.operator()
            return Comparison(self.term(), _MIRRORED[operator], threshold)
        term, operator = self.term(), self.operator()
        return Comparison(term, operator, self.number())

    def parenthesis(self) -> Criterion:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.wrong(f"at most {_DEEPEST} nested parentheses")
        self.take("mark", "(", "'('")
        inside = self.any_of()
        self.take("mark", ")", "')', and or or")
        self.depth -= 1
        return inside

    def term(self) -> Term:
        token = self.take("word", None, f"one of {', '.join(TERMS)}")
        if token.text not in _SIGNATURES:
            raise unknown(f'estimate at column {token.column} of the criterion "{self.text}"', token.text, TERMS)
        self.take("mark", "(", f"'(' after {token.text}")
        arms, metric = self.arguments()
        signature = _SIGNATURES[token.text]
        if len(arms) not in signature.counts:
            problem = f"{token.text} is given {len(arms)} arm{'s' * (len(arms) != 1)}"
            raise _error(self.text, token.column, problem, signature.takes)
        return Term(token.text, tuple(arms), metric)

    def arguments(self) -> tuple[list[str], str | None]:
        arms: list[str] = []
        while not self.skip("mark", ")"):
            if arms:
                self.take("mark", ",", "',' or ')'")
            name = self.name("the name of an arm")
            if name == "metric" and self.skip("mark", "="):
                metric = self.name("the name of a metric")
                self.take("mark", ")", "')': metric= comes last")
                return arms, metric
            arms.append(name)
        return arms, None

    def name(self, expected: str) -> str:
        if self.now.kind not in ("word", "quoted", "number"):
            raise self.wrong(expected)
        token = self.advance()
        return token.text[1:-1] if token.kind == "quoted" else token.text

    def operator(self) -> str:
        return self.take("operator", None, "<, <=, > or >=").text

    def number(self) -> float:
        token = self.take("number", None, "a number")
        if not math.isfinite(float(token.text)):
            raise _error(self.text, token.column, f"stands {token.text}", "a finite number")
        return float(token.text)

    def skip(self, kind: str, text: str) -> bool:
        found = (self.now.kind, self.now.text) == (kind, text)
        self.place += found
        return found

    def take(self, kind: str, text: str | None, expected: str) -> _Token:
        if self.now.kind != kind or (text is not None and self.now.text != text):
            raise self.wrong(expected)
        return self.advance()

    def advance(self) -> _Token:
        token = self.now
        self.place += 1
        return token

    def wrong(self, expected: str) -> UserError:
        problem = "it ends" if self.now.kind == "end" else f"stands '{self.now.text}'"
        return _error(self.text, self.now.column, problem, expected)
