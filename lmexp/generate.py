"""Text from a finished run, or from a published model."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import mlx.core as mx

from lmexp.config import load
from lmexp.data import Tokenizer, load_tokenizer
from lmexp.decoding.decoder import Decoder
from lmexp.decoding.options import Sampling
from lmexp.decoding.sampling import row_keys
from lmexp.decoding.search import Candidate, sample_candidates
from lmexp.decoding.speculative import Acceptance, Draft, LookupDraft, ModelDraft, SpeculativeDecoder
from lmexp.decoding.text import TextStream
from lmexp.errors import UserError
from lmexp.model.language_model import LanguageModel
from lmexp.pretrained import load_pretrained
from lmexp.run import BEST, CHECKPOINT
from lmexp.streams import stream_seed

PUBLISHED = "config.json"  # what a folder in Hugging Face's format has, and a run's folder has not


def load_model(source: str | Path) -> tuple[LanguageModel, Tokenizer]:
    """Load a model and its tokenizer from a run's folder, a folder in Hugging Face's format, or a hub id.

    Raises:
        UserError: nothing of the kind, or one that has no weights or no tokenizer.
    """
    folder = Path(source).expanduser()
    is_hub_id = not folder.exists() and len(Path(source).parts) == 2
    if not folder.exists() and not is_hub_id:
        raise UserError(
            f"{source} does not exist: name a run's folder, such as those under results/, a folder in Hugging Face's "
            "format, or a hub id such as openai-community/gpt2."
        )
    if not is_hub_id and not (folder / PUBLISHED).exists():
        return load_run(folder)
    model, tokenizer = load_pretrained(source)
    if tokenizer is None:
        raise UserError(f"{source} has no tokenizer.json, so no text can be given to it: copy the file there.")
    if mx.default_device() == mx.cpu:  # where products of half precision are slow
        model.set_dtype(mx.float32)
    return model, tokenizer


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
    keys = mx.concatenate([_keys(prompt, seed, n_samples) for prompt in prompts])
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


def stream_with_draft(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    n_tokens: int,
    sampling: Sampling,
    draft: LanguageModel | None,
    n_guesses: int,
    seed: int = 0,
    stops: Sequence[str] = (),
) -> tuple[Iterator[str], Acceptance]:
    """Continue ``prompt`` as ``stream_text`` does, helped by a draft; texts have the same distribution.

    Args:
        model, tokenizer, prompt, n_tokens, sampling, seed, stops: as for ``stream_text``, errors too.
        draft: a model of the same vocabulary; None guesses what followed the last two tokens before.
        n_guesses: for each step of the model.

    Returns:
        The text, piece by piece, and how well the draft guessed so far.
    """
    tokens, key = encode(tokenizer, prompt), _keys(prompt, seed, 1)
    guesser: Draft = LookupDraft(tokens, model.vocab_size)
    if draft is not None:
        guesser = ModelDraft(draft, tokens, n_tokens, sampling, key)
    decoder = SpeculativeDecoder(model, guesser, tokens, n_tokens, sampling, key, n_guesses)
    return _pieces_of_one(decoder, TextStream(tokenizer.pieces, stops)), decoder.acceptance


def write_candidates(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    n_tokens: int,
    sampling: Sampling,
    n_samples: int,
    seed: int = 0,
    stops: Sequence[str] = (),
) -> list[tuple[str, Candidate]]:
    """Continue ``prompt`` ``n_samples`` times and return each text with its tokens and their log-probability.

    The texts are those of ``stream_texts``. Choose with :func:`lmexp.decoding.search.best_first` or ``majority``.
    """
    streams = [TextStream(tokenizer.pieces, stops) for _ in range(n_samples)]
    texts = [""] * n_samples

    def is_complete(row: int, token: int) -> bool:
        texts[row] += streams[row].push(token)
        return streams[row].stopped

    tokens, keys = encode(tokenizer, prompt), _keys(prompt, seed, n_samples)
    candidates = sample_candidates(model, tokens, n_tokens, sampling, keys, is_complete)
    texts = [text + stream.close() for text, stream in zip(texts, streams, strict=True)]
    return list(zip(texts, candidates, strict=True))


def encode(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return the prompt's tokens.

    Raises:
        UserError: an empty prompt, or one that is no text.
    """
    if not prompt:
        raise UserError("The prompt is empty; give at least one character with --prompt.")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError("The prompt is not UTF-8; give it in that encoding.") from error
    return tokenizer.encode(prompt).tolist()


def _keys(prompt: str, seed: int, n_samples: int) -> mx.array:
    """Return the keys of a prompt's samples: other prompts have others, whatever their place among them."""
    return row_keys(stream_seed(seed, prompt), n_samples)


def _pieces(decoder: Decoder, streams: Sequence[TextStream]) -> Iterator[tuple[int, str]]:
    for step in decoder:
        for token in step:
            stream = streams[token.row]
            yield token.row, stream.push(token.token)
            if stream.stopped:
                decoder.finish(token.row)
    for row, stream in enumerate(streams):
        yield row, stream.close()


def _pieces_of_one(tokens: Iterable[int], stream: TextStream) -> Iterator[str]:
    for token in tokens:
        yield stream.push(token)
        if stream.stopped:
            return
    yield stream.close()
