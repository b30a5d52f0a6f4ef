"""The machine and the code: the environment that the runs shared or not, and the commands that make them again."""

import pandas as pd

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.sections.shared import bounded

_LABELS = {"mlx_version": "MLX", "blas": "BLAS", "git_commit": "Commit", "git_dirty": "Uncommitted changes"}


def environment_rows(analysis: Analysis) -> list[tuple[str, str]]:
    """Return what the runs ran on, by label."""
    n = analysis.accounting.n_used
    rows = []
    for column, counts in analysis.environment.items():
        named = {"True": "yes", "False": "no"}
        values = [named.get(value, value) for value in counts]
        shown = [
            value if count == n else f"{value} ({count:,} of {n:,} runs)"
            for value, count in zip(values, counts.values(), strict=True)
        ]
        label = _LABELS.get(column, column.replace("_", " ").capitalize())
        rows.append((label, bounded(shown, 6) or "not recorded"))
    return rows


def commands(analysis: Analysis) -> list[str]:
    """Return the commands that make these runs and this report again; nothing without runs."""
    if not len(analysis.used):
        return []
    overrides = analysis.used.get("overrides", pd.Series(dtype=str)).dropna()
    extra, name = sorted({str(text) for text in overrides if text}), analysis.source.name
    verbs = [f"lmexp run -m experiment={name}", f"lmexp report {name}"]
    check = [f"lmexp plan verify {name}"] if analysis.lock else []
    return [code_line(analysis), *check, *(" ".join([verb, *extra]) for verb in verbs)]


def code_line(analysis: Analysis) -> str:
    """Return the command that restores the code; a comment that says why none does, where none does."""
    commits, dirty = (list(analysis.environment.get(column, {})) for column in ("git_commit", "git_dirty"))
    if len(commits) != 1:
        return f"# The code: {'several commits' if commits else 'commit not recorded'}."
    if dirty == ["False"]:
        return f"git checkout {commits[0]}"
    changed = "had uncommitted changes" if "True" in dirty else "may have had uncommitted changes"
    return f"# The code {changed}: commit {commits[0]} alone does not restore it."
