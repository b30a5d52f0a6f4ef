"""The analysis room: statistics on arrays, verdicts, tables, figures and the report, as functions of (plan, rows)."""
