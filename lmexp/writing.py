"""What ``lmexp generate`` prints: texts on the standard output as they grow, remarks on the error output."""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lmexp.data import Tokenizer
from lmexp.decoding.options import Sampling
from lmexp.decoding.search import answer_in, beam_search, best_first, majority
from lmexp.decoding.text import TextStream
from lmexp.errors import UserError
from lmexp.generate import encode, load_model, stream_texts, stream_with_draft, write_candidates
from lmexp.model.language_model import LanguageModel

LOOKUP = "lookup"  # the draft that needs no model
_DRAFT_TOKENS = 4
_CHANCE = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_SEVERAL = ("samples", "best_of", "majority", "beams")


def print_texts(asked: Namespace) -> int:
    """Carry out ``lmexp generate``; ``asked`` are its parsed arguments. Return the exit code.

    Raises:
        UserError: values out of range, options that contradict each other, or a run that cannot be loaded.
    """
    _check(asked)
    sampling = Sampling(**{name: value for name in _CHANCE if (value := getattr(asked, name)) is not None})
    model, tokenizer = load_model(asked.run)
    writer = _Writer(model, tokenizer, asked, sampling, _load_draft(asked, tokenizer))
    for prompts in _prompts(asked):
        writer.write(prompts)
    return 0


@dataclass(frozen=True)
class _Writer:
    """A model and what was asked of it."""

    model: LanguageModel
    tokenizer: Tokenizer
    asked: Namespace
    sampling: Sampling
    draft: LanguageModel | None

    def write(self, prompts: Sequence[str]) -> None:
        """Print what continues each prompt, after it."""
        if self.asked.draft or self.asked.best_of or self.asked.majority or self.asked.beams:
            for place, prompt in enumerate(prompts):
                _print_title(place, prompts)
                self._write_one(prompt)
        else:
            self._write_batch(prompts)

    def _write_one(self, prompt: str) -> None:
        if self.asked.draft:
            self._write_with_draft(prompt)
        elif self.asked.beams:
            self._write_by_beams(prompt)
        else:
            self._write_chosen(prompt)

    def _write_batch(self, prompts: Sequence[str]) -> None:
        """Print the first text as it grows, the others, which grow beside it, after it."""
        n_samples = self.asked.samples or 1
        pieces = stream_texts(
            self.model, self.tokenizer, prompts, self.asked.tokens, self.sampling, self._seed, self._stops, n_samples
        )
        of_rows = [prompt for prompt in prompts for _ in range(n_samples)]
        texts = [""] * len(of_rows)
        _print_title(0, of_rows)
        _print_piece(of_rows[0])
        for row, piece in pieces:
            texts[row] += piece
            if row == 0:
                _print_piece(piece)
        print()
        for row in range(1, len(of_rows)):
            _print_title(row, of_rows)
            print(of_rows[row] + texts[row])

    def _write_with_draft(self, prompt: str) -> None:
        n_guesses = _DRAFT_TOKENS if self.asked.draft_tokens is None else self.asked.draft_tokens
        pieces, acceptance = stream_with_draft(
            self.model,
            self.tokenizer,
            prompt,
            self.asked.tokens,
            self.sampling,
            self.draft,
            n_guesses,
            self._seed,
            self._stops,
        )
        _print_piece(prompt)
        for piece in pieces:
            _print_piece(piece)
        print()
        _remark(f"draft: {acceptance}")

    def _write_by_beams(self, prompt: str) -> None:
        found = beam_search(self.model, encode(self.tokenizer, prompt), self.asked.tokens, self.asked.beams)
        stream = TextStream(self.tokenizer.pieces)
        print(prompt + "".join(map(stream.push, found[0].tokens)) + stream.close())
        _remark(f"the best of {self.asked.beams} beams: {_nats(found[0].mean_log_probability)} per token")

    def _write_chosen(self, prompt: str) -> None:
        n_samples = self.asked.best_of or self.asked.majority
        pairs = write_candidates(
            self.model, self.tokenizer, prompt, self.asked.tokens, self.sampling, n_samples, self._seed, self._stops
        )
        texts, candidates = zip(*pairs, strict=True)
        if self.asked.best_of:
            order = best_first(candidates)
            means = [_nats(candidates[place].mean_log_probability) for place in (order[0], order[-1])]
            chosen, remark = order[0], f"the best of {n_samples}: {means[0]} per token; the worst: {means[1]}"
        else:
            chosen, remark = self._elect(texts)
        print(prompt + texts[chosen])
        _remark(remark)

    def _elect(self, texts: Sequence[str]) -> tuple[int, str]:
        answers = [answer_in(text, self.asked.answer) for text in texts]
        elected = majority(answers)
        if elected is None:
            return 0, f"none of {len(texts)} texts has an answer; this is the first"
        return elected.place, f"{elected.votes} of {len(texts)} texts say: {answers[elected.place]}"

    @property
    def _seed(self) -> int:
        return self.asked.seed or 0

    @property
    def _stops(self) -> Sequence[str]:
        return self.asked.stop or ()


def _prompts(asked: Namespace) -> Iterator[Sequence[str]]:
    if not asked.interactive:
        yield asked.prompt or ["\n"]
        return
    _remark("a line is a prompt; an empty line or Ctrl-D ends.")
    while line := sys.stdin.readline().rstrip("\n"):
        yield [line]


def _load_draft(asked: Namespace, tokenizer: Tokenizer) -> LanguageModel | None:
    if asked.draft in (None, LOOKUP):
        return None
    draft, its_tokenizer = load_model(asked.draft)
    if list(its_tokenizer.pieces) != list(tokenizer.pieces):
        raise UserError(
            f"{asked.draft} has other tokens than {asked.run}: choose a draft of the same tokenizer, or `lookup`."
        )
    return draft


def _check(asked: Namespace) -> None:
    """Refuse options that contradict each other, or that nothing would read."""
    chance = [_flag(name) for name in (*_CHANCE, "seed", "stop", "draft") if getattr(asked, name) is not None]
    if asked.beams is not None and chance:
        raise UserError(f"--beams leaves nothing to chance and runs to the last token: leave out {', '.join(chance)}.")
    for name in _SEVERAL:
        value = getattr(asked, name)
        if value is not None and value < 1:
            raise UserError(f"{_flag(name)} {value} is out of range: choose 1 or more.")
        if value is not None and asked.draft is not None:
            raise UserError(f"--draft writes one text at a time: leave out {_flag(name)}, or --draft.")
    if asked.temperature == 0 and (asked.best_of or asked.majority):
        raise UserError("At --temperature 0 all texts are the same, so none is better: choose above 0.")
    for name, owner in (("answer", "majority"), ("draft_tokens", "draft")):
        if getattr(asked, name) is not None and getattr(asked, owner) is None:
            raise UserError(f"{_flag(name)} is read with {_flag(owner)} only: add that, or leave it out.")
    if asked.interactive and asked.prompt:
        raise UserError("--interactive reads prompts from the terminal: leave out --prompt, or --interactive.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _nats(log_probability: float) -> str:
    return f"log-probability {log_probability:.3f} nats"


def _print_title(place: int, prompts: Sequence[str]) -> None:
    if len(prompts) > 1:
        print(f"--- {place + 1} of {len(prompts)} ---")


def _print_piece(text: str) -> None:
    print(text, end="", flush=True)


def _remark(text: str) -> None:
    print(f"lmexp: {text}", file=sys.stderr)
