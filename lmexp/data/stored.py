"""Tokenizers read back from what they wrote."""

import base64
import json
from pathlib import Path
from typing import Any

from lmexp.data.published import PublishedTokenizer
from lmexp.data.tokenizer import FILE_NAME, BytePairTokenizer, ByteTokenizer, CharTokenizer, Tokenizer
from lmexp.errors import UserError


def from_description(description: dict[str, Any]) -> Tokenizer:
    """Rebuild a tokenizer from its ``description()``.

    Raises:
        ValueError: if the kind is unknown.
        KeyError: if the description lacks a part.
    """
    kind = description["kind"]
    if kind == "byte":
        return ByteTokenizer()
    if kind == "char":
        return CharTokenizer(description["characters"])
    if kind in ("bpe", "gpt2"):
        pieces = [base64.b64decode(piece) for piece in description["pieces"].split(" ")]
        return BytePairTokenizer(kind, description["pattern"], pieces)
    if kind == "published":
        return PublishedTokenizer(description["file"])
    raise ValueError(f"unknown kind of tokenizer: {kind!r}")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read back what ``Tokenizer.save`` wrote.

    Raises:
        UserError: if the file is missing or damaged.
    """
    file = Path(folder) / FILE_NAME
    try:
        return from_description(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UserError(f"There is no {FILE_NAME} in {folder}: name the folder of a finished run.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged ({error}): copy it from another run of the same arm, or run again."
        ) from error
