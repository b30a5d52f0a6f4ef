"""What a user chooses about the data: ``conf/data/*.yaml`` has the same keys and holds every default."""

from dataclasses import dataclass

from lmexp.errors import UserError, unknown

CORPORA = ("shakespeare", "tiny_shakespeare", "text", "synthetic")
TOKENIZERS = ("char", "byte", "bpe", "gpt2")
SMALLEST_BPE_VOCAB, LARGEST_BPE_VOCAB = 256, 65_536  # every byte is a token; token ids fit in 16 bits


@dataclass(frozen=True)
class DataSpec:
    """A corpus, how it becomes tokens, and the shape of a batch.

    Raises:
        UserError: for an unknown choice, a number out of range, or a path without ``data=text`` (and the reverse).
    """

    corpus: str  # one of CORPORA
    path: str | None  # a file, a folder or a glob; only for corpus "text"
    tokenizer: str  # one of TOKENIZERS
    bpe_vocab_size: int  # tokens; only for tokenizer "bpe"
    context_length: int  # tokens that the model sees at once
    batch_size: int  # windows of context_length tokens per optimizer step

    def __post_init__(self) -> None:
        if self.corpus not in CORPORA:
            raise unknown("data.corpus", self.corpus, CORPORA)
        if self.tokenizer not in TOKENIZERS:
            raise unknown("data.tokenizer", self.tokenizer, TOKENIZERS)
        if not SMALLEST_BPE_VOCAB <= self.bpe_vocab_size <= LARGEST_BPE_VOCAB:
            raise UserError(
                f"data.bpe_vocab_size is {self.bpe_vocab_size}, but it must lie between {SMALLEST_BPE_VOCAB} (the "
                f"bytes) and {LARGEST_BPE_VOCAB}: for instance data.bpe_vocab_size=2048."
            )
        _at_least_one("data.context_length", self.context_length, example=128)
        _at_least_one("data.batch_size", self.batch_size, example=32)
        self._check_path()

    def _check_path(self) -> None:
        if self.corpus == "text" and not self.path:
            raise UserError("data=text needs to know which text: add data.path=FILE, FOLDER or a quoted glob.")
        if self.corpus != "text" and self.path is not None:
            raise UserError(
                f"data.path={self.path} is only read by data=text, but data.corpus is '{self.corpus}': "
                f"type data=text data.path={self.path}."
            )


def _at_least_one(key: str, value: int, example: int) -> None:
    if value < 1:
        raise UserError(f"{key} is {value}, but it must be at least 1: for instance {key}={example}.")
