"""Tokenizers published beside weights, as a Hugging Face ``tokenizer.json``."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from lmexp.data.tokenizer import PieceTokenizer, byte_of_printable

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes one


class PublishedTokenizer(PieceTokenizer):
    """Text to the tokens that a published model was trained on, and back.

    It marks the start of a text as the file says (LLaMA's begins with a token of its own). Such marks have no bytes:
    they are left out of a decoded text.

    Args:
        file: the content of a ``tokenizer.json``.

    Raises:
        ValueError: not such a file.
    """

    def __init__(self, file: str):
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Any = Tokenizer.from_str(file)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(str(error)) from error
        self._file = file
        super().__init__(_pieces(json.loads(file), self._tokenizer.get_vocab(with_added_tokens=True)))

    def encode(self, text: str) -> np.ndarray:
        """Return (tokens,) int32."""
        return np.array(self._tokenizer.encode(text).ids, np.int32)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text; bytes that are not UTF-8 are shown as U+FFFD, and a space that only opens a text is not."""
        return str(self._tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True))

    def description(self) -> dict[str, Any]:
        """Return all that ``from_description`` needs, ready for json."""
        return {"kind": "published", "file": self._file}


def _pieces(file: dict[str, Any], ids: dict[str, int]) -> list[bytes]:
    """Return the bytes of every token up to the highest; those that the file skips, and marks, have none."""
    added = {token["id"]: b"" if token["special"] else token["content"].encode() for token in file["added_tokens"]}
    spelled = _by_printable if '"ByteLevel"' in json.dumps(file["decoder"]) else _by_sentence_piece
    pieces = [b""] * (1 + max(ids.values()))
    for name, token in ids.items():
        pieces[token] = added[token] if token in added else spelled(name)
    return pieces


def _by_printable(name: str) -> bytes:
    """GPT-2's way: every byte is one printable character."""
    return bytes(_BYTE_OF[character] for character in name)


def _by_sentence_piece(name: str) -> bytes:
    """SentencePiece's way: text with a mark for the space, or one byte in hexadecimal."""
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return bytes([int(name[3:5], 16)])
    return name.replace(_SPACE, " ").encode()


_BYTE_OF = byte_of_printable()
