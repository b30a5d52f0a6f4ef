"""The sign-flip test against scipy's enumeration and its own laws."""

import numpy as np
import pytest
from scipy import stats

from lmexp.statistics.sign_flip import sign_flip_test


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_agrees_with_scipys_exact_enumeration(n):
    differences = np.random.default_rng(n).normal(0.5, 1, n)
    oracle = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        alternative="two-sided",
        vectorized=True,
        n_resamples=np.inf,
    )
    found = sign_flip_test(differences)
    assert found.p == pytest.approx(oracle.pvalue, abs=1e-12)
    assert found.exact


@pytest.mark.parametrize(("n", "least"), [(1, 1.0), (3, 0.25), (5, 0.0625), (10, 2 / 1024)])
def test_the_smallest_reachable_p_is_two_in_two_to_the_n(n, least):
    found = sign_flip_test(np.arange(1.0, n + 1))  # all of one sign: the most extreme pattern and its mirror image
    assert found.p == least
    assert found.n_arrangements == 2 ** (n - 1)


def test_either_sign_gives_the_same_p():
    differences = np.array([0.3, -0.1, 0.9, 0.4])
    assert (
        sign_flip_test(differences).p == sign_flip_test(-differences).p == 0.25
    )  # only + + + + and + - + + tie or beat


def test_patterns_that_tie_in_exact_arithmetic_tie_here():
    # .1 + .2 - .3 is not zero in binary: |.1 + .2 + .3 - .6| must count as 0 like every other pattern's least sum.
    assert sign_flip_test(np.array([0.1, 0.2, 0.3, -0.6])).p == 1.0
    assert sign_flip_test(np.zeros(4)).p == 1.0


def test_twenty_seeds_are_still_exact():
    assert sign_flip_test(np.ones(20)).exact
    assert sign_flip_test(np.ones(20)).p == 2 / 2**20
    assert not sign_flip_test(np.ones(21)).exact


def test_many_seeds_are_drawn_with_a_fixed_generator_and_p_is_never_zero():
    differences = np.random.default_rng(1).normal(0.45, 1, 25)
    first, second = sign_flip_test(differences), sign_flip_test(differences)
    assert first == second
    assert not first.exact
    # The t test on the same data is an oracle to a few Monte Carlo errors at 20,000 draws.
    t = stats.ttest_1samp(differences, 0).pvalue
    assert 0.001 < t < 0.2
    assert first.p == pytest.approx(t, abs=5 * np.sqrt(t / 20_000) + 0.1 * t)
    assert sign_flip_test(np.ones(25)).p == 1 / 20_001  # no drawn pattern has one sign throughout; the observed counts
    assert first.n_arrangements == 20_000


@pytest.mark.parametrize("differences", [[], [1.0, np.nan], [[1.0, 2.0]]])
def test_gaps_and_nothing_are_refused(differences):
    with pytest.raises(ValueError, match="1-D, without gaps and not empty"):
        sign_flip_test(np.array(differences))
