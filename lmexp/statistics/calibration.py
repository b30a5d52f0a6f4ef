"""Do the tests reject as often as they say, and do the intervals cover? ``python -m lmexp.statistics.calibration``

Normal data with known truth are drawn on the designs that plans use, and every test and interval of this room is
computed on them by the very functions that a report calls. Each claim gets one line: the rate at which a test rejects
what is true (type I) or finds the effect that it should find in 80% of the data sets (power), or an interval covers the
truth, beside the nominal rate and its Monte Carlo standard error.

- ``exact``: the rate must be the nominal one, within three standard errors;
- ``at most``, ``at least``: the procedure promises a bound (Bonferroni, Holm), which must hold within three;
- ``nearly``: by its nature the procedure holds only approximately at these sizes, or an assumption is broken on
  purpose; the truth is shown and not judged.

The exit code is 1 when a judged claim fails, or is undefined on some data set. Of claims that are true one in 370 lies
outside three standard errors by chance, so that now and then a seed shows one; more repeats tell chance from a fault.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import floor, isclose, sqrt

import numpy as np

from lmexp.statistics.adjust import holm_differences, paired_t_holm
from lmexp.statistics.all_pairs import blocked_tukey, games_howell
from lmexp.statistics.blocks import blocked_anova, fit_blocks, mean_estimate
from lmexp.statistics.contrasts import differences, interaction, pairwise, ratio_of_means, share
from lmexp.statistics.effect_size import effect_sizes
from lmexp.statistics.equivalence import DIFFERENT, EQUIVALENT, tost_contrast, tost_paired
from lmexp.statistics.estimates import Estimate
from lmexp.statistics.one_way import alexander_govern, one_way_anova, welch_anova
from lmexp.statistics.power import (
    PlannedTest,
    blocked,
    blocked_dunnett,
    blocked_f,
    paired,
    two_sample,
    two_way_interaction,
    two_way_main,
)
from lmexp.statistics.selection import chance_to_win, chosen_rates, held_out_estimate, held_out_values
from lmexp.statistics.sign_flip import sign_flip_test
from lmexp.statistics.timing import ratio_of_launches
from lmexp.statistics.two_way import Effect, difference_of_differences, two_way_blocked

ALPHA, CONFIDENCE, POWER = 0.05, 0.95, 0.8
EXACT, AT_MOST, AT_LEAST, NEARLY = "exact", "at most", "at least", "nearly"
_LIMIT = 3.0  # Monte Carlo standard errors
_SEED_SPREAD = 2.0  # standard deviation of what a seed does to every arm, in units of the error: blocking must undo it


@dataclass(frozen=True)
class Outcome:
    """What one data set says of one claim; ``hit`` is None where the statistic is undefined."""

    claim: str
    measure: str  # type I, power or coverage, of any or all of a family
    nominal: float
    kind: str
    hit: bool | None


@dataclass(frozen=True)
class Line:
    """A claim over all data sets."""

    design: str
    claim: str
    measure: str
    nominal: float
    kind: str
    hits: int
    repeats: int  # data sets on which the statistic is defined
    undefined: int

    @property
    def rate(self) -> float:
        """The part of the data sets that reject, or whose interval covers; NaN when defined on none."""
        return self.hits / self.repeats if self.repeats else float("nan")

    @property
    def standard_error(self) -> float:
        """The Monte Carlo standard error of the rate when the claim is true."""
        return sqrt(self.nominal * (1 - self.nominal) / self.repeats) if self.repeats else float("nan")

    @property
    def deviation(self) -> float:
        """The rate less the nominal one, in standard errors."""
        gap = self.rate - self.nominal
        if isclose(gap, 0.0, abs_tol=1e-12):
            return 0.0
        return gap / self.standard_error if self.standard_error > 0 else float(np.copysign(np.inf, gap))

    @property
    def holds(self) -> bool | None:
        """Whether the claim holds within three standard errors; None when it is not judged."""
        if self.kind == NEARLY:
            return None
        above, below = self.deviation > _LIMIT, self.deviation < -_LIMIT
        broken = {EXACT: above or below, AT_MOST: above, AT_LEAST: below}[self.kind]
        return not broken and self.undefined == 0

    def __str__(self) -> str:
        verdict = {True: "yes", False: "NO", None: "not judged"}[self.holds]
        gaps = f"; undefined on {self.undefined}" if self.undefined else ""
        return (
            f"{self.design:<16} {self.claim:<44} {self.measure:<19} {self.kind:<8} {self.nominal:7.4f} {self.rate:6.4f}"
            f" {self.standard_error:6.4f} {self.deviation:+6.1f} {self.repeats:7}  {verdict}{gaps}"
        )


HEADER = (
    f"{'design':<16} {'claim':<44} {'measure':<19} {'kind':<8} {'nominal':>7} {'rate':>6}"
    f" {'error':>6} {'errors':>6} {'repeats':>7}  within 3 errors"
)

Draw = Callable[[np.random.Generator], Iterator[Outcome]]


@dataclass(frozen=True)
class Scenario:
    """A design, and how to draw one data set of it and judge every claim; ``part`` of the repeats where it is slow."""

    design: str
    draw: Draw
    part: float = 1.0


def rejects(test: str, p: float | None, kind: str = EXACT, nominal: float = ALPHA) -> Outcome:
    """Return whether a test rejects."""
    return Outcome(test, "type I", nominal, kind, None if p is None else p <= ALPHA)


def rejects_any(test: str, p_values: Sequence[float | None], kind: str = EXACT) -> Outcome:
    """Return whether any test of a family rejects; undefined ones do not."""
    defined = [p for p in p_values if p is not None]
    hit = min(defined) <= ALPHA if defined else None
    return Outcome(test, f"type I, any of {len(p_values)}", ALPHA, kind, hit)


def finds(test: str, p: float | None) -> Outcome:
    """Return whether a test rejects at its minimal detectable effect."""
    return Outcome(test, "power", POWER, EXACT, None if p is None else p <= ALPHA)


def covers(interval: str, estimate: Estimate, truth: float, kind: str = EXACT) -> Outcome:
    """Return whether an interval holds the truth."""
    return Outcome(interval, "coverage", estimate.confidence, kind, _holds(estimate, truth))


def covers_all(interval: str, estimates: Sequence[Estimate], truths: Sequence[float], kind: str = EXACT) -> Outcome:
    """Return whether all intervals of a family hold their truths; undefined where one of them is."""
    held = [_holds(estimate, truth) for estimate, truth in zip(estimates, truths, strict=True)]
    hit = None if None in held else all(held)
    return Outcome(interval, f"coverage, all of {len(held)}", estimates[0].confidence, kind, hit)


def _holds(estimate: Estimate, truth: float) -> bool | None:
    if estimate.low is None or estimate.high is None:
        return None
    return bool(estimate.low <= truth <= estimate.high)


def _blocks(
    generator: np.random.Generator, means: np.ndarray, n_seeds: int, spread: np.ndarray | float = 1.0
) -> np.ndarray:
    """Return means + seed + error: (arms, seeds)."""
    error = generator.normal(size=(len(means), n_seeds)) * np.reshape(spread, (-1, 1))
    return means[:, None] + generator.normal(0, _SEED_SPREAD, n_seeds) + error


_EQUAL = np.zeros(6)
_PLANNED = [pairwise(6, 1, 0), pairwise(6, 2, 0), pairwise(6, 4, 3)]
_DIFFERENT = np.array([0.0, -1.0, -2.0, 0.5, -4.0, -10.0])  # arm 5 is the full one: its effect is always clear


def _equal_arms(generator: np.random.Generator) -> Iterator[Outcome]:
    values = _blocks(generator, _EQUAL, 3)
    fit, anova = fit_blocks(values), blocked_anova(values)
    dunnett, own = differences(fit, 0, ALPHA), paired_t_holm(values, 0, ALPHA)
    yield rejects("blocked F", anova.p)
    yield rejects("permutation", anova.permutation.p if anova.permutation else None)
    yield rejects("Greenhouse-Geisser", anova.p_sphericity, NEARLY)
    yield rejects("blocked t", dunnett[0].p)
    yield rejects("paired t", own[0].p)
    yield rejects_any("blocked Dunnett", [one.p_adjusted for one in dunnett])
    yield rejects_any("blocked Tukey", [pair.p_adjusted for pair in blocked_tukey(fit, ALPHA)])
    yield rejects_any("Holm on blocked t", [one.p_adjusted for one in holm_differences(fit, _PLANNED, ALPHA)], AT_MOST)
    yield rejects_any("Holm on paired t", [one.p_adjusted for one in own], AT_MOST)


def _different_arms(generator: np.random.Generator) -> Iterator[Outcome]:
    values, truth = _blocks(generator, _DIFFERENT, 3), _DIFFERENT
    fit, anova = fit_blocks(values), blocked_anova(values)
    from_control, planned = list(truth[1:] - truth[0]), [float(weights @ truth) for weights in _PLANNED]
    dunnett, own = differences(fit, 0, ALPHA), paired_t_holm(values, 0, ALPHA)
    holm, tukey = holm_differences(fit, _PLANNED, ALPHA), blocked_tukey(fit, ALPHA)
    yield covers("t interval of a mean", mean_estimate(values[0], CONFIDENCE), truth[0])
    yield covers("blocked t interval of a difference", dunnett[0].alone, from_control[0])
    yield covers("paired t interval of a difference", own[0].alone, from_control[0])
    yield covers_all("Dunnett intervals", [one.shown for one in dunnett], from_control)
    yield covers_all(
        "Tukey intervals",
        [pair.simultaneous for pair in tukey],
        [truth[pair.first] - truth[pair.second] for pair in tukey],
    )
    yield covers_all("Bonferroni intervals, blocked t", [one.simultaneous for one in holm], planned, AT_LEAST)
    yield covers_all("Bonferroni intervals, paired t", [one.shown for one in own], from_control, AT_LEAST)
    yield covers("interaction of parts", interaction(fit, [1, 2], 0, 5, 1, CONFIDENCE), 10.0 - 1.0 - 2.0)
    yield covers("share (Fieller)", share(fit, 2, 0, 5, 1, CONFIDENCE), 0.2)
    noncentrality = 3 * float(((truth - truth.mean()) ** 2).sum())
    yield covers("partial eta2", anova.eta2, noncentrality / (noncentrality + 10))
    yield covers("partial omega2", anova.omega2, noncentrality / (noncentrality + 18))
    at_margin = tost_contrast(fit, pairwise(6, 5, 0), 10.0, ALPHA)
    yield Outcome("TOST at the margin: equivalent", "type I", ALPHA, EXACT, at_margin.outcome == EQUIVALENT)
    yield Outcome("TOST at the margin: different", "type I", ALPHA, AT_MOST, at_margin.outcome == DIFFERENT)


def _unclear_full_arm(generator: np.random.Generator) -> Iterator[Outcome]:
    fit = fit_blocks(_blocks(generator, _DIFFERENT / 4, 3))
    yield covers("share, full effect of 2.5 errors", share(fit, 2, 0, 5, 1, CONFIDENCE), 0.2, NEARLY)


def _noisy_arm(generator: np.random.Generator) -> Iterator[Outcome]:
    values = _blocks(generator, _EQUAL, 3, spread=np.array([1.0, 1, 1, 1, 1, 5]))
    fit, anova = fit_blocks(values), blocked_anova(values)
    note = ", one arm 5 times as noisy"
    yield rejects(f"blocked F{note}", anova.p, NEARLY)
    yield rejects(f"Greenhouse-Geisser{note}", anova.p_sphericity, NEARLY)
    yield rejects(f"permutation{note}", anova.permutation.p if anova.permutation else None, NEARLY)
    yield rejects_any(f"Dunnett{note}", [one.p_adjusted for one in differences(fit, 0, ALPHA)], NEARLY)
    own = paired_t_holm(values, 0, ALPHA)
    yield rejects_any(f"Holm on paired t{note}", [one.p_adjusted for one in own], AT_MOST)


@cache
def _detectable(plan: PlannedTest) -> float:
    """Return the minimal detectable effect that the plan of a test promises."""
    return plan.detectable(POWER).effect


def _detectable_arms(generator: np.random.Generator) -> Iterator[Outcome]:
    noise, arm = _blocks(generator, _EQUAL, 3), pairwise(6, 1, 0)
    for plan in (blocked(6, 3, ALPHA), blocked_dunnett(6, 3, ALPHA)):
        shifted = fit_blocks(noise + _detectable(plan) * np.maximum(arm, 0)[:, None])
        found = differences(shifted, 0, ALPHA)[0]
        yield finds(plan.name, found.p if plan.name == "blocked t" else found.p_adjusted)
    largest = _detectable(blocked_f(6, 3, ALPHA))
    yield finds("blocked F, two arms apart", blocked_anova(noise + largest / 2 * arm[:, None]).p)


def _factorial(generator: np.random.Generator) -> Iterator[Outcome]:
    equal = two_way_blocked(_blocks(generator, np.zeros(16), 3).reshape(4, 4, 3))
    for effect in equal.effects:
        yield rejects(f"two-way F of {effect.name}", effect.p)
    additive = np.add.outer(np.array([0.0, 2, 3, -1]), np.array([1.0, 0, 0, 4]))
    both = two_way_blocked(_blocks(generator, additive.ravel(), 3).reshape(4, 4, 3))
    yield rejects("two-way F of AB, A and B at work", both.interaction.p)
    means = additive + np.outer([0, 1, -1, 0], [0, 1.5, 0, -1.5])
    values = _blocks(generator, means.ravel(), 3).reshape(4, 4, 3)
    found = two_way_blocked(values)
    for effect, noncentrality in zip(found.effects, _noncentralities(means, 3), strict=True):
        yield from _explained(effect, noncentrality)
    truth = (means[2, 3] - means[1, 3]) - (means[2, 1] - means[1, 1])
    estimate = difference_of_differences(values, (1, 2), (1, 3), CONFIDENCE)
    yield covers("difference of differences", estimate, truth)


def _detectable_factors(generator: np.random.Generator) -> Iterator[Outcome]:
    noise, apart = _blocks(generator, np.zeros(16), 3).reshape(4, 4, 3), np.array([0.5, -0.5, 0, 0])
    main = _detectable(two_way_main(4, 4, 3, ALPHA)) * apart
    yield finds("two-way F of A, two levels apart", two_way_blocked(noise + main[:, None, None]).a.p)
    four = _detectable(two_way_interaction(4, 4, 3, ALPHA)) * np.outer(apart, apart)
    yield finds("two-way F of AB, four cells apart", two_way_blocked(noise + four[:, :, None]).interaction.p)


def _sweep(generator: np.random.Generator) -> Iterator[Outcome]:
    """Four options with four equal rates each: whatever one gains by its choice is luck."""
    values = _blocks(generator, np.zeros(16), 3).reshape(4, 4, 3)
    tuned, untuned = values[0, chosen_rates(values, "lower")[0].rate], values[1, 0]
    yield Outcome(
        "best of 4 rates beats an equal arm", "frequency", chance_to_win(4), EXACT, bool(tuned.mean() < untuned.mean())
    )
    yield covers("paired t, tuned less untuned, same seeds", mean_estimate(tuned - untuned, CONFIDENCE), 0.0, NEARLY)
    held_out = held_out_values(values, "lower")
    yield covers(
        "held-out difference of two tuned", held_out_estimate(held_out[0] - held_out[1], CONFIDENCE), 0.0, NEARLY
    )


def _noncentralities(means: np.ndarray, n_seeds: int) -> tuple[float, float, float]:
    a, b = means.mean(axis=1), means.mean(axis=0)
    rest = means - a[:, None] - b + means.mean()
    sums = (means.shape[1] * a.var() * len(a), means.shape[0] * b.var() * len(b), (rest**2).sum())
    return n_seeds * float(sums[0]), n_seeds * float(sums[1]), n_seeds * float(sums[2])


def _explained(effect: Effect, noncentrality: float) -> Iterator[Outcome]:
    yield covers(f"partial eta2 of {effect.name}", effect.eta2, noncentrality / (noncentrality + 30))
    yield covers(f"partial omega2 of {effect.name}", effect.omega2, noncentrality / (noncentrality + 48))


def _two_samples(n: int, generator: np.random.Generator) -> Iterator[Outcome]:
    first, second = generator.normal(size=(2, n))
    yield rejects("two-sample t (one-way F)", one_way_anova([first, second]).p)
    yield rejects("Welch", welch_anova([first, second]).p, NEARLY)
    yield rejects("Alexander-Govern", alexander_govern([first, second]).p, NEARLY)
    yield rejects("Welch, spread 1 to 4", welch_anova([first, 4 * second]).p, NEARLY)
    yield rejects("paired sign flip", sign_flip_test(first - second).p, nominal=_reachable(n))
    sizes = effect_sizes(first + 1.2, second, CONFIDENCE)
    yield covers("d, independent samples", sizes.cohens_d, 1.2)
    yield covers("g, independent samples", sizes.hedges_g, 1.2, NEARLY)
    yield covers("d_z", sizes.d_z, 1.2 / sqrt(2))
    detectable = _detectable(two_sample(n, ALPHA))
    yield finds("two-sample t (one-way F)", one_way_anova([first + detectable, second]).p)


def _reachable(n: int) -> float:
    """Return the largest level up to alpha that a sign-flip test of n seeds has: p comes in steps of 2 / 2^n."""
    return floor(ALPHA * 2 ** (n - 1)) / 2 ** (n - 1)


def _two_arms(n: int, generator: np.random.Generator) -> Iterator[Outcome]:
    first, second = _blocks(generator, np.array([1.2, 0.0]), n)
    sizes = effect_sizes(first, second, CONFIDENCE)
    yield covers("d, although its formula ignores the pairs", sizes.cohens_d, 1.2 / sqrt(5), NEARLY)
    yield covers("d_z", sizes.d_z, 1.2 / sqrt(2))
    yield covers("ratio of launches", ratio_of_launches(np.exp(first), np.exp(second), CONFIDENCE), float(np.exp(1.2)))
    yield covers("ratio of means (Fieller)", ratio_of_means(first + 200, second + 100, CONFIDENCE), 2.012)
    equivalence = tost_paired(first + 18.8, second, 20.0, ALPHA)
    yield Outcome("paired TOST at the margin: equivalent", "type I", ALPHA, EXACT, equivalence.outcome == EQUIVALENT)
    detectable = (_detectable(paired(n, ALPHA)) * sqrt(2) - 1.2) * np.array([[1.0], [0.0]])
    own = paired_t_holm(np.stack([first, second]) + detectable, 1, ALPHA)
    yield finds("paired t", own[0].p)


def _separate_pairs(sizes: Sequence[int], generator: np.random.Generator) -> Iterator[Outcome]:
    samples = [generator.normal(size=n) for n in sizes]
    yield rejects_any("Games-Howell", [pair.p_adjusted for pair in games_howell(samples, ALPHA)], NEARLY)


def _separate_samples(generator: np.random.Generator) -> Iterator[Outcome]:
    samples = list(generator.normal(size=(6, 3)))
    yield rejects("one-way F", one_way_anova(samples).p)
    yield rejects("Welch", welch_anova(samples).p, NEARLY)
    yield rejects("Alexander-Govern", alexander_govern(samples).p, NEARLY)


SCENARIOS = (
    Scenario("6 arms, 3 seeds", _equal_arms),
    Scenario("6 arms, 3 seeds", _different_arms),
    Scenario("6 arms, 3 seeds", _unclear_full_arm),
    Scenario("6 arms, 3 seeds", _noisy_arm, part=0.2),
    Scenario("6 arms, 3 seeds", _detectable_arms, part=0.5),
    Scenario("4 x 4, 3 seeds", _factorial),
    Scenario("4 x 4, 3 seeds", _detectable_factors),
    Scenario("4 x 4, 3 seeds", _sweep),
    *(Scenario(f"2 samples of {n}", partial(_two_samples, n)) for n in (3, 5, 10)),
    *(Scenario(f"2 arms, {n} seeds", partial(_two_arms, n)) for n in (3, 5, 10)),
    *(Scenario(f"2 samples of {n}", partial(_separate_pairs, (n, n)), part=0.2) for n in (3, 5, 10)),
    Scenario("6 samples of 3", _separate_samples),
    Scenario("6 samples of 3", partial(_separate_pairs, (3,) * 6), part=0.1),
)


def run(scenario: Scenario, repeats: int, generator: np.random.Generator) -> list[Line]:
    """Return the scenario's claims over its part of ``repeats`` data sets."""
    claims: dict[tuple[str, str], Outcome] = {}
    counts: dict[tuple[str, str], dict[bool | None, int]] = {}
    for _ in range(max(1, round(repeats * scenario.part))):
        for outcome in scenario.draw(generator):
            claim = (outcome.claim, outcome.measure)
            claims.setdefault(claim, outcome)
            count = counts.setdefault(claim, {True: 0, False: 0, None: 0})
            count[None if outcome.hit is None else bool(outcome.hit)] += 1
    return [_line(scenario.design, claims[claim], count) for claim, count in counts.items()]


