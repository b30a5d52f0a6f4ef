"""What several parts of the report need: colours of arms, numbers in words, small strips beside names."""

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.colours import ARM_COLOURS

DASH = "\N{EN DASH}"


def css_colour(analysis: Analysis, arm: str) -> str:
    """Return an arm's colour as the page's style sheet names it."""
    others = [name for name in analysis.plan.arms if name != analysis.plan.control]
    return f"var(--arm-{others.index(arm) % len(ARM_COLOURS)})" if arm in others else "var(--control)"


def short(sha256: str | None) -> str:
    """Return as much of a hash as a person compares."""
    return sha256[:12] if sha256 else "none"


def bounded(names: list[str], most: int) -> str:
    """Return names separated by commas, of long lists only the first."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def time_text(text: str) -> str:
    """Write a time the way people read it: 2026-11-01 08:00:00 UTC."""
    return text.replace("T", " ").replace("+00:00", " UTC")
