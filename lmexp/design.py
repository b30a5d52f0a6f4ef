"""What a plan's tests can find before a run is made: their power, and the smallest p that they can reach."""

from dataclasses import dataclass
from math import inf

from lmexp.plan import NO_TEST, Plan
from lmexp.statistics import power
from lmexp.statistics.distributions import studentized_range_critical


@dataclass(frozen=True)
class Reach:
    """What one planned test can find: ``detectable`` is None where no general answer exists (unpaired arms)."""

    name: str
    smallest_p: float
    detectable: power.Detectable | None
    alpha: float

    @property
    def can_reject(self) -> bool:
        """Whether the test can reach its own alpha at all."""
        return self.smallest_p <= self.alpha

    def largest_error(self, effect: float) -> float | None:
        """Return the blocked error below which an effect of this size is found; None where it is not known."""
        known = self.detectable is not None and self.detectable.unit == "sigma_e"
        return effect / self.detectable.effect if known and self.detectable is not None else None


def reaches(plan: Plan) -> list[Reach]:
    """Return what each test of the plan can find, the omnibus test first; nothing for a plan without tests.

    The two-way test answers for its interaction, the hardest of its effects to find.
    """
    n_arms, n_seeds = len(plan.judged_arms), len(plan.judged_seeds)
    tests = [plan.analysis.omnibus, plan.analysis.contrasts]
    return [_reach(plan, test, n_arms, n_seeds) for test in tests if test != NO_TEST]


def _reach(plan: Plan, test: str, n_arms: int, n_seeds: int) -> Reach:
    alpha = plan.analysis.alpha
    family = n_arms - 1
    counting = {"permutation": "permutation_blocks", "sign_flip_holm": "sign_flip"}.get(test)
    smallest = power.smallest_p(counting, n_arms, n_seeds) if counting else 0.0
    if test == "sign_flip_holm":
        smallest = min(1.0, smallest * family)  # Holm's first step multiplies by the number of comparisons
    if n_arms < 2 or n_seeds < 2:
        return Reach(test, inf, None, alpha)
    planned = _planned(plan, test, n_arms, n_seeds, family)
    return Reach(test, smallest, planned.detectable() if planned else None, alpha)


def _planned(plan: Plan, test: str, n_arms: int, n_seeds: int, family: int) -> power.PlannedTest | None:
    alpha = plan.analysis.alpha
    if test == "blocked_anova":
        return power.blocked_f(n_arms, n_seeds, alpha)
    if test == "two_way_blocked":
        first, second = (len(levels) for levels in plan.factors.values())
        return power.two_way_interaction(first, second, n_seeds, alpha)
    if test == "dunnett_blocked":
        return power.blocked_dunnett(n_arms, n_seeds, alpha)
    if test == "tukey_blocked":
        df = (n_arms - 1) * (n_seeds - 1)
        critical = studentized_range_critical(alpha, n_arms, df) / 2**0.5
        return power.blocked_at(n_arms, n_seeds, critical, "blocked Tukey")
    return power.blocked(n_arms, n_seeds, alpha, family) if test == "holm_blocked" else None
