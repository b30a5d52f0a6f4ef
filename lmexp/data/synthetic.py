"""A generated language whose true entropy rate is known, so that bits per byte have a floor that nobody can beat.

The source is a Markov chain over words: the next word depends on the last word alone, and after every word comes a
space or, with a fixed probability, a line break. Words hold neither, so the text can be cut back into words in one way
only, and the source's entropy per word divided by its mean bytes per word is the entropy rate of the text, exactly
(Cover and Thomas, Elements of Information Theory, 2nd ed., theorem 4.2.4 for the chain; the ratio is by renewal).
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

VERSION = 1  # raise it when the generated text changes: it is part of the corpus's fingerprint

N_WORDS = 64
BRANCHES = (2, 4, 8, 16)  # words that may follow a word: some places are easy to guess, others are not
LINE_BREAK_PROBABILITY = 1 / 8


@dataclass(frozen=True)
class MarkovLanguage:
    """Words, and which word follows which.

    Attributes:
        words: the vocabulary, distinct, lower-case letters only.
        successors: for each word, the indices of the words that may follow it.
        probabilities: for each word, the probabilities of its successors; they sum to 1.
        line_break_probability: of a line break after any word, else a space.
    """

    words: tuple[str, ...]
    successors: tuple[tuple[int, ...], ...]
    probabilities: tuple[tuple[float, ...], ...]
    line_break_probability: float

    def transitions(self) -> np.ndarray:
        """Return P: (words, words) float64, P[i, j] = probability that word j follows word i."""
        matrix = np.zeros((len(self.words), len(self.words)))
        for row, columns, values in zip(matrix, self.successors, self.probabilities, strict=True):
            row[list(columns)] = values
        return matrix

    def stationary(self) -> np.ndarray:
        """Return pi: (words,) float64 with pi P = pi and sum 1: how often each word occurs in the long run."""
        size = len(self.words)
        balance = np.vstack([self.transitions().T - np.eye(size), np.ones(size)])
        return np.linalg.lstsq(balance, np.append(np.zeros(size), 1.0), rcond=None)[0]

    def entropy_bits_per_byte(self) -> float:
        """Return the entropy rate of the text: bits per word over bytes per word (its separator included)."""
        per_word = np.array([_entropy_bits(row) for row in self.probabilities])
        line_break = _entropy_bits((self.line_break_probability, 1 - self.line_break_probability))
        n_bytes = np.array([len(word) + 1 for word in self.words])
        frequency = self.stationary()
        return float((frequency @ per_word + line_break) / (frequency @ n_bytes))

    def sample(self, n_bytes: int, seed: int) -> str:
        """Return whole lines of text, the first at or past ``n_bytes`` ending it."""
        draws = _pairs(np.random.Generator(np.random.PCG64(seed)))
        cumulative = [np.cumsum(row[:-1]).tolist() for row in self.probabilities]
        pieces, length, word = list[str](), 0, 0
        while length < n_bytes or not pieces[-1].endswith("\n"):
            word_draw, break_draw = next(draws)
            word = self.successors[word][bisect_right(cumulative[word], word_draw)]
            pieces.append(self.words[word] + ("\n" if break_draw < self.line_break_probability else " "))
            length += len(pieces[-1])
        return "".join(pieces)


def default_language() -> MarkovLanguage:
    """Return the language of the corpus ``synthetic``: the same on every machine, whatever a run's seed."""
    generator = np.random.Generator(np.random.PCG64(VERSION))
    syllables = ["".join(pair) for pair in product("bdfgklmnprstvz", "aeiou")]
    words = tuple(_distinct_words(generator, syllables))
    successors = tuple(tuple(_successors(generator, word)) for word in range(N_WORDS))
    probabilities = tuple(_zipf(len(row)) for row in successors)
    return MarkovLanguage(words, successors, probabilities, LINE_BREAK_PROBABILITY)


def _pairs(generator: np.random.Generator) -> Iterator[list[float]]:
    """Yield pairs of uniform draws without end, made in blocks for speed."""
    while True:
        yield from generator.random((4096, 2)).tolist()


def _distinct_words(generator: np.random.Generator, syllables: list[str]) -> list[str]:
    """Draw words of one to three syllables until there are enough different ones."""
    words = dict[str, None]()
    while len(words) < N_WORDS:
        n_syllables = 1 + _below(generator, 3)
        words["".join(syllables[_below(generator, len(syllables))] for _ in range(n_syllables))] = None
    return list(words)


def _successors(generator: np.random.Generator, word: int) -> list[int]:
    """Draw the words that may follow; the next one in a ring is always among them, so every word can be reached."""
    n_successors = BRANCHES[_below(generator, len(BRANCHES))]
    chosen = [(word + 1) % N_WORDS]
    while len(chosen) < n_successors:
        candidate = _below(generator, N_WORDS)
        if candidate not in chosen:
            chosen.insert(_below(generator, len(chosen) + 1), candidate)
    return chosen


def _below(generator: np.random.Generator, limit: int) -> int:
    """Draw an integer in [0, limit) from ``random()`` alone, numpy's most stable stream."""
    return int(generator.random() * limit)


def _zipf(size: int) -> tuple[float, ...]:
    """Return probabilities in proportion to 1, 1/2, 1/3, ..."""
    total = sum(1 / rank for rank in range(1, size + 1))
    return tuple(1 / rank / total for rank in range(1, size + 1))


def _entropy_bits(probabilities: tuple[float, ...]) -> float:
    return -sum(p * float(np.log2(p)) for p in probabilities if p > 0)
