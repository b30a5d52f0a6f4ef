"""Eta2 and omega2: the part of the variation that goes with a factor, with intervals by inverting the noncentral F."""

from lmexp.statistics.distributions import noncentral_f_limits
from lmexp.statistics.estimates import Estimate, undefined

EFFECT_CONFIDENCE = 0.90  # of eta2 and omega2: a one-sided measure, whose 90% interval excludes 0 just when p < .05


def explained_variation(
    f: float | None, df1: int, df2: int, n_values: int, n_seeds: int, why: str | None, name: str = "partial"
) -> tuple[Estimate, Estimate]:
    """Return (eta2, omega2) of an F statistic, each with its 90% interval.

    eta2 = df1 F / (df1 F + df2) and omega2 = df1 (F - 1) / (df1 (F - 1) + n_values), which may be below zero. In a
    design with blocks or several factors both are partial: the part of the variation left when the other sources are
    taken out.

    With L the limits of the noncentrality of F (Steiger 2004), the limits of eta2 are L / (L + df2), the convention of
    its own point estimate, and those of omega2 are L / (L + n_values), the population's part of the variation.

    Args:
        f: the F statistic, None when undefined.
        df1: degrees of freedom of the factor.
        df2: degrees of freedom of the error.
        n_values: number of values in the whole design.
        n_seeds: values per arm (the fewest), for the record.
        why: why F is undefined.
        name: what the methods are called by, for instance "partial".
    """
    methods = [f"{name} {measure}, noncentral F".strip() for measure in ("eta2", "omega2")]
    if f is None:
        eta2, omega2 = (undefined(str(why), EFFECT_CONFIDENCE, n_seeds, method) for method in methods)
        return eta2, omega2
    low, high = noncentral_f_limits(f, df1, df2, EFFECT_CONFIDENCE)

    def estimate(value: float, denominator: float, method: str) -> Estimate:
        limits = (low / (low + denominator), high / (high + denominator))
        return Estimate(value, *limits, EFFECT_CONFIDENCE, n_seeds, df2, method, None)

    excess = df1 * (f - 1)
    return (
        estimate(df1 * f / (df1 * f + df2), df2, methods[0]),
        estimate(excess / (excess + n_values), n_values, methods[1]),
    )
