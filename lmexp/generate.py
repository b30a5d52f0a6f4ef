"""Text from a finished run."""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx

from lmexp.config import load
from lmexp.data import Tokenizer, load_tokenizer
from lmexp.errors import UserError
from lmexp.model.language_model import LanguageModel
from lmexp.model.sampling import generate
from lmexp.run import BEST, CHECKPOINT
from lmexp.streams import stream_seed


def load_run(folder: Path) -> tuple[LanguageModel, Tokenizer]:
    """Load the best weights of a run and their tokenizer. The corpus is not needed.

    Raises:
        UserError: not a run's folder, or a run that has no weights.
    """
    config = load(folder).config
    weights = folder / CHECKPOINT / BEST
    if not weights.exists():
        raise UserError(f"{folder} has no weights: the run has not got that far; run it first.")
    tokenizer = load_tokenizer(folder / CHECKPOINT)
    model = LanguageModel(config.model, tokenizer.vocab_size, tokenizer.padded_vocab_size, config.data.context_length)
    try:
        model.load_weights(str(weights))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{weights} is damaged ({' '.join(str(error).split())}); move {folder} away and run again."
        ) from error
    return model, tokenizer


def stream_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    n_tokens: int,
    temperature: float,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[str]:
    """Continue ``prompt`` and yield text as soon as whole characters are known.

    A character may be split over tokens: what does not decode yet is held back until it does, or until the end.

    Raises:
        UserError: an empty prompt, or a number out of range. Raised at the call, not at the first piece.
    """
    if not prompt:
        raise UserError("The prompt is empty; give at least one character with --prompt.")
    key = mx.random.key(stream_seed(seed, "sampling"))
    sampled = generate(model, tokenizer.encode(prompt).tolist(), n_tokens, temperature, top_k, key)
    return _pieces(tokenizer, sampled)


def _pieces(tokenizer: Tokenizer, sampled: Iterator[int]) -> Iterator[str]:
    tokens: list[int] = []
    said = ""
    for token in sampled:
        tokens.append(token)
        text = tokenizer.decode(tokens)
        whole = text.rstrip("\ufffd")
        yield whole[len(said) :]
        said = whole
    yield tokenizer.decode(tokens)[len(said) :]
