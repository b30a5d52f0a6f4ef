"""More than one text for one prompt, and which of them to believe: best of n, a majority, beam search."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import mlx.core as mx

from lmexp.decoding.context import Context
from lmexp.decoding.decoder import Decoder, check_n_tokens
from lmexp.decoding.options import Sampling
from lmexp.errors import UserError
from lmexp.model.language_model import LanguageModel


@dataclass(frozen=True)
class Candidate:
    """One continuation.

    Attributes:
        tokens: what was added to the prompt, the end token included where there is one.
        log_probability: of all of them under the model, before any of the sampling's options; in nats.
    """

    tokens: list[int]
    log_probability: float

    @property
    def mean_log_probability(self) -> float:
        """Nats per token, so that length neither helps nor harms."""
        return self.log_probability / max(1, len(self.tokens))


def sample_candidates(
    model: LanguageModel,
    prompt: Sequence[int],
    n_tokens: int,
    sampling: Sampling,
    keys: mx.array,
    is_complete: Callable[[int, int], bool] = lambda row, token: False,
) -> list[Candidate]:
    """Draw continuations of one prompt, which is read once.

    Args:
        model, prompt, n_tokens, sampling: as for :class:`lmexp.decoding.decoder.Decoder`, errors too.
        keys: (n, 2), one for each.
        is_complete: told each row's tokens as they come; the row ends with the token for which it says so.

    Returns:
        n candidates, in the order of their keys.
    """
    decoder = Decoder(model, [prompt] * len(keys), n_tokens, sampling, keys)
    tokens: list[list[int]] = [[] for _ in keys]
    totals = [0.0] * len(keys)
    for step in decoder:
        for row, token, log_probability in step:
            tokens[row].append(token)
            totals[row] += log_probability
            if is_complete(row, token):
                decoder.finish(row)
    return [Candidate(*fields) for fields in zip(tokens, totals, strict=True)]


def best_first(
    candidates: Sequence[Candidate], score: Callable[[Candidate], float] = lambda one: one.mean_log_probability
) -> list[int]:
    """Return the places of the candidates, the highest score first (of equals, the first)."""
    return sorted(range(len(candidates)), key=lambda place: -score(candidates[place]))


class Elected(NamedTuple):
    """The place of the answer that won, and how many agree with it."""

    place: int
    votes: int


def majority(answers: Sequence[str | None]) -> Elected | None:
    """Return the first answer that most agree with, or None where nobody has one.

    Answers agree that are equal but for case and white space; of equally common ones the first wins. Source: Wang et
    al. 2023, "Self-Consistency Improves Chain of Thought Reasoning in Language Models".
    """
    normal = [None if answer is None else " ".join(answer.split()).casefold() for answer in answers]
    votes = Counter(answer for answer in normal if answer is not None)
    if not votes:
        return None
    winner, n_votes = votes.most_common(1)[0]
    return Elected(normal.index(winner), n_votes)


def answer_in(text: str, pattern: str | None = None) -> str | None:
    """Return a text's answer: the last match of a pattern (its first group, if it has one), or else the last line.

    Returns:
        None where the pattern is not found, or every line is empty.

    Raises:
        UserError: a pattern that is no regular expression.
    """
    if pattern is None:
        lines = [line for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else None
    try:
        matches = list(re.finditer(pattern, text))
    except re.error as error:
        raise UserError(
            f"'{pattern}' is not a regular expression ({error}): give one such as 'answer: (.*)'."
        ) from error
    return matches[-1][min(1, len(matches[-1].groups()))] if matches else None


def beam_search(
    model: LanguageModel, prompt: Sequence[int], n_tokens: int, n_beams: int, end_tokens: Collection[int] = ()
) -> list[Candidate]:
    """Look for the continuation with the highest mean log-probability, keeping the ``n_beams`` best at every length.

    One beam is greedy decoding; as many as there are texts of ``n_tokens - 1`` find the true maximum. The search ends
    early once no text still open can overtake.

    Args:
        model: whose vocabulary the tokens belong to.
        prompt: at least one token.
        n_tokens: at most so many are added.
        n_beams: texts kept.
        end_tokens: a text that reaches one of them is complete.

    Returns:
        At most ``n_beams`` candidates, the best first.

    Raises:
        UserError: for an empty prompt, or a number out of its range.
        ValueError: for a prompt token outside the vocabulary.
    """
    check_n_tokens(n_tokens)
    if n_beams < 1:
        raise UserError(f"A search with {n_beams} beams is out of range: choose 1 or more, such as 4.")
    context, beams, complete = Context(model, [prompt], n_tokens), [Candidate([], 0.0)], list[Candidate]()
    for _ in range(n_tokens):
        open_texts = _extensions(beams, context.logits, n_beams, end_tokens, complete)
        complete = _best(complete, n_beams)
        beams = [text for _, text in open_texts]
        if not beams or _is_decided(complete, beams, n_beams, n_tokens):
            break
        context.keep([parent for parent, _ in open_texts])
        context.append(mx.array([text.tokens[-1] for text in beams], dtype=mx.int32))
    return _best([*complete, *beams], n_beams)


def _extensions(
    beams: list[Candidate], logits: mx.array, n_beams: int, end_tokens: Collection[int], complete: list[Candidate]
) -> list[tuple[int, Candidate]]:
    """Return the best texts of one more token, each with the beam it comes from; add those that end to ``complete``."""
    vocab_size = logits.shape[-1]
    logits = logits.astype(mx.float32)
    totals = mx.array([beam.log_probability for beam in beams])[:, None]
    scores = (totals + logits - mx.logsumexp(logits, axis=-1, keepdims=True)).flatten()
    # So many that n_beams open ones are among them, even if every beam's end tokens come first.
    best = mx.argsort(-scores)[: n_beams + len(beams) * len(end_tokens)]
    open_texts: list[tuple[int, Candidate]] = []
    listed = cast(list[int], best.tolist()), cast(list[float], scores[best].tolist())
    for place, score in zip(*listed, strict=True):
        parent, token = divmod(place, vocab_size)
        text = Candidate([*beams[parent].tokens, token], score)
        if token in end_tokens:
            complete.append(text)
        elif len(open_texts) < n_beams:
            open_texts.append((parent, text))
    return open_texts


def _is_decided(complete: list[Candidate], beams: list[Candidate], n_beams: int, n_tokens: int) -> bool:
    """Tell whether no open text can still be among the best: at most, all its further tokens are certain."""
    hope = max(beam.log_probability for beam in beams) / n_tokens
    return len(complete) == n_beams and complete[-1].mean_log_probability >= hope


def _best(candidates: list[Candidate], n_beams: int) -> list[Candidate]:
    return [candidates[place] for place in best_first(candidates)[:n_beams]]
