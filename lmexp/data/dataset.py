"""From a spec to token ids on disk: find the corpus, split it, tokenise it once, map it into memory ever after."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmexp.data import store, tokenizer
from lmexp.data.corpora import Corpus, Texts, open_corpus
from lmexp.data.spec import DataSpec
from lmexp.data.stored import from_description
from lmexp.data.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer, load_gpt2, train_bpe
from lmexp.errors import UserError

FORMAT = 1  # raise it when the layout of cached entries changes

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """One split as tokens.

    Attributes:
        tokens: (n_tokens,) uint16 or uint32, a read-only memory map.
        n_bytes: UTF-8 bytes of the whole text.
        n_tokens: how many tokens it is.
    """

    tokens: np.ndarray
    n_bytes: int
    n_tokens: int


@dataclass(frozen=True)
class Dataset:
    """A corpus in tokens.

    Attributes:
        tokenizer: what made the tokens, from nothing but the training split.
        train: what a model learns from.
        val: what ``val_bpb`` is measured on.
        test: read once, at the end of a run.
        entropy_bits_per_byte: the floor of any model's bits per byte, where it is known (synthetic only).
    """

    tokenizer: Tokenizer
    train: Split
    val: Split
    test: Split
    entropy_bits_per_byte: float | None


def load_dataset(spec: DataSpec) -> Dataset:
    """Return the corpus in tokens: from the cache in milliseconds, or made in seconds and cached.

    Raises:
        UserError: if the text is missing, unreadable or too short for one batch, or the cache cannot be written.
    """
    corpus = open_corpus(spec)
    name, key = f"{spec.corpus}-{spec.tokenizer}", _cache_key(spec, corpus)
    entry = store.load(name, key)
    if entry is None:
        store.save(name, key, *_tokenised(spec, corpus))
        entry = store.load(name, key)
    if entry is None:
        raise OSError(f"the cached tokens {name} did not survive being written: is the disk failing?")
    dataset = _dataset(entry, corpus.entropy_bits_per_byte)
    _check_long_enough(dataset, spec)
    return dataset


def fingerprint(spec: DataSpec) -> str:
    """Return what identifies the text itself (not the tokenizer or batch): equal fingerprints mean equal splits."""
    return open_corpus(spec).fingerprint


def unigram_bits_per_byte(dataset: Dataset, split: str = "val") -> float:
    """Return what a model pays that knows how often each token occurs in train and nothing else.

    Counts are smoothed by adding one. As for the judge, the split's first token is given and the others are predicted.

    Args:
        dataset: what to measure on.
        split: ``"train"``, ``"val"`` or ``"test"``.
    """
    vocab_size = dataset.tokenizer.vocab_size
    counts = np.bincount(dataset.train.tokens, minlength=vocab_size) + 1
    bits = np.log2(counts.sum()) - np.log2(counts)
    occurrences = np.bincount(getattr(dataset, split).tokens[1:], minlength=vocab_size)
    return float(occurrences @ bits / (occurrences @ dataset.tokenizer.byte_lengths))


def _cache_key(spec: DataSpec, corpus: Corpus) -> store.Key:
    """Everything that decides the tokens. Another version of the library that learns merges may learn others."""
    key: store.Key = {
        "format": FORMAT,
        "corpus": corpus.fingerprint,
        "tokenizer": spec.tokenizer,
        "tokenizer_format": tokenizer.FORMAT,
    }
    if spec.tokenizer == "bpe":
        key |= {"bpe_vocab_size": spec.bpe_vocab_size, "tokenizers": importlib.metadata.version("tokenizers")}
    return key


def _tokenised(spec: DataSpec, corpus: Corpus) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the ids of the splits, one after the other, and what is needed to use them."""
    texts = corpus.read()
    made = _make_tokenizer(spec, texts)
    ids = [made.encode(getattr(texts, split)) for split in SPLITS]
    facts: dict[str, Any] = {
        "tokenizer": made.description(),
        "n_tokens": [len(tokens) for tokens in ids],
        "n_bytes": [len(getattr(texts, split).encode()) for split in SPLITS],
    }
    return np.concatenate(ids).astype(np.uint16 if made.vocab_size <= 2**16 else np.uint32), facts


def _make_tokenizer(spec: DataSpec, texts: Texts) -> Tokenizer:
    makers: dict[str, Callable[[], Tokenizer]] = {
        "byte": ByteTokenizer,
        "char": lambda: CharTokenizer(texts.train),
        "bpe": lambda: train_bpe(texts.train, spec.bpe_vocab_size),
        "gpt2": load_gpt2,
    }
    return makers[spec.tokenizer]()


def _dataset(entry: store.Entry, entropy_bits_per_byte: float | None) -> Dataset:
    ends = np.cumsum(entry.facts["n_tokens"])
    parts = np.split(entry.tokens, ends[:-1])
    sizes = zip(parts, entry.facts["n_bytes"], strict=True)
    splits = {name: Split(part, n_bytes, len(part)) for name, (part, n_bytes) in zip(SPLITS, sizes, strict=True)}
    made = from_description(entry.facts["tokenizer"])
    return Dataset(made, **splits, entropy_bits_per_byte=entropy_bits_per_byte)


def _check_long_enough(dataset: Dataset, spec: DataSpec) -> None:
    """A batch needs its windows all different; the judge needs one window of each held-out split."""
    train_tokens = (spec.batch_size + 1) * spec.context_length
    for name, needed in zip(SPLITS, (train_tokens, spec.context_length + 1, spec.context_length + 1), strict=True):
        split: Split = getattr(dataset, name)
        if split.n_tokens < needed:
            raise UserError(
                f"The text is too short: its {name} split holds {split.n_tokens} tokens ({split.n_bytes} bytes) but "
                f"data.context_length={spec.context_length} and data.batch_size={spec.batch_size} need {needed}; give "
                "more text, or lower data.context_length or data.batch_size."
            )
