"""Every launched run, counted: cells and their states, the two sums, populations, and what was left out and why."""

from collections import Counter
from typing import Any

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.cells import MISSING, OK, CellState
from lmexp.analysis.pictures import counted
from lmexp.analysis.sections.shared import css_colour

OTHER_POPULATION = ("exploratory: ", "other settings: ")  # how the rules start that leave out runs made otherwise
_GLYPHS = {OK: "✓", MISSING: "·"}
_MOST_SEEDS, _MOST_CELLS, _MOST_ROWS = 16, 400, 40  # beyond, the page has counts and runs.csv the rest


def accounting(analysis: Analysis) -> dict[str, Any]:
    """Return the account of the runs."""
    found = analysis.accounting
    own = [run for run in found.left_out if not run.rule.startswith(OTHER_POPULATION)]
    return {
        "grids": [_grid(analysis, title, cells) for title, cells in _stages(analysis)],
        "sums": sums(analysis),
        "populations": list(populations(analysis).items()),
        "rules": sorted(Counter(run.rule for run in found.left_out).items()) if own else [],
        "left_out": own[:_MOST_ROWS],
        "n_more": max(0, len(own) - _MOST_ROWS),
    }


def _stages(analysis: Analysis) -> list[tuple[str, list[CellState]]]:
    """Return the cells of the sweep and of its confirmation, or all of them."""
    cells = list(analysis.accounting.cells)
    if analysis.sweep is None:
        return [("", cells)]
    sweeping = [cell for cell in cells if cell.seed in analysis.source.seeds]
    fresh = [cell for cell in cells if cell.seed not in analysis.source.seeds]
    return [("The sweep", sweeping), ("The confirmation, at fresh seeds", fresh)]


def _grid(analysis: Analysis, title: str, cells: list[CellState]) -> dict[str, Any]:
    """Return one row per arm: every cell of small plans, of large ones how many are in each state."""
    arms, seeds = list(dict.fromkeys(c.arm for c in cells)), sorted({c.seed for c in cells})
    states = list(dict.fromkeys([OK, MISSING, *(cell.state for cell in cells)]))
    by_arm = {arm: [cell for cell in cells if cell.arm == arm] for arm in arms}
    is_small = len(seeds) <= _MOST_SEEDS and len(cells) <= _MOST_CELLS
    rows = [
        {
            "arm": arm,
            "colour": css_colour(analysis, arm) if arm in analysis.plan.arms else "var(--ink)",
            "cells": [_cell(cell) for cell in found] if is_small else [],
            "counts": [f"{sum(cell.state == state for cell in found):,}" for state in states],
        }
        for arm, found in by_arm.items()
    ]
    return {"title": title, "seeds": seeds if is_small else [], "states": states, "rows": rows}


def _cell(cell: CellState) -> dict[str, str]:
    return {"state": cell.state, "glyph": _GLYPHS.get(cell.state, "✕"), "title": str(cell)}


def sums(analysis: Analysis) -> tuple[str, str]:
    """Return the two sums that have to come out: over planned cells, and over launched runs."""
    found, states = analysis.accounting, analysis.accounting.states
    parts = [f"{count:,} {state}" for state, count in states.items()]
    left_out = len(found.left_out)
    return (
        f"{counted(len(found.cells), 'cell')} planned = {' + '.join(parts)}",
        f"{counted(found.n_launched, 'run')} launched = {found.n_used:,} used + {left_out:,} left out",
    )


def populations(analysis: Analysis) -> dict[str, int]:
    """Return how many runs were launched in each population, the reported one first; they add up to all of them."""
    own = analysis.accounting.settings
    others = {
        each.title: each.accounting.n_launched for each in analysis.explorations if each.accounting.settings != own
    }
    return {own: analysis.accounting.n_launched - sum(others.values())} | others
