"""The terminal: calm and true at any width, and nothing that looks like markup is lost."""

import pytest
from analysis_rows import analysed, make_lock, make_plan, make_runs
from report_plans import timing_plan, timing_rows
from rich.console import Console

from lmexp.analysis import analyse, terminal_tables
from lmexp.plan import Hypothesis

PLAN = make_plan()
RUNS = make_runs(PLAN)


def shown(analysis, width):
    console = Console(width=width, record=True, quiet=False, file=open("/dev/null", "w"), highlight=False)  # noqa: SIM115
    for table in terminal_tables(analysis):
        console.print(table)
    return console.export_text()


def timing():
    plan = timing_plan()
    runs, steps = timing_rows(plan)
    return analyse(plan, runs, make_lock(plan), steps)


ANALYSES = {
    "registered": lambda: analysed(PLAN, RUNS),
    "deviated": lambda: analysed(PLAN, RUNS, ("the margin was too small", 7)),
    "exploratory": lambda: analyse(PLAN, RUNS.assign(registered=False)),
    "breach": lambda: analysed(PLAN, RUNS.head(17)),
    "one seed": lambda: analysed(make_plan(seeds=(0,)), make_runs(make_plan(seeds=(0,)))),
    "timing": timing,
}


@pytest.mark.parametrize("name", ANALYSES)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_cut(name, width):
    analysis = ANALYSES[name]()
    text = shown(analysis, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for verdict in analysis.verdicts:
        assert any(verdict.verdict in line for line in lines)
    for arm in analysis.plan.arms:
        assert any(line.startswith(arm) for line in lines)


class TestWords:
    def test_registered(self):
        text = shown(ANALYSES["registered"](), 120)
        for expected in (
            "H1  FALSIFIED     Attention dominates: GQA brings most",
            "share(gqa) is 0.06 (95% interval",
            "2.3083 ± 0.0143",
            "Adjusted",
            "better, by enough to matter",
            "Detectable 8 times in 10 with the error seen here: 0.0233 bits/byte or more.",
            "Registered: the runs follow the lock 10c4ed10c4ed (check: lmexp plan verify gpt_to_llama).",
        ):
            assert expected in text
        assert "Point estimates alone" not in text  # they say the same

    def test_point_estimates_are_told_where_they_say_something_else(self):
        hypothesis = Hypothesis("H1", "Large", "share(swiglu) > 0.2", "share(swiglu) < 0.1")
        text = shown(analysed(make_plan(hypotheses=(hypothesis,)), RUNS), 100)
        assert "INCONCLUSIVE" in text
        assert "Point estimates alone would say SUPPORTED." in text

    def test_deviated(self):
        text = " ".join(shown(ANALYSES["deviated"](), 80).split())
        assert "DEVIATED" in text
        assert "The plan was amended when 7 runs existed: the margin was too small" in text
        assert "would say FALSIFIED" in text

    def test_exploratory(self):
        text = shown(ANALYSES["exploratory"](), 80)
        assert "share(gqa): 0.06 [" in text
        for absent in ("FALSIFIED", "SUPPORTED", "Adjusted", "matter", "Registered", "Detectable"):
            assert absent not in text
        assert "nothing is judged (lmexp plan lock gpt_to_llama)" in " ".join(text.split())

    def test_a_breach_is_said_once(self):
        text = shown(ANALYSES["breach"](), 120)
        assert text.count("1 of 18 cells has no result") == 1

    def test_columns_that_do_not_fit_are_left_to_the_files(self):
        narrow, wide = (shown(ANALYSES["registered"](), width) for width in (60, 140))
        assert "Validation loss" in narrow
        assert "Parameters" in wide
        assert "Parameters" not in narrow

    def test_markup_is_text(self):
        plan = make_plan(
            hypotheses=(Hypothesis("H1", "An [odd] claim [red]", "share(gqa) > 0.5", "share(gqa) < 0.2"),),
            question="[bold]?",
        )
        assert "An [odd] claim [red]" in shown(analysed(plan, RUNS), 120)
        odd = make_plan(arms={"baseline": (), "[b]x": ()}, hypotheses=(), control="baseline")
        odd = make_plan(
            arms=odd.arms, hypotheses=(), analysis=timing_plan().analysis.__class__(0.05, "none", "none", "d_z", None)
        )
        assert "[b]x" in shown(analysed(odd, make_runs(odd)), 80)
