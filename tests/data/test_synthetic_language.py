import hashlib
import itertools
import math
from collections import Counter

import numpy as np
import pytest

from lmexp.data.synthetic import MarkovLanguage, default_language


def words_of(text: str) -> list[str]:
    """Cut a text back into words, each with its separator."""
    return [word + " " for line in text.splitlines() for word in line.split(" ")]


def bits_per_word(language: MarkovLanguage, text: str) -> np.ndarray:
    """What the exact source pays for every word but the first: an oracle that shares no code with the source."""
    index = {word: i for i, word in enumerate(language.words)}
    lines = [line.split(" ") for line in text.splitlines()]
    words = [index[word] for line in lines for word in line]
    breaks = [place == len(line) - 1 for line in lines for place in range(len(line))]
    chain = [
        language.probabilities[before][language.successors[before].index(word)]
        for before, word in itertools.pairwise(words)
    ]
    separator = [language.line_break_probability if b else 1 - language.line_break_probability for b in breaks[1:]]
    return -np.log2(chain) - np.log2(separator)


def test_the_entropy_rate_of_a_language_done_by_hand():
    """Two words of 1 and 3 letters; after the first always the second, after the second a fair coin.

    pi = (1/3, 2/3); bits per word = 2/3 + h(1/4); bytes per word = 1/3 * 2 + 2/3 * 4 = 10/3.
    """
    language = MarkovLanguage(("a", "bcd"), ((1,), (0, 1)), ((1.0,), (0.5, 0.5)), 0.25)
    line_break_bits = 0.25 * 2 + 0.75 * math.log2(4 / 3)
    assert language.stationary() == pytest.approx([1 / 3, 2 / 3])
    assert language.entropy_bits_per_byte() == pytest.approx((2 / 3 + line_break_bits) / (10 / 3))


def test_the_stationary_distribution_is_where_the_chain_goes():
    language = default_language()
    transitions = language.transitions()
    assert transitions.sum(axis=1) == pytest.approx(np.ones(len(language.words)))
    lazy = (transitions + np.eye(len(language.words))) / 2  # same fixed point, and converges even for a periodic chain
    assert np.linalg.matrix_power(lazy, 4096)[5] == pytest.approx(language.stationary(), abs=1e-9)


def test_an_exact_model_pays_the_entropy_rate():
    """Mean over 60 blocks, within four standard errors: a right rate fails once in 16,000 seeds; this one is fixed."""
    language = default_language()
    text = language.sample(2_000_000, seed=11)
    bits = bits_per_word(language, text)
    n_bytes = np.array([len(word) for word in words_of(text)][1:])
    blocks = [b.sum() / n.sum() for b, n in zip(np.array_split(bits, 60), np.array_split(n_bytes, 60), strict=True)]
    standard_error = np.std(blocks, ddof=1) / math.sqrt(60)
    assert standard_error < 0.002  # or the comparison would say nothing
    assert abs(np.mean(blocks) - language.entropy_bits_per_byte()) < 4 * standard_error


def test_a_model_that_counts_comes_close_to_the_floor_and_not_below():
    """Word pairs counted on 2 MB: the excess of a count model is about parameters / (2 N ln 2) bits, here under 1%."""
    language = default_language()
    train, val = (words_of(language.sample(size, seed)) for size, seed in ((2_000_000, 0), (200_000, 1)))
    pairs, singles = Counter(itertools.pairwise(train)), Counter(train[:-1])
    chain = [
        -math.log2((pairs[pair] + 0.01) / (singles[pair[0]] + 0.01 * len(language.words)))
        for pair in itertools.pairwise(val)
    ]
    p = language.line_break_probability
    separator_bits = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    paid = (np.mean(chain) + separator_bits) / np.mean([len(word) for word in val])
    assert paid == pytest.approx(language.entropy_bits_per_byte(), rel=0.015)  # 1% of learning, 0.5% of sampling


def test_the_text_is_words_and_separators_and_nothing_else():
    language = default_language()
    text = language.sample(50_000, seed=3)
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz \n")
    assert {word.strip() for word in words_of(text)} <= set(language.words)
    assert text.endswith("\n")
    assert 50_000 <= len(text) < 50_500  # it ends with the first line that reaches the size


def test_words_are_distinct_and_all_are_reached():
    language = default_language()
    assert len(set(language.words)) == len(language.words) == 64
    assert language.stationary().min() > 1e-4
    assert all(len(set(row)) == len(row) for row in language.successors)


def test_the_text_is_the_same_on_every_machine_and_version():
    """If this fails, raise synthetic.VERSION: results on the old text must not be compared with the new."""
    text = default_language().sample(100_000, seed=0)
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "32196d842c00eb8a9dc3e3dbbb4fbd49c2a3fcc7230a9963de15a43b665ac117"
    )
    assert default_language().entropy_bits_per_byte() == pytest.approx(0.5868418870283583, abs=1e-12)


def test_another_seed_is_another_text():
    language = default_language()
    assert language.sample(1000, seed=0) != language.sample(1000, seed=1)
