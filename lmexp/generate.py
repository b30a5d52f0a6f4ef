"""Text from a finished run."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx.core as mx

from lmexp.config import load
from lmexp.data import Tokenizer, load_tokenizer
from lmexp.decoding.decoder import Decoder
from lmexp.decoding.options import Sampling
from lmexp.decoding.sampling import row_keys
from lmexp.decoding.text import TextStream
from lmexp.errors import UserError
from lmexp.model.language_model import LanguageModel
from lmexp.run import BEST, CHECKPOINT


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
    sampling: Sampling,
    seed: int = 0,
    stops: Sequence[str] = (),
) -> Iterator[str]:
    """Continue ``prompt`` and yield text as soon as whole characters are known that cannot become a stop string.

    Raises:
        UserError: an empty prompt, or a number out of range. Raised at the call, not at the first piece.
    """
    rows = stream_texts(model, tokenizer, [prompt], n_tokens, sampling, seed, stops)
    return (piece for _, piece in rows)


def stream_texts(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    n_tokens: int,
    sampling: Sampling,
    seed: int = 0,
    stops: Sequence[str] = (),
    n_samples: int = 1,
) -> Iterator[tuple[int, str]]:
    """Continue every prompt ``n_samples`` times, in one batch, and yield each row's text as it grows.

    A row's text depends on its prompt, the seed and which of the samples it is: neither on the other prompts nor on
    their order.

    Yields:
        The row (prompt 0's samples come first, then those of prompt 1) and the next piece of its text.

    Raises:
        UserError: an empty prompt, or a number out of range. Raised at the call, not at the first piece.
    """
    texts = [tokens for prompt in prompts for tokens in [encode(tokenizer, prompt)] * n_samples]
    keys = mx.concatenate([row_keys(seed, n_samples)] * len(prompts))
    decoder = Decoder(model, texts, n_tokens, sampling, keys)
    return _pieces(decoder, [TextStream(tokenizer.pieces, stops) for _ in texts])


def write(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    n_tokens: int,
    sampling: Sampling,
    seed: int = 0,
    stops: Sequence[str] = (),
) -> list[str]:
    """Return the continuation of each prompt; arguments and errors as ``stream_texts``."""
    texts = [""] * len(prompts)
    for row, piece in stream_texts(model, tokenizer, prompts, n_tokens, sampling, seed, stops):
        texts[row] += piece
    return texts


def encode(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return the prompt's tokens; an empty prompt is a UserError."""
    if not prompt:
        raise UserError("The prompt is empty; give at least one character with --prompt.")
    return tokenizer.encode(prompt).tolist()


def _pieces(decoder: Decoder, streams: Sequence[TextStream]) -> Iterator[tuple[int, str]]:
    for step in decoder:
        for token in step:
            stream = streams[token.row]
            if stream.stopped:  # one step was under way already
                continue
            yield token.row, stream.push(token.token)
            if stream.stopped:
                decoder.finish(token.row)
    for row, stream in enumerate(streams):
        yield row, stream.close()
