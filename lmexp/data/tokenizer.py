"""Text to tokens and back. Every tokenizer is lossless on any text and knows how many bytes each token stands for."""

import base64
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lmexp.errors import UserError
from lmexp.files import cache_folder, shared_data, write_atomic

if TYPE_CHECKING:
    import tiktoken

FORMAT = 1  # raise it when any tokenizer would cut a text differently: it is part of the key of cached tokens
FILE_NAME = "tokenizer.json"
PADDING_MULTIPLE = 64  # tokens; matrix products are fastest when the vocabulary is a multiple of this

# How text is cut before pairs of bytes are merged; no merge crosses a cut. As in GPT-2 a word carries the space before
# it. Unlike GPT-2 it also carries an apostrophe ('tis, o'er, call'd), and line breaks cling to the punctuation before
# them: the end of a speech is one token where GPT-2's cut needs three (6% fewer tokens on the plays at 2,048).
WORDS = r" ?'?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+\n*|\s*\n+|\s+(?!\S)|\s+"


class Tokenizer(Protocol):
    """What the rest of the laboratory may ask of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""

    @property
    def padded_vocab_size(self) -> int:
        """The vocabulary rounded up to a multiple of 64; ids from ``vocab_size`` on stand for nothing."""

    @property
    def pieces(self) -> Sequence[bytes]:
        """The bytes that each token stands for, ``vocab_size`` of them: a text is their concatenation."""

    @property
    def byte_lengths(self) -> np.ndarray:
        """(vocab_size,) int32: how many UTF-8 bytes each token stands for."""

    def encode(self, text: str) -> np.ndarray:
        """Return (tokens,) int32 such that ``decode(encode(text)) == text``."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text; bytes that are not UTF-8 are shown as U+FFFD."""

    def description(self) -> dict[str, Any]:
        """Return all that ``from_description`` needs, ready for json."""

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` to an existing folder: `lmexp.data.stored.load_tokenizer` needs nothing else."""


class PieceTokenizer:
    """What all tokenizers share: a token is a piece, a fixed string of bytes."""

    def __init__(self, pieces: Sequence[bytes]):
        self._pieces = tuple(pieces)

    @property
    def pieces(self) -> Sequence[bytes]:
        """The bytes that each token stands for, ``vocab_size`` of them: a text is their concatenation."""
        return self._pieces

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return len(self._pieces)

    @property
    def padded_vocab_size(self) -> int:
        """The vocabulary rounded up to a multiple of 64; ids from ``vocab_size`` on stand for nothing."""
        return -(-self.vocab_size // PADDING_MULTIPLE) * PADDING_MULTIPLE

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """(vocab_size,) int32: how many UTF-8 bytes each token stands for."""
        return np.array([len(piece) for piece in self._pieces], np.int32)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text; bytes that are not UTF-8 are shown as U+FFFD."""
        return b"".join(self._pieces[token] for token in tokens).decode("utf-8", errors="replace")

    def description(self) -> dict[str, Any]:
        """Return all that ``from_description`` needs, ready for json."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` to an existing folder: `lmexp.data.stored.load_tokenizer` needs nothing else."""
        write_atomic(folder / FILE_NAME, lambda path: path.write_bytes(json.dumps(self.description()).encode()))


_BYTES = tuple(bytes([value]) for value in range(256))


class ByteTokenizer(PieceTokenizer):
    """Token i is byte i."""

    def __init__(self) -> None:
        super().__init__(_BYTES)

    def encode(self, text: str) -> np.ndarray:
        """Return (bytes,) int32."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def description(self) -> dict[str, Any]:
        """Return all that ``from_description`` needs, ready for json."""
        return {"kind": "byte"}


class CharTokenizer(PieceTokenizer):
    """The 256 bytes, then a token for each character of the training text that takes more than one byte.

    A character of one byte is its byte's token. A character that the training text lacks is spelled in bytes, so that
    any text can be encoded; in a text of ASCII this is the byte tokenizer.
    """

    def __init__(self, characters: str):
        self._characters = "".join(sorted(set(characters) - set(map(chr, range(128)))))
        super().__init__([*_BYTES, *(character.encode() for character in self._characters)])
        self._ids = {character: 256 + index for index, character in enumerate(self._characters)}

    def encode(self, text: str) -> np.ndarray:
        """Return (tokens,) int32: one per known character, one per byte of an unknown one."""
        if text.isascii():
            return np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        codes, where = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_inverse=True)
        spellings = [self._spelling(chr(code)) for code in codes]
        lengths = np.array([len(spelling) for spelling in spellings], np.int64)
        first = np.cumsum(lengths) - lengths  # where each spelling starts in their concatenation
        flat = np.array([token for spelling in spellings for token in spelling], np.int32)
        written = lengths[where]
        position_in_spelling = np.arange(written.sum()) - np.repeat(np.cumsum(written) - written, written)
        return flat[np.repeat(first[where], written) + position_in_spelling]

    def description(self) -> dict[str, Any]:
        """Return all that ``from_description`` needs, ready for json."""
        return {"kind": "char", "characters": self._characters}

    def _spelling(self, character: str) -> Sequence[int]:
        return [self._ids[character]] if character in self._ids else character.encode()


