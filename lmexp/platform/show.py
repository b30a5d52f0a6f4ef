"""The doctor's findings on the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmexp.platform.checks import Check, doctor

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


def print_doctor(console: "Console | None" = None) -> bool:
    """Look at this machine and print what is fast, what is missing, and what to type.

    Args:
        console: where to print; the terminal by default.

    Returns:
        Whether nothing failed.
    """
    from rich.console import Console

    console = console or Console()
    with console.status("Looking at this machine"):
        checks = doctor()
    show(checks, console)
    return all(check.state != "fail" for check in checks)


def show(checks: Sequence[Check], console: "Console") -> None:
    """Print findings as a table, and one sentence that sums them up."""
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for check in checks:
        mark, colour = _MARKS[check.state]
        table.add_row(f"[{colour}]{mark}[/]", check.name, _finding(check))
    console.print(table)
    console.print(_verdict(checks))


def _finding(check: Check) -> "Text":
    from rich.text import Text

    text = Text(check.found)
    if check.mend:
        text.append(f"\n→ {check.mend}", style="cyan")
    return text


def _verdict(checks: Sequence[Check]) -> str:
    states = [check.state for check in checks]
    if "fail" in states:
        return f"\n[red]{states.count('fail')} of {len(checks)} must be mended before a run works.[/]"
    if "warn" in states:
        return f"\n[yellow]Ready to run; {states.count('warn')} of {len(checks)} could be better.[/]"
    return "\n[green]Ready to run.[/]"
