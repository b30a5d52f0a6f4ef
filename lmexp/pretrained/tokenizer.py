"""The tokenizer that was published beside the weights."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lmexp.errors import UserError

FILE_NAME = "tokenizer.json"


class PublishedTokenizer:
    """A ``tokenizer.json``: text to the tokens that a published model was trained on, and back.

    It marks the start of a text as the file says (LLaMA's begins with a token of its own), and leaves such marks out of
    the text when it decodes.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, path: Path):
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"{path} is damaged ({error}): copy it again from where it was published.") from error

    @property
    def vocab_size(self) -> int:
        """One more than the highest token."""
        return 1 + int(max(self._tokenizer.get_vocab(with_added_tokens=True).values()))

    def encode(self, text: str) -> np.ndarray:
        """Return (tokens,) int32."""
        return np.array(self._tokenizer.encode(text).ids, np.int32)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text; bytes that are not UTF-8 are shown as U+FFFD."""
        return str(self._tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True))


def read_tokenizer(folder: Path) -> PublishedTokenizer | None:
    """Return the folder's tokenizer, or None if none was published with the weights."""
    path = folder / FILE_NAME
    return PublishedTokenizer(path) if path.exists() else None
