"""The analysis room: statistics on arrays, verdicts, tables, figures and the report, as functions of (plan, rows).

``analyse(plan, runs)`` judges, ``write_report(plan, runs, steps, folder)`` writes it down, and
``terminal_tables(analysis)`` shows it. Importing this room loads pandas and scipy: do it inside the
function that needs it.
"""

from lmexp.analysis.analyse import Analysis, analyse
from lmexp.analysis.report import Report, write_report
from lmexp.analysis.terminal import terminal_tables

__all__ = ["Analysis", "Report", "analyse", "terminal_tables", "write_report"]
