"""The data room: corpora, tokenizers, and seeded batches with byte counts (numpy only)."""

from lmexp.data.batches import Batch, Batches
from lmexp.data.dataset import Dataset, Split, fingerprint, load_dataset, unigram_bits_per_byte
from lmexp.data.published import PublishedTokenizer
from lmexp.data.spec import DataSpec
from lmexp.data.stored import load_tokenizer
from lmexp.data.tokenizer import Tokenizer

__all__ = [
    "Batch",
    "Batches",
    "DataSpec",
    "Dataset",
    "PublishedTokenizer",
    "Split",
    "Tokenizer",
    "fingerprint",
    "load_dataset",
    "load_tokenizer",
    "unigram_bits_per_byte",
]
