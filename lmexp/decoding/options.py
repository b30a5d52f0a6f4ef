"""How chance is shaped when a token is drawn: the one place where the defaults stand. Imports nothing heavy."""

from dataclasses import dataclass

from lmexp.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from the logits. None turns a part off.

    The parts act in this order, each on what the one before it left, renormalised: repetition penalty, temperature,
    top-k, top-p, min-p.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token every time.
        top_k: keep this many likeliest tokens (Fan et al. 2018).
        top_p: keep the fewest likeliest tokens whose probabilities add up to this (Holtzman et al. 2020).
        min_p: keep tokens at least this probable, as a share of the likeliest one's probability (Nguyen et al. 2024).
        repetition_penalty: logits of tokens that the text has already, prompt included, are divided by it where
            positive and multiplied by it where negative (Keskar et al. 2019, "CTRL", in Hugging Face's form).
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(
                f"A temperature of {self.temperature} is out of range: choose 0 (the likeliest token) or above."
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(
                f"A top-k of {self.top_k} is out of range: choose 1 or more, or leave it out to draw from all tokens."
            )
        for name, value in (("top-p", self.top_p), ("min-p", self.min_p)):
            if value is not None and not 0 < value <= 1:
                raise UserError(f"A {name} of {value} is out of range: choose above 0 and at most 1, or leave it out.")
        if self.repetition_penalty is not None and not 0 < self.repetition_penalty < float("inf"):
            raise UserError(
                f"A repetition penalty of {self.repetition_penalty} is out of range: choose above 1 to discourage "
                "repetition, such as 1.2, or leave it out."
            )

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken every time, so that seeds do not matter."""
        return self.temperature == 0
