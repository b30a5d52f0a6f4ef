"""The calibration command: that it runs, that it is the same again, and that it goes red for what is wrong.

The figures themselves take minutes (``python -m lmexp.statistics.calibration``) and are not repeated here.
"""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from lmexp.statistics import calibration
from lmexp.statistics.calibration import AT_LEAST, AT_MOST, EXACT, NEARLY, Line, Outcome, Scenario, main, run

REPEATS = 40


def line(kind, hits, repeats=10_000, nominal=0.05, undefined=0):
    return Line("design", "claim", "type I", nominal, kind, hits, repeats, undefined)


@pytest.mark.parametrize(
    ("kind", "hits", "holds"),
    [
        # The standard error of .05 in 10,000 is .00218: three of them reach from .0435 to .0565.
        (EXACT, 436, True),
        (EXACT, 434, False),
        (EXACT, 564, True),
        (EXACT, 566, False),
        (AT_MOST, 10, True),
        (AT_MOST, 564, True),
        (AT_MOST, 566, False),
        (AT_LEAST, 434, False),
        (AT_LEAST, 436, True),
        (AT_LEAST, 9000, True),
        (NEARLY, 5000, None),
    ],
)
def test_three_monte_carlo_standard_errors_decide(kind, hits, holds):
    assert line(kind, hits).holds is holds


def test_an_exact_claim_must_be_defined_on_every_data_set():
    assert line(EXACT, 500).holds
    assert not line(EXACT, 500, undefined=1).holds
    assert not line(EXACT, 0, repeats=0, undefined=5).holds
    assert "undefined on 1" in str(line(NEARLY, 500, undefined=1))


def test_a_rate_without_any_chance_must_be_met():
    """Three seeds: the sign-flip test cannot reject at .05, so that one rejection is a fault."""
    assert line(EXACT, 0, nominal=0.0).holds
    assert not line(EXACT, 1, nominal=0.0).holds
    assert [calibration._reachable(n) for n in (3, 5, 10)] == [0, 0, 25 / 512]


def test_two_measures_of_one_test_are_two_lines():
    def draw(generator):
        yield Outcome("t", "type I", 0.05, EXACT, False)
        yield Outcome("t", "power", 0.8, EXACT, True)

    found = run(Scenario("design", draw), 4, np.random.default_rng(0))
    assert [(one.measure, one.hits, one.repeats) for one in found] == [("type I", 0, 4), ("power", 4, 4)]


def test_counts_hits_misses_and_undefined():
    outcomes = iter([True, None, False, np.True_, True, None, True, True, True, True])

    def draw(generator):
        yield Outcome("claim", "coverage", 0.95, EXACT, next(outcomes))

    (found,) = run(Scenario("design", draw, part=0.5), 20, np.random.default_rng(0))
    assert (found.hits, found.repeats, found.undefined) == (7, 8, 2)
    assert found.rate == 7 / 8
    assert found.standard_error == pytest.approx(np.sqrt(0.95 * 0.05 / 8))


@pytest.fixture(scope="module")
def printed():
    command = [sys.executable, "-m", "lmexp.statistics.calibration", "--repeats", str(REPEATS), "--seed", "3"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_prints_an_aligned_table_and_passes(printed):
    assert printed.returncode == 0, printed.stdout + printed.stderr
    header, *rows = printed.stdout.split("\n\n")[0].splitlines()
    column = header.index("within 3 errors")
    assert {row[column:].split(";")[0] for row in rows} == {"yes", "not judged"}
    assert {row[: header.index("claim")].strip() for row in rows} >= {
        "6 arms, 3 seeds",
        "4 x 4, 3 seeds",
        "2 samples of 3",
        "2 samples of 5",
        "2 samples of 10",
    }
    assert max(map(len, rows)) <= 160
    assert printed.stderr == ""


def test_every_claim_of_the_room_is_there(printed):
    for claim in (
        *("blocked F", "permutation", "blocked Dunnett", "blocked Tukey", "Holm on blocked t", "Holm on paired t"),
        *("Welch", "Alexander-Govern", "Games-Howell", "two-way F of A ", "two-way F of B", "two-way F of AB"),
        *("two-sample t", "paired t", "paired sign flip", "TOST at the margin", "t interval of a mean"),
        *("Dunnett intervals", "Tukey intervals", "Bonferroni intervals", "share (Fieller)", "ratio of means", "d, "),
        *("best of 4 rates", "held-out difference", "ratio of launches", "blocked F, two arms apart"),
        *("g, ", "d_z", "partial eta2", "partial omega2", "difference of differences", "interaction of parts"),
    ):
        assert f"  {claim}" in printed.stdout, claim


def test_the_same_seed_gives_the_same_table(capsys):
    tables = []
    for seed in ("3", "3", "4"):
        main(["--repeats", "2", "--seed", seed])
        tables.append(capsys.readouterr().out.split("\n\n")[0])
    assert tables[0] == tables[1] != tables[2]


def test_a_wrong_interval_turns_the_command_red(monkeypatch, capsys):
    right = calibration.mean_estimate

    def too_narrow(values, confidence):
        found = right(values, confidence)
        reach = (found.high - found.value) / 4
        return replace(found, low=found.value - reach, high=found.value + reach)

    only = [scenario for scenario in calibration.SCENARIOS if scenario.draw is calibration._different_arms]
    monkeypatch.setattr(calibration, "SCENARIOS", only)
    assert main(["--repeats", str(REPEATS)]) == 0
    monkeypatch.setattr(calibration, "mean_estimate", too_narrow)
    capsys.readouterr()
    assert main(["--repeats", str(REPEATS)]) == 1
    failed = [row for row in capsys.readouterr().out.splitlines() if row.endswith("NO")]
    assert len(failed) == 1
    assert "t interval of a mean" in failed[0]


def test_a_test_that_rejects_too_often_turns_the_command_red(monkeypatch):
    right = calibration.two_way_blocked

    def forgets_to_divide(values):
        found = right(values)
        return replace(found, a=replace(found.a, p=found.a.p / 10))

    only = [scenario for scenario in calibration.SCENARIOS if scenario.draw is calibration._factorial]
    monkeypatch.setattr(calibration, "SCENARIOS", only)
    assert main(["--repeats", str(REPEATS)]) == 0
    monkeypatch.setattr(calibration, "two_way_blocked", forgets_to_divide)
    assert main(["--repeats", str(REPEATS)]) == 1


@pytest.mark.parametrize("arguments", [["--repeats", "0"], ["--seed", "-1"], ["--repeats", "many"]])
def test_nonsense_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "error" in capsys.readouterr().err
