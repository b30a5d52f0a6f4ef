"""Differences between arms by the method that the plan names: which interval, and which adjusted p, goes with each."""

from dataclasses import replace

import numpy as np

from lmexp.plan import NO_TEST
from lmexp.statistics.adjust import holm, holm_differences
from lmexp.statistics.all_pairs import Pair, blocked_tukey, games_howell
from lmexp.statistics.blocks import contrast, fit_blocks
from lmexp.statistics.contrasts import Difference, differences, pairwise, plain_differences
from lmexp.statistics.estimates import Estimate
from lmexp.statistics.sign_flip import sign_flip_test

ALL_PAIRS = ("tukey_blocked", "games_howell")

# What the report calls each method.
NAMES = {
    "dunnett_blocked": "Dunnett on the blocked error",
    "tukey_blocked": "Tukey on the blocked error",
    "holm_blocked": "Holm on the blocked error, Bonferroni intervals",
    "sign_flip_holm": "exact sign flips with Holm, Bonferroni intervals",
    "games_howell": "Games and Howell, arms unpaired",
}


def against_control(method: str, blocks: np.ndarray, control: int, alpha: float) -> list[Difference]:
    """Compare every other arm with the control.

    Args:
        method: one of the plan's ``analysis.contrasts``.
        blocks: (arms, seeds), without gaps.
        control: row of the control.
        alpha: family-wise error of the comparisons.
    """
    fit = fit_blocks(blocks)
    others = [arm for arm in range(len(blocks)) if arm != control]
    if method == NO_TEST:
        return plain_differences(fit, control, alpha)
    if method == "dunnett_blocked":
        return differences(fit, control, alpha)
    if method in ALL_PAIRS:
        found = {frozenset((pair.first, pair.second)): pair for pair in _all_pairs(method, blocks, alpha)}
        return [_against(found[frozenset((arm, control))], arm) for arm in others]
    tests = holm_differences(fit, [pairwise(len(blocks), arm, control) for arm in others], alpha)
    pairs = [
        Difference(arm, t.alone, t.simultaneous, t.t, t.p, t.p_adjusted) for arm, t in zip(others, tests, strict=True)
    ]
    return _by_sign_flips(pairs, blocks, control) if method == "sign_flip_holm" else pairs


def _all_pairs(method: str, blocks: np.ndarray, alpha: float) -> list[Pair]:
    return blocked_tukey(fit_blocks(blocks), alpha) if method == "tukey_blocked" else games_howell(list(blocks), alpha)


def _against(pair: Pair, arm: int) -> Difference:
    """Return the pair as ``arm`` minus the other."""
    if pair.first == arm:
        return Difference(arm, pair.alone, pair.simultaneous, pair.t, pair.p, pair.p_adjusted)
    t = None if pair.t is None else -pair.t
    return Difference(arm, negated(pair.alone), negated(pair.simultaneous), t, pair.p, pair.p_adjusted)


def _by_sign_flips(found: list[Difference], blocks: np.ndarray, control: int) -> list[Difference]:
    """Replace the p values by those of exact sign flips, adjusted by Holm."""
    p_values = [None if each.p is None else sign_flip_test(blocks[each.arm] - blocks[control]).p for each in found]
    adjusted = holm(p_values)
    return [replace(each, p=p, p_adjusted=a) for each, p, a in zip(found, p_values, adjusted, strict=True)]


def between(method: str, blocks: np.ndarray, first: int, second: int, control: int | None, alpha: float) -> Estimate:
    """Return ``first - second`` with the interval that the plan's method gives this pair.

    A comparison that belongs to the method's family has its simultaneous interval: with the control, or, for methods
    over all pairs, any. Every other one has the t interval on the blocked error that holds for it alone.
    """
    if method in ALL_PAIRS:
        pair = next(p for p in _all_pairs(method, blocks, alpha) if {p.first, p.second} == {first, second})
        return _against(pair, first).shown
    if control not in (first, second) or method == NO_TEST:
        return contrast(fit_blocks(blocks), pairwise(len(blocks), first, second), 1 - alpha)
    other = second if first == control else first
    found = next(d for d in against_control(method, blocks, control, alpha) if d.arm == other)
    return found.shown if second == control else negated(found.shown)


def negated(estimate: Estimate) -> Estimate:
    """Return the estimate of the opposite difference."""
    turned = estimate.mapped(lambda value: -value)
    return replace(turned, low=turned.high, high=turned.low)