def _line(design: str, outcome: Outcome, count: dict[bool | None, int]) -> Line:
    defined = count[True] + count[False]
    return Line(
        design, outcome.claim, outcome.measure, outcome.nominal, outcome.kind, count[True], defined, count[None]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and return the exit code: 0 when every judged claim holds, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m lmexp.statistics.calibration", description=str(__doc__))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--repeats", type=int, default=4000, metavar="N", help="data sets for each design (4000: some 3 minutes)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="seed of the random numbers (1)")
    given = parser.parse_args(arguments)
    if given.repeats < 1 or given.seed < 0:
        parser.error("--repeats must be at least 1 and --seed at least 0")
    return _report(given.repeats, given.seed)


def _report(repeats: int, seed: int) -> int:
    started, lines = time.perf_counter(), []
    print(HEADER)
    for number, scenario in enumerate(SCENARIOS):
        found = run(scenario, repeats, np.random.default_rng([seed, number]))
        print(*found, sep="\n", flush=True)
        lines += found
    judged = [line for line in lines if line.holds is not None]
    failed = [line for line in judged if not line.holds]
    print(f"\n{len(judged)} claims judged, {len(failed)} outside 3 Monte Carlo standard errors;", end=" ")
    print(f"{len(lines) - len(judged)} shown only; seed {seed}; {time.perf_counter() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
