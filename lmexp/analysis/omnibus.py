"""The omnibus test that the plan names, as rows for a table and as plain words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmexp.analysis.measures import p_text
from lmexp.plan import NO_TEST, Plan
from lmexp.statistics.adjust import paired_t_holm
from lmexp.statistics.blocks import BlockedAnova, Permutation, blocked_anova
from lmexp.statistics.estimates import Estimate
from lmexp.statistics.one_way import alexander_govern, one_way_anova, welch_anova
from lmexp.statistics.two_way import Effect, two_way_blocked


@dataclass(frozen=True)
class Source:
    """One line of an analysis of variance; ``f`` and what follows are None where nothing is tested or defined."""

    name: str
    ss: float | None
    df: float
    f: float | None = None
    df_error: float | None = None
    p: float | None = None
    eta2: Estimate | None = None
    omega2: Estimate | None = None

    @property
    def mean_square(self) -> float | None:
        """Sum of squares over degrees of freedom."""
        return None if self.ss is None or not self.df else self.ss / self.df


@dataclass(frozen=True)
class Omnibus:
    """The omnibus test. ``checks`` are sensitivity analyses: what they are, and what they say. They decide nothing."""

    title: str
    note: str  # what the test takes for granted
    sources: tuple[Source, ...]
    checks: tuple[tuple[str, str], ...]
    permutation: Permutation | None
    why: str | None  # why it is undefined

    @property
    def tested(self) -> tuple[Source, ...]:
        """The effects that have an F, the arms (or factors) first."""
        return tuple(source for source in self.sources if source.f is not None)


def omnibus(plan: Plan, blocks: np.ndarray) -> Omnibus | None:
    """Carry out the plan's omnibus test; None when it asks for none.

    Args:
        plan: the plan; its arms are the rows of ``blocks``.
        blocks: (arms, seeds), without gaps, on the scale of the analysis.
    """
    test = plan.analysis.omnibus
    if test == NO_TEST or len(blocks) < 2 or not blocks.shape[1]:
        return None
    if test == "two_way_blocked":
        # A crossing may be missing in a plan that is not locked: a lock refuses that.
        return _two_way(plan, blocks) if set(plan.grid().values()) <= set(plan.arms) else None
    if test in ("one_way_anova", "welch_anova"):
        return _unpaired(test, blocks)
    return _blocked(plan, blocks, by_permutation=test == "permutation")


def _blocked(plan: Plan, blocks: np.ndarray, by_permutation: bool) -> Omnibus:
    found = blocked_anova(blocks)
    p = found.permutation.p if by_permutation and found.permutation else found.p
    arms = Source("arms", found.ss_arms, found.df_arms, found.f, found.df_error, p, found.eta2, found.omega2)
    sources = (
        arms, Source("seeds", found.ss_seeds, found.df_seeds), Source("error", found.ss_error, found.df_error)
    )  # fmt: skip
    return Omnibus(
        title="Permutation of arms within seeds" if by_permutation else "Blocked analysis of variance",
        note="seeds are paired across arms, and what a seed does to all arms alike is taken out",
        sources=sources,
        checks=(*_sphericity(found), *_own_errors(plan, blocks)),
        permutation=found.permutation,
        why=found.why,
    )


def _sphericity(found: BlockedAnova) -> list[tuple[str, str]]:
    if found.epsilon is None:
        return []
    said = f"ε = {found.epsilon:.3f}, corrected p {p_text(found.p_sphericity)}: a rough check with so few seeds"
    return [("Greenhouse\N{EN DASH}Geisser", said)]


def _own_errors(plan: Plan, blocks: np.ndarray) -> list[tuple[str, str]]:
    """Compare each arm with the control on their own error instead of the pooled one, adjusted by Holm."""
    if plan.control is None or blocks.shape[1] < 2:
        return []
    arms = list(plan.arms)
    found = paired_t_holm(blocks, arms.index(plan.control), plan.analysis.alpha)
    said = [f"{arms[each.arm]} {p_text(each.p_adjusted)}" for each in found if each.p_adjusted is not None]
    return [("Each pair's own error (paired t, Holm)", "p: " + ", ".join(said))] if said else []


def _two_way(plan: Plan, blocks: np.ndarray) -> Omnibus:
    sizes = [len(levels) for levels in plan.factors.values()]
    order = [list(plan.arms).index(arm) for arm in plan.grid().values()]
    found = two_way_blocked(blocks[order].reshape(*sizes, -1))
    first, second = plan.factors
    effects = ((first, found.a), (second, found.b), (f"{first} \N{MULTIPLICATION SIGN} {second}", found.interaction))
    sources = [_effect(name, effect) for name, effect in effects]
    rest = (Source("seeds", found.ss_seeds, found.df_seeds), Source("error", found.ss_error, found.df_error))
    return Omnibus(
        title="Blocked two-way analysis of variance",
        note="seeds are paired across all cells; one pooled error serves all three effects",
        sources=(*sources, *rest),
        checks=(),
        permutation=None,
        why=found.why,
    )


def _effect(name: str, effect: Effect) -> Source:
    return Source(name, effect.ss, effect.df, effect.f, effect.df_error, effect.p, effect.eta2, effect.omega2)


def _unpaired(test: str, blocks: np.ndarray) -> Omnibus:
    samples = list(blocks)
    check = alexander_govern(samples)
    checks = (("Alexander\N{EN DASH}Govern", f"p {p_text(check.p)}"),)
    if test == "welch_anova":
        welch = welch_anova(samples)
        source = Source("arms", None, welch.df1, welch.f, welch.df2, welch.p)
        note = "arms are taken as unpaired and may vary unequally"
        return Omnibus("Welch's analysis of variance", note, (source,), checks, None, welch.why)
    found = one_way_anova(samples)
    arms = Source(
        "arms", found.ss_between, found.df_between, found.f, found.df_within, found.p, found.eta2, found.omega2
    )
    within = Source("within arms", found.ss_within, found.df_within)
    note = "arms are taken as unpaired and equally variable"
    return Omnibus("One-way analysis of variance", note, (arms, within), checks, None, found.why)


def sentence(found: Omnibus, alpha: float, n_seeds: int) -> str:
    """Say in plain words what the test finds."""
    if not found.tested:
        return f"Whether the arms differ at all cannot be tested: {found.why}."
    count = f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n_seeds} complete seed{'s' * (n_seeds != 1)}"
    return f"{_joined([_clause(source, alpha) for source in found.tested])}{_permuted(found)}; {count}."


def _clause(source: Source, alpha: float) -> str:
    f = f"F({source.df:g}, {source.df_error:.4g}) = {source.f:,.2f}, {p_is(source.p)}"
    differ = (source.p or 0.0) < alpha
    if source.name == "arms":
        finding = "that the arms differ" if differ else "no difference"
        return f"The omnibus test, over all arms at once, finds {finding}: {f}"
    return f"{source.name} {'matters' if differ else 'shows no effect'}: {f}"


def _joined(clauses: Sequence[str]) -> str:
    text = "; ".join(clauses)
    return text[:1].upper() + text[1:]


def _permuted(found: Omnibus) -> str:
    if found.permutation is None:
        return ""
    kind = "exact" if found.permutation.exact else "Monte Carlo"
    arrangements = f"{found.permutation.n_arrangements:,} arrangements"
    return f"; {kind} permutation test over {arrangements} {p_is(found.permutation.p)}"


def p_is(p: float | None) -> str:
    """Write ``p = 0.031`` or ``p < 0.001``."""
    text = p_text(p)
    return f"p {text if text.startswith('<') else '= ' + text}"
