"""The differences from the control: what the omnibus test and the contrasts say, effect sizes, and shares."""

from typing import Any

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.comparisons import NAMES
from lmexp.analysis.desk import AgainstControl
from lmexp.analysis.findings import finding, is_tested, margin_text
from lmexp.analysis.measures import number_text, p_text
from lmexp.analysis.omnibus import p_is, sentence
from lmexp.analysis.pictures import counted
from lmexp.analysis.sections.shared import DASH, css_colour
from lmexp.analysis.strips import Scale, scale_of, zero_strip
from lmexp.analysis.tables import interval_text
from lmexp.plan import NO_TEST

_MINUS = "\N{MINUS SIGN}"
_EFFECTS = {
    "hedges_g": ("Hedges\N{RIGHT SINGLE QUOTATION MARK} g", "unbiased d"),
    "cohens_d": ("Cohen\N{RIGHT SINGLE QUOTATION MARK}s d", "pooled spread"),
    "d_z": ("d_z", "spread of paired differences"),
}


def effect_order(analysis: Analysis) -> list[str]:
    """Return the effect sizes, the one that the plan names first."""
    planned = analysis.plan.analysis.effect_size
    return sorted(_EFFECTS, key=lambda name: name != planned)


def differences(analysis: Analysis) -> dict[str, Any]:
    """Return one row per arm but the control, in the primary measure."""
    found = analysis.comparisons[analysis.primary.name]
    scale = scale_of([c.difference.shown for c in found], [0.0])
    rows = [contrast_row(analysis, c, scale) for c in found]
    tested = is_tested(analysis)
    return {
        "rows": rows,
        "tested": tested,
        "omnibus": omnibus_sentence(analysis),
        "has_intervals": any(row["has_interval"] for row in rows),
        "has_effects": any(row["has_effects"] for row in rows),
        "effects": [_EFFECTS[name] for name in effect_order(analysis)],
        "has_findings": tested and bool(analysis.equivalences),
        "caption": _caption(analysis, rows),
        "equivalence": _equivalence_text(analysis) if tested else "",
    }


def contrast_row(analysis: Analysis, found: AgainstControl, scale: Scale) -> dict[str, Any]:
    """Return one arm's difference from the control in one measure."""
    shown, measure, effects = found.difference.shown, found.measure, found.effects
    interval = f"{measure.gap(shown.low)} to {measure.gap(shown.high)}" if shown.has_interval else "undefined"
    colour = css_colour(analysis, found.arm)
    is_primary = measure.name == analysis.primary.name
    return {
        "arm": found.arm,
        "colour": colour,
        "n": f"{shown.n_seeds:,}",
        "has_interval": shown.has_interval,
        "has_effects": any(e.value is not None for e in (effects.hedges_g, effects.cohens_d, effects.d_z)),
        "difference": measure.gap(shown.value),
        "relative": "" if found.relative is None else f"{found.relative:+.1%}".replace("-", _MINUS),
        "interval": interval,
        "why": shown.undefined or "",
        "p": p_text(found.difference.p_adjusted),
        "finding": finding(analysis, found) if is_primary and is_tested(analysis) else "",
        "svg": zero_strip(shown, scale, colour, f"{found.arm}: {measure.gap(shown.value)}, interval {interval}"),
        "effects": [interval_text(getattr(effects, name)) for name in effect_order(analysis)],
    }


def _caption(analysis: Analysis, rows: list[dict[str, Any]]) -> str:
    """Say what the table of differences holds, and by which method."""
    primary, control = analysis.primary, analysis.plan.control
    over = f"over n = {counted(len(analysis.complete), 'complete seed')}"
    what = (
        f"Arm relative to {control}, as a ratio," if primary.logarithmic else f"Arm minus {control} in {primary.unit}"
    )
    if not any(row["has_interval"] for row in rows):
        return f"{what} {over}. {_all_undefined(analysis, rows)}"
    method = analysis.plan.analysis.contrasts
    if method == NO_TEST:
        own = f"each {analysis.confidence:.0%} interval (t on the blocked error) holds for one difference alone"
        return f"{what} {over}. The plan asks for no test of these differences: {own}, and there is no p."
    p = " and p" if is_tested(analysis) else ""
    untested = "" if is_tested(analysis) else " Nothing was promised before these runs, so no p value is given."
    together = f"Intervals{p} hold for all arms together ({NAMES[method]}, {analysis.confidence:.0%})."
    return f"{what} {over}. {together}{untested}"


