"""The house: imports point down only, nothing heavy is loaded early, and the wheel carries its configs and plans."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lmexp

PACKAGE = Path(lmexp.__file__).parent

# Every room, with the rooms of lmexp it may import. `errors`, `files`, `signals` and `streams` may be imported by all.
COMMON = {"errors", "files", "signals", "streams"}
ROOMS = {
    "model": set(),
    "data": set(),
    "platform": set(),
    "statistics": set(),
    "criteria": set(),
    "plan": {"criteria", "results"},
    "lock": {"plan"},
    "design": {"plan", "statistics"},
    "anchors": {"lock"},
    "evidence": {"config", "lock", "plan", "results", "stages"},
    "verify": {"anchors", "compose", "config", "evidence", "lock", "plan", "results", "stages"},
    "preregister": {
        "anchors",
        "compose",
        "config",
        "criteria",
        "design",
        "evidence",
        "lock",
        "plan",
        "results",
        "statistics",
        "verify",
    },
    "stages": {"plan", "results"},
    "results": set(),
    "train": {"model", "platform"},
    "judge": {"model"},
    "decoding": {"model"},
    "costs": {"decoding", "model", "platform"},
    "config": {"costs", "data", "lock", "model", "plan", "results", "train"},
    "compose": {"config", "lock", "plan"},
    "pretrained": {"data", "model"},
    "run": {"costs", "config", "data", "judge", "model", "platform", "results", "train"},
    "generate": {"config", "data", "decoding", "model", "pretrained", "run"},
    "writing": {"data", "decoding", "generate", "model"},
    "worker": {"config", "platform", "results", "run"},
    "display": {"config", "plan", "results"},
    "sweep": {"compose", "config", "display", "evidence", "lock", "plan", "platform", "results", "stages"},
    "single": {"config", "data", "decoding", "display", "generate", "model", "results", "run"},
    "status": {"analysis", "compose", "config", "display", "evidence", "lock", "plan", "results", "sweep"},
    "app": {"compose", "config", "platform", "single"},
    "analysis": {"criteria", "design", "lock", "plan", "results", "stages", "statistics"},
    "bench": {"compose", "config", "data", "decoding", "lock", "model", "plan", "platform", "results", "run", "train"},
    "cli": {"app", "bench", "decoding", "lock", "plan", "platform", "preregister", "status", "verify", "writing"},
    "__main__": {"cli"},
    "errors": set(),
    "files": set(),
    "signals": set(),
    "streams": set(),
}


def imports_of(path):
    """Return the rooms of lmexp that a file imports, wherever in the file it does so."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    rooms = {name.split(".")[1] for name in names if name.startswith("lmexp.")}
    return {room for room in rooms if room in ROOMS}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room != "__init__":
        assert imports_of(path) - COMMON - {room} <= ROOMS[room]


def test_the_rooms_have_no_circle():
    order = []
    while len(order) < len(ROOMS):
        ready = [room for room, needs in ROOMS.items() if room not in order and needs <= set(order)]
        assert ready, set(ROOMS) - set(order)
        order += ready


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import lmexp.cli; lmexp.cli._parser()", {"mlx.core", "pandas", "hydra", "rich", "numpy", "scipy"}),
        (
            "import lmexp.compose; lmexp.compose.compose_run([])",
            {"mlx.core", "pandas", "scipy", "matplotlib", "tokenizers"},
        ),
        ("import lmexp.sweep", {"mlx.core", "pandas", "scipy", "matplotlib"}),
        ("import lmexp.verify", {"mlx.core", "pandas", "scipy", "matplotlib", "tokenizers"}),
        ("import lmexp.preregister", {"mlx.core", "pandas", "matplotlib"}),
        ("import lmexp.run", {"pandas", "scipy", "matplotlib"}),
    ],
)
def test_what_is_heavy_is_loaded_only_when_needed(code, absent):
    check = f"import sys; {code}; print(sorted({absent!r} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_help_is_quick():
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lmexp", "--help"], capture_output=True, check=True)
        best = min(best, time.perf_counter() - started)
    assert best < 1.0
