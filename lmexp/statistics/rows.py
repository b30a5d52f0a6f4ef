"""Results as flat rows for tables, and the few turns of phrase that their one-line texts share."""

from dataclasses import fields
from typing import Any

from lmexp.statistics.estimates import Estimate


class Tabular:
    """A dataclass that turns into one flat row: ``pandas.DataFrame([result.row() for result in results])``."""

    def row(self) -> dict[str, Any]:
        """Return the fields; an estimate takes five columns, and a result within the result a prefix."""
        columns: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            columns |= _columns(field.name, getattr(self, field.name))
        return columns


def _columns(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Estimate):
        parts = ("low", "high", "confidence", "undefined")
        return {name: value.value} | {f"{name}_{part}": getattr(value, part) for part in parts}
    if isinstance(value, Tabular):
        return {f"{name}_{column}": inner for column, inner in value.row().items()}
    return {name: value}


def p_text(p: float | None, name: str = "p") -> str:
    """Say a p value: ``p = 0.0321``, ``p undefined``."""
    return f"{name} undefined" if p is None else f"{name} = {p:.3g}"


def f_text(f: float | None, df1: float, df2: float, p: float | None, why: str | None) -> str:
    """Say an F test: ``F(5, 10) = 4.2, p = 0.0251``, ``F undefined: no variation between seeds``."""
    if f is None:
        return f"F undefined: {why}"
    return f"F({df1:.4g}, {df2:.4g}) = {f:.4g}, {p_text(p)}"
