"""Break the code that judges, one small change at a time, and see whether a test notices.

    python tests/mutation.py                         # every module below, with the tests that guard it
    python tests/mutation.py lmexp.analysis.verdicts # one of them

Every comparison is flipped, every ``and`` made an ``or``, every minus a plus, every ``not`` dropped, the branches of
every conditional expression exchanged, and the first two arguments of every call swapped (``diff(a, b)`` for
``diff(b, a)``). A mutant that no test notices is printed with its line; the exit code is 1 when there is one. A mutant
that cannot differ from the original is marked in the source: a comment ``same either way`` on its line.
"""

import ast
import copy
import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GUARDS = {
    "lmexp.criteria": ["tests/test_criteria.py", "tests/analysis/test_analysis_verdicts.py"],
    "lmexp.analysis.verdicts": ["tests/analysis/test_analysis_verdicts.py"],
    "lmexp.analysis.desk": ["tests/analysis/test_analysis_desk.py", "tests/analysis/test_analysis_verdicts.py"],
    "lmexp.analysis.comparisons": ["tests/analysis/test_analysis_desk.py"],
    "lmexp.analysis.cells": ["tests/analysis/test_analysis_cells.py"],
    "lmexp.stages": ["tests/test_stages.py"],
    "lmexp.design": ["tests/test_design.py"],
    "lmexp.lock": ["tests/test_lock_plan.py"],
}
FLIPPED = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC = {ast.Sub: ast.Add, ast.Add: ast.Sub, ast.Mult: ast.Div, ast.Div: ast.Mult}
SAME = "same either way"


def mutants(source: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield every mutant of a module with a description of what was changed."""
    tree, lines = ast.parse(source), source.splitlines()
    for place, node in enumerate(ast.walk(tree)):
        for how, change in changes(node):
            if SAME in lines[node.lineno - 1]:
                continue
            mutant = copy.deepcopy(tree)
            change(next(other for index, other in enumerate(ast.walk(mutant)) if index == place))
            yield f"line {node.lineno}: {how} in `{ast.unparse(node)[:80]}`", ast.fix_missing_locations(mutant)


def changes(node: ast.AST) -> Iterator[tuple[str, "Change"]]:
    """Yield what can be changed about one node."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in FLIPPED:
        yield "comparison flipped", lambda n: n.ops.__setitem__(0, FLIPPED[type(n.ops[0])]())
    if isinstance(node, ast.BoolOp):
        yield "and, or exchanged", lambda n: setattr(n, "op", ast.Or() if isinstance(n.op, ast.And) else ast.And())
    if (
        isinstance(node, ast.BinOp)
        and type(node.op) in ARITHMETIC
        and not isinstance(node.left, ast.Constant | ast.JoinedStr)
    ):
        yield "operator changed", lambda n: setattr(n, "op", ARITHMETIC[type(n.op)]())
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "sign or not dropped", lambda n: setattr(n, "op", ast.UAdd() if isinstance(n.op, ast.USub) else Twice())
    if isinstance(node, ast.IfExp):
        yield "branches exchanged", lambda n: exchange(n, "body", "orelse")
    if isinstance(node, ast.Call) and can_be_swapped(node):
        yield "arguments swapped", lambda n: n.args.__setitem__(slice(0, 2), n.args[1::-1])


def can_be_swapped(call: ast.Call) -> bool:
    """Tell whether a call has two arguments that differ and whose order could matter."""
    first, second = (*call.args, None, None)[:2]
    starred = isinstance(first, ast.Starred) or isinstance(second, ast.Starred)
    symmetric = isinstance(call.func, ast.Name) and call.func.id in ("min", "max")
    return second is not None and not starred and not symmetric and ast.dump(first) != ast.dump(second)


def exchange(node: ast.AST, first: str, second: str) -> None:
    one, other = getattr(node, first), getattr(node, second)
    setattr(node, first, other)
    setattr(node, second, one)


class Twice(ast.Not):
    """Stands for a dropped ``not``: :class:`Dropping` replaces the node by its operand."""


class Dropping(ast.NodeTransformer):
    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return node.operand if isinstance(node.op, Twice) else node


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives Python the mutant when it imports the module."""

    def __init__(self, module: str, tree: ast.Module):
        self.module, self.tree = module, Dropping().visit(tree)

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == self.module else None

    def exec_module(self, module):
        module.__file__ = str(ROOT / (self.module.replace(".", "/") + ".py"))
        exec(compile(ast.fix_missing_locations(self.tree), module.__file__, "exec"), module.__dict__)


def survives(module: str, tree: ast.Module, tests: list[str]) -> bool:
    """Run the tests on a mutant in a process of its own; return whether none of them fails."""
    child = os.fork()
    if child == 0:
        import pytest

        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        sys.meta_path.insert(0, Mutated(module, tree))
        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main(modules: list[str]) -> int:
    """Mutate the modules; return 1 when a mutant survives."""
    import pandas  # noqa: F401  # loaded once, before the forks: every mutant then starts quickly
    import pytest  # noqa: F401
    import scipy.special  # noqa: F401

    os.chdir(ROOT)
    failures = 0
    for module in modules or list(GUARDS):
        started, tests = time.perf_counter(), GUARDS[module]
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
        found = list(mutants(source))
        left = [what for what, tree in found if survives(module, tree, tests)]
        print(
            f"{module}: {len(found) - len(left)} of {len(found)} mutants noticed, {time.perf_counter() - started:.0f} s"
        )
        for what in left:
            print(f"  survives: {what}")
        failures += len(left)
    return int(failures > 0)


Change = object

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
