"""What a run measures that trains nothing."""

from dataclasses import dataclass

from lmexp.errors import UserError

UNCOUNTED_TOKENS = 5  # at the start of a generation
_FEWEST_TOKENS = 16


@dataclass(frozen=True)
class DecodeSpec:
    """Generation against the clock, in place of training.

    Attributes:
        n_tokens: length of the sequence: a prompt of one token, the others generated one by one; None: the run trains.
        memory_limit_bytes: of the child process that looks for the longest sequence; None: nobody looks.
    """

    n_tokens: int | None
    memory_limit_bytes: int | None

    def __post_init__(self) -> None:
        if self.n_tokens is not None and self.n_tokens < _FEWEST_TOKENS:
            raise UserError(
                f"decode.n_tokens={self.n_tokens} is too short to time (the first {UNCOUNTED_TOKENS} do not count): "
                f"choose {_FEWEST_TOKENS} or more."
            )
        if self.memory_limit_bytes is not None and self.memory_limit_bytes < 1:
            raise UserError(
                f"decode.memory_limit_bytes={self.memory_limit_bytes} is too small: choose for instance 1073741824 "
                "(1 GiB), or null to look for no longest sequence."
            )
