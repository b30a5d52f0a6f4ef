"""The eleven one-way analyses of variance of NIST's Statistical Reference Datasets, which scipy's wheel carries.

Digits of agreement are -log10(|found - certified| / |certified|). Data with many constant leading digits cannot reach
15: reading 1000000000000.4 as a double already rounds it in the fourth digit of what varies. So each file has two
assertions: a floor against the certified values, and all digits against exact rational arithmetic on the same doubles,
which is the best that any algorithm can do.
"""

from fractions import Fraction
from importlib import resources

import numpy as np
import pytest

from lmexp.statistics.one_way import one_way_anova

FOLDER = resources.files("scipy.stats") / "tests" / "data" / "nist_anova"

# Floors, one digit in the second place below what the doubles themselves allow (measured with exact arithmetic): the
# number of constant leading digits decides. 15 or more: limited by the certified values' own 15 digits.
FLOORS = {
    "SiRstv": 13.0,  # 3 constant leading digits; certified with 15
    "SmLs01": 14.9,
    "SmLs02": 14.9,
    "SmLs03": 14.9,
    "AtmWtAg": 10.1,  # 7 constant leading digits
    "SmLs04": 10.0,
    "SmLs05": 9.8,
    "SmLs06": 9.8,
    "SmLs07": 4.0,  # 13 constant leading digits
    "SmLs08": 3.9,  # the sum of squares; F has 4.2
    "SmLs09": 3.9,
}
F_FLOOR_OF_THE_HARDEST = 4.1  # what is asked of a good algorithm is 4


def digits(found, certified):
    return 16.0 if found == certified else float(-np.log10(abs(found - certified) / abs(certified)))


def read(name):
    """Return the samples, and what is certified: sums of squares and F, R squared, residual standard deviation."""
    path = FOLDER / f"{name}.dat"
    if not path.is_file():
        pytest.skip(f"the installed scipy has no {path.name} in its wheel")
    lines = path.read_text(encoding="ascii").splitlines()
    between, within = (
        next(line.split() for line in lines if line.startswith(word)) for word in ("Between ", "Within ")
    )
    r_squared = next(line.split()[-1] for line in lines if "R-Squared" in line)
    deviation = next(line.split()[-1] for line in lines if "Standard Deviation" in line)
    rows = [line.split() for line in lines[60:] if line.strip()]
    labels, values = np.array([int(label) for label, _ in rows]), np.array([float(value) for _, value in rows])
    samples = [values[labels == label] for label in np.unique(labels)]
    certified = (between[-3], within[-2], between[-1], r_squared, deviation, between[2], within[2])
    return samples, [float(value) for value in certified]


def exact(samples):
    """Return the sums of squares between and within, and F, by rational arithmetic on the doubles."""
    rational = [[Fraction(float(value)) for value in sample] for sample in samples]
    means = [sum(sample) / len(sample) for sample in rational]
    n_values = sum(map(len, rational))
    overall = sum(map(sum, rational)) / n_values
    between = sum(len(sample) * (mean - overall) ** 2 for sample, mean in zip(rational, means, strict=True))
    within = sum((value - mean) ** 2 for sample, mean in zip(rational, means, strict=True) for value in sample)
    f = between / (len(rational) - 1) / (within / (n_values - len(rational)))
    return float(between), float(within), float(f)


@pytest.mark.parametrize("name", FLOORS)
def test_digits_of_agreement_with_the_certified_values(name):
    samples, (between, within, f, r_squared, deviation, df_between, df_within) = read(name)
    found = one_way_anova(samples)
    assert (found.df_between, found.df_within) == (df_between, df_within)
    assert digits(found.ss_between, between) >= FLOORS[name]
    assert digits(found.ss_within, within) >= FLOORS[name]
    assert digits(found.f, f) >= max(FLOORS[name], F_FLOOR_OF_THE_HARDEST)
    assert digits(found.eta2.value, r_squared) >= FLOORS[name]
    assert digits(np.sqrt(found.ss_within / found.df_within), deviation) >= FLOORS[name]


@pytest.mark.parametrize("name", FLOORS)
def test_no_digit_of_the_doubles_is_lost(name):
    # A few roundings of 1.1e-16 each after sums that carry none: 15 digits.
    samples, _ = read(name)
    found = one_way_anova(samples)
    for value, best in zip((found.ss_between, found.ss_within, found.f), exact(samples), strict=True):
        assert digits(value, best) >= 15


def test_all_eleven_files_are_asserted():
    if not FOLDER.is_dir():
        pytest.skip("the installed scipy has no NIST files in its wheel")
    assert {path.name.removesuffix(".dat") for path in FOLDER.iterdir() if path.name.endswith(".dat")} == set(FLOORS)
    assert len(FLOORS) == 11