class BytePairTokenizer(PieceTokenizer):
    """Byte-level byte-pair encoding: of two neighbours inside a cut, the pair whose union has the lowest id is merged.

    Args:
        kind: ``"bpe"`` or ``"gpt2"``.
        pattern: the regular expression that cuts a text before merging; it matches every character.
        pieces: the bytes of each token, all 256 single bytes among them, in the order in which they were merged.
    """

    def __init__(self, kind: str, pattern: str, pieces: Sequence[bytes]):
        super().__init__(pieces)
        self._kind, self._pattern = kind, pattern

    def encode(self, text: str) -> np.ndarray:
        """Return (tokens,) int32."""
        return self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.int32)

    def description(self) -> dict[str, Any]:
        """Return all that ``from_description`` needs, ready for json (pieces in base64, parted by spaces)."""
        pieces = " ".join(base64.b64encode(piece).decode() for piece in self._pieces)
        return {"kind": self._kind, "pattern": self._pattern, "pieces": pieces}

    @cached_property
    def _encoding(self) -> "tiktoken.Encoding":
        """Built on the first use only: cached tokens are read without it."""
        import tiktoken

        ranks = {piece: rank for rank, piece in enumerate(self._pieces)}
        return tiktoken.Encoding(self._kind, pat_str=self._pattern, mergeable_ranks=ranks, special_tokens={})


def train_bpe(text: str, vocab_size: int) -> BytePairTokenizer:
    """Learn byte-pair merges from a text: the same text gives the same merges.

    Args:
        text: the training split; nothing else may be learnt from.
        vocab_size: tokens, 256 bytes included. A short text may yield fewer.
    """
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Trainee

    cut = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainee = Trainee(models.BPE())
    trainee.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    trainee.train_from_iterator(_lines(text), trainer)
    return BytePairTokenizer("bpe", WORDS, _merged_pieces(json.loads(trainee.to_str())["model"]["merges"]))


def load_gpt2(get_encoding: "Callable[[str], tiktoken.Encoding] | None" = None) -> BytePairTokenizer:
    """Return GPT-2's 50,257 tokens, read by tiktoken (downloaded once, unless found as ``_tiktoken_cache`` says).

    The last is ``<|endoftext|>``. No text encodes to it, not even its own name.

    Args:
        get_encoding: stands in for ``tiktoken.get_encoding``.

    Raises:
        UserError: if the vocabulary is neither on disk nor to be had from the network.
    """
    import tiktoken

    with _tiktoken_cache() as folder:
        try:
            encoding = (get_encoding or tiktoken.get_encoding)("gpt2")
        except OSError as error:  # requests' errors are OSErrors
            raise UserError(
                f"GPT-2's vocabulary is not in {folder} and cannot be downloaded ({error.__class__.__name__}): connect "
                "once, or copy the folder tiktoken/ of a machine that has it and name its parent in LMEXP_DATA, or "
                "choose data.tokenizer=bpe."
            ) from error
    pieces = [encoding.decode_single_token_bytes(token) for token in range(encoding.n_vocab)]
    return BytePairTokenizer("gpt2", encoding._pat_str, pieces)


def _lines(text: str) -> list[str]:
    """Cut where the pattern WORDS always cuts (after line breaks), so that training may take the text in parts."""
    return re.split(r"(?<=\n)(?=\S)", text)


def _merged_pieces(merges: list[list[str]]) -> list[bytes]:
    """Return the 256 bytes and then each merge as bytes; the library writes a byte as one printable character."""
    byte_of = byte_of_printable()
    joined = (bytes(byte_of[character] for character in left + right) for left, right in merges)
    return list(dict.fromkeys([*_BYTES, *joined]))


def byte_of_printable() -> dict[str, int]:
    """Return GPT-2's table: printable Latin-1 stands for itself, the other bytes for U+0100 onwards in order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(256 + i): value for i, value in enumerate(others)}


@contextmanager
def _tiktoken_cache() -> Iterator[str]:
    """Tell tiktoken where its files are: TIKTOKEN_CACHE_DIR, else ``tiktoken`` under LMEXP_DATA, else our cache."""
    if "TIKTOKEN_CACHE_DIR" in os.environ:
        yield os.environ["TIKTOKEN_CACHE_DIR"]
        return
    os.environ["TIKTOKEN_CACHE_DIR"] = str(shared_data("tiktoken") or cache_folder("tiktoken"))
    try:
        yield os.environ["TIKTOKEN_CACHE_DIR"]
    finally:
        del os.environ["TIKTOKEN_CACHE_DIR"]
