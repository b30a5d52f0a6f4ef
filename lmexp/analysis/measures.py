"""How the columns of a run's row are named, in which unit, which way is better, and how their values are written."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import exp, floor, log10
from typing import Any

from lmexp.plan import Plan
from lmexp.results import SECONDS_PER_STEP_ALL_IN, is_speed_or_duration

UNDEFINED = "undefined"
_EVERYDAY = 1e9  # from here on, powers of ten
_ROUNDING = 1e-12  # below this a number is rounding, not a small value


@dataclass(frozen=True)
class Measure:
    """A measured column. ``direction`` is ``lower``, ``higher`` or None when neither is better.

    A speed or a duration is ``logarithmic``: arms are compared by ratios, on the logarithms of their values. What is
    counted rather than measured is ``exact``: equal values at every seed are knowledge, not a lack of spread. Values
    times ``scale`` are in ``unit``: bytes are shown as MiB. What is ``proportional`` differs by factors between arms,
    and is drawn so, though it is analysed as it is.
    """

    name: str
    label: str
    unit: str
    direction: str | None
    write: Callable[[float], str]
    logarithmic: bool = False
    exact: bool = False
    scale: float = 1.0
    proportional: bool = False

    @property
    def on_log_axis(self) -> bool:
        """Whether its values stand on a logarithmic axis, where equal ratios are equally far apart."""
        return self.logarithmic or self.proportional

    @property
    def sign(self) -> int | None:
        """+1 when lower is better, -1 when higher is, None when neither: what an improvement is multiplied by."""
        return {"lower": 1, "higher": -1}.get(self.direction or "")

    def text(self, value: float | None) -> str:
        """Return the value as people read it, without its unit; ``undefined`` for None."""
        return UNDEFINED if value is None else self.write(value)

    def signed(self, value: float | None) -> str:
        """Return a difference with its sign."""
        if value is None:
            return UNDEFINED
        text = self.write(abs(value))
        zero = not text.strip("0.,")
        return text if zero else ("+" if value > 0 else "\N{MINUS SIGN}") + text

    def gap(self, value: float | None) -> str:
        """Return a difference on the scale of the analysis: signed, or a factor where that scale is logarithmic."""
        if not self.logarithmic or value is None:
            return self.signed(value)
        return f"\N{MULTIPLICATION SIGN}\N{THIN SPACE}{number_text(exp(value), 3)}"

    @property
    def gap_unit(self) -> str:
        """The unit of such a difference: a factor has none."""
        return "" if self.logarithmic else self.unit


def decimals(places: int, scale: float = 1.0) -> Callable[[float], str]:
    """Return a writer with a fixed number of decimals, thousands set apart; small values get as many as they need."""
    return lambda value: number_text(value * scale, places)


def _enough(value: float, places: int) -> int:
    """Return decimals that show at least one figure of a value that is not zero."""
    return places if abs(value) < _ROUNDING else max(places, -floor(log10(abs(value))))


def significant(value: float) -> str:
    """Write four significant figures, without an exponent for everyday magnitudes."""
    size = abs(value)
    if size and not 1e-4 <= size < _EVERYDAY:
        text = f"{value:.3e}"
    else:
        text = f"{value:,.0f}" if size >= 1e4 else f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")


_COUNTED: dict[str, Any] = {"exact": True, "proportional": True}
_KNOWN = (
    Measure("val_bpb", "Validation loss", "bits/byte", "lower", decimals(4)),
    Measure("val_bpb_best", "Best validation loss", "bits/byte", "lower", decimals(4)),
    Measure("test_bpb", "Test loss", "bits/byte", "lower", decimals(4)),
    Measure("train_loss_nats", "Training loss", "nats/token", "lower", decimals(4)),
    Measure("val_loss_nats", "Validation loss", "nats/token", "lower", decimals(4)),
    Measure("n_params", "Parameters", "M", None, decimals(3, 1e-6), exact=True, scale=1e-6),
    Measure(
        "n_params_non_embedding", "Parameters without embeddings", "M", None, decimals(3, 1e-6), exact=True, scale=1e-6
    ),
    Measure("tokens_per_second", "Speed", "tokens/s", "higher", decimals(0), logarithmic=True),
    Measure("steps_per_second", "Speed", "steps/s", "higher", decimals(2), logarithmic=True),
    Measure("peak_memory_bytes", "Peak memory", "MiB", "lower", decimals(1, 2**-20), scale=2**-20),
    Measure("decode_tokens_per_second", "Decoding speed", "tokens/s", "higher", decimals(1), logarithmic=True),
    Measure(
        "cache_bytes_per_token_per_layer",
        "Cache per token and layer",
        "bytes",
        "lower",
        decimals(0),
        exact=True,
        proportional=True,
    ),
    Measure(
        "decode_peak_memory_bytes",
        "Peak memory of decoding",
        "MiB",
        "lower",
        decimals(1, 2**-20),
        scale=2**-20,
        **_COUNTED,
    ),
    Measure(
        "longest_length_tokens",
        "Longest sequence that fits",
        "tokens",
        "higher",
        decimals(0),
        exact=True,
        proportional=True,
    ),
    Measure("steps", "Steps", "", None, decimals(0)),
    Measure("tokens", "Tokens", "M", None, decimals(2, 1e-6), scale=1e-6),
    Measure("step_at_best", "Step of the best", "", None, decimals(0)),
    Measure("train_seconds", "Training time", "s", None, decimals(1), logarithmic=True),
    Measure("compile_seconds", "Compile time", "s", "lower", decimals(1), logarithmic=True),
    Measure("time_to_first_step_seconds", "Time to the first step", "s", "lower", decimals(1), logarithmic=True),
    Measure(SECONDS_PER_STEP_ALL_IN, "Time per step, evaluation included", "s", "lower", decimals(4), logarithmic=True),
    Measure("eval_seconds", "Evaluation time", "s", "lower", decimals(1), logarithmic=True),
)
_BY_NAME = {measure.name: measure for measure in _KNOWN}


def measure_of(plan: Plan, name: str) -> Measure:
    """Return how to name, judge and write a column; for the primary metric the plan's unit and direction win."""
    known = _BY_NAME.get(name) or _unknown(name)
    if name != plan.primary.name:
        return known
    is_ours = plan.primary.unit == known.unit
    write, scale = (known.write, known.scale) if is_ours else (significant, 1.0)
    return replace(known, unit=plan.primary.unit, direction=plan.primary.direction, write=write, scale=scale)


def _unknown(name: str) -> Measure:
    """Return how to write a column that has no entry; a speed or a duration is known by its ending."""
    compared_by_ratios = is_speed_or_duration(name)
    direction = None if not compared_by_ratios else "higher" if name.endswith("_per_second") else "lower"
    return Measure(
        name, name.replace("_", " ").capitalize(), "", direction, significant, logarithmic=compared_by_ratios
    )


def p_text(p: float | None) -> str:
    """Write a p value: three decimals, or that it is below the smallest worth telling apart."""
    if p is None:
        return UNDEFINED
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def number_text(value: float | None, places: int = 2) -> str:
    """Write a unit-free number with a true minus sign; ``undefined`` for None."""
    if value is None:
        return UNDEFINED
    if abs(value) >= _EVERYDAY:  # the end of an interval that says nothing
        return significant(value)
    places = _enough(value, places)
    return f"{round(value, places) + 0.0:,.{places}f}".replace("-", "\N{MINUS SIGN}")  # + 0.0: no negative zero


def listed(names: list[str]) -> str:
    """Return names as a sentence lists them: ``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
