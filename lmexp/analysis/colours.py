"""The colours of the figures: CSS variables of the page around them, each with a value for when they stand alone.

One picture so follows the page from light to dark, and still works in a notebook.
"""

from collections.abc import Iterable

INK = "var(--ink, #1d2730)"
MUTED = "var(--muted, #5f6b76)"
GRID = "var(--grid, #dde1e4)"
PAPER = "var(--paper, #ffffff)"
ACCENT = "var(--accent, #0b6e74)"
CONTROL = "var(--control, #7b858f)"

# Okabe and Ito's hues, told apart with every common kind of colour blindness, darkened where thin lines would fade.
ARM_COLOURS = ("#0072b2", "#c95500", "#00835f", "#a8498f", "#946b00", "#4b9fd5")


def arm_colour(place: int) -> str:
    """Return the colour of the arm at this place among the arms that are not the control."""
    place %= len(ARM_COLOURS)
    return f"var(--arm-{place}, {ARM_COLOURS[place]})"


def arm_colours(arms: Iterable[str], control: str | None) -> dict[str, str]:
    """Return each arm's colour: grey for the control, one hue per other arm."""
    arms = list(arms)
    others = [arm for arm in arms if arm != control]
    return dict.fromkeys(arms, CONTROL) | {arm: arm_colour(place) for place, arm in enumerate(others)}