def _all_undefined(analysis: Analysis, rows: list[dict[str, Any]]) -> str:
    things = ["Intervals", *["p values"] * is_tested(analysis)]
    things += ["effect sizes"] * (not any(row["has_effects"] for row in rows))
    named = things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
    return f"{named} are undefined: {rows[0]['why']}." if rows else ""


def _equivalence_text(analysis: Analysis) -> str:
    """Say how equality is shown, where the plan has a smallest effect of interest."""
    if not analysis.equivalences:
        return ""
    first = next(iter(analysis.equivalences.values()))
    margin = margin_text(analysis)
    return (
        f"An arm is practically equal when two one-sided tests, each at {first.alpha:g} on the blocked error, show "
        f"that it differs by less than the smallest effect of interest, {margin}. To show no difference is not enough."
    )


def omnibus_sentence(analysis: Analysis) -> str:
    """Say in plain words what the omnibus test finds, and which arms differ from the control; of registered runs."""
    if not analysis.registered:
        return ""
    found, contrasts = analysis.omnibus, _contrasts_sentence(analysis)
    if found is None:
        return contrasts
    return f"{sentence(found, analysis.plan.analysis.alpha, len(analysis.complete))} {contrasts}".rstrip()


def _contrasts_sentence(analysis: Analysis) -> str:
    """Name the arms that the plan's test tells from the control, in the primary measure."""
    alpha = analysis.plan.analysis.alpha
    found = [c for c in analysis.comparisons[analysis.primary.name] if c.difference.p_adjusted is not None]
    if not found:
        return ""
    below = [f"{c.arm} ({p_is(c.difference.p_adjusted)})" for c in found if (c.difference.p_adjusted or 0.0) < alpha]
    named = ", ".join(below) if below else "no arm"
    return f"Against {analysis.plan.control}, the adjusted p is below {alpha:g} for {named}."


def shares(analysis: Analysis) -> dict[str, Any] | None:
    """Return each single change's share of the whole improvement, and whether the changes add up."""
    if not analysis.shares:
        return None
    scale = scale_of(list(analysis.shares.values()), [0.0, 1.0])
    has_intervals = any(estimate.has_interval for estimate in analysis.shares.values())
    rows = [
        {
            "arm": arm,
            "colour": css_colour(analysis, arm),
            "text": interval_text(estimate) if has_intervals else number_text(estimate.value),
            "why": estimate.undefined or "",
            "svg": zero_strip(estimate, scale, css_colour(analysis, arm), f"share of {arm}: {interval_text(estimate)}"),
        }
        for arm, estimate in analysis.shares.items()
    ]
    return {"rows": rows, "sum": _sum_text(analysis)}


def _sum_text(analysis: Analysis) -> str:
    """Say whether all changes together bring what the single ones bring alone."""
    found, primary = analysis.non_additivity, analysis.primary
    if found is None:
        return ""
    said = (
        f"Together against alone: the improvement of {analysis.plan.analysis.full} minus the sum of the single ones is "
        f"{primary.signed(found.value)} {primary.unit}"
    ).rstrip()
    if found.low is None or found.high is None:
        return f"{said}; its interval is undefined."
    interval = f"{analysis.confidence:.0%} interval {primary.signed(found.low)} to {primary.signed(found.high)}"
    more, less = "The whole is more than its parts.", "The whole is less than its parts."
    meaning = more if found.low > 0 else less if found.high < 0 else "The changes may simply add up."
    return f"{said} ({interval}). {meaning}"


def omnibus_table(analysis: Analysis) -> dict[str, Any] | None:
    """Return the plan's omnibus test as a table; None for runs that are not registered, and where nothing is tested."""
    found = analysis.omnibus
    if found is None or not found.tested or not analysis.registered:
        return None
    return {"title": found.title, "note": found.note, "rows": source_rows(found.sources), "checks": found.checks}


def source_rows(sources: Any) -> list[dict[str, str]]:
    """Return the lines of an analysis of variance."""
    return [
        {
            "source": source.name,
            "ss": DASH if source.ss is None else f"{source.ss:.4g}",
            "df": f"{source.df:g}",
            "ms": DASH if source.mean_square is None else f"{source.mean_square:.4g}",
            "f": "" if source.f is None else f"{source.f:,.2f}",
            "p": "" if source.f is None else p_text(source.p),
            "eta2": "" if source.eta2 is None else interval_text(source.eta2, 3),
            "omega2": "" if source.omega2 is None else interval_text(source.omega2, 3),
        }
        for source in sources
    ]
