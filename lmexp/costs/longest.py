"""The longest sequence whose next token still fits into a given memory, found in a process of its own."""

import pickle
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from lmexp.errors import UserError
from lmexp.model.spec import ADDED_POSITIONS, ModelSpec

_SHORTEST = 64
_MOST_TOKENS = 1 << 24  # where the search ends for a model whose memory does not grow with the text
_PRECISION = 64  # the search ends when it knows the length to one part in so many


@dataclass(frozen=True)
class Task:
    """What the child is to build and how much memory it may have."""

    spec: ModelSpec
    vocab_size: int
    padded_vocab_size: int
    context_length: int
    dtype: str
    memory_limit_bytes: int


def longest_length(task: Task) -> int:
    """Return the longest sequence, in tokens, whose last token can be generated within the memory limit.

    The length is doubled, then halved between, down to 1 part in 64; every length tried is really allocated, and a
    decoding step really done at it. The same lengths are tried whatever the architecture, as far as the search goes.

    On a CPU under Linux the operating system enforces the limit: it bounds the private memory of the whole child
    process (RLIMIT_DATA: Python, the BLAS's buffers, weights, caches), and the child dies where it does not suffice.
    Elsewhere nothing can enforce it, since MLX takes its own limit as advice: there what MLX's allocator gave out at
    the peak of the step is compared with it, and a length that is tried and does not fit may take twice the limit.

    Raises:
        UserError: not even the shortest sequence fits.
    """
    bound = task.context_length if task.spec.position in ADDED_POSITIONS else _MOST_TOKENS
    with _Child(task) as child:
        fits, too_long = 0, min(_SHORTEST, bound)
        while fits < bound and child.holds(too_long):
            fits, too_long = too_long, min(2 * too_long, bound)
        if fits == 0:
            raise UserError(
                f"decode.memory_limit_bytes={task.memory_limit_bytes} does not hold the model and {too_long} tokens: "
                "choose more, or null to look for no longest sequence."
            )
        while too_long - fits > max(1, fits // _PRECISION):
            middle = (fits + too_long) // 2
            fits, too_long = (middle, too_long) if child.holds(middle) else (fits, middle)
        return fits


def is_enforced() -> bool:
    """Tell whether the operating system enforces the limit on a process that computes where this one does."""
    import mlx.core as mx

    return sys.platform == "linux" and mx.default_device() == mx.cpu


class _Child:
    """A process that answers whether a length fits, or dies of it; a new one for each question, see ``child``."""

    def __init__(self, task: Task):
        self._task = task
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def holds(self, length: int) -> bool:
        """Tell whether the child could generate the last token of a sequence of this length."""
        process = self._process = self._start()
        self._say(process, b"%d\n" % length)
        assert process.stdout is not None
        answer = process.stdout.readline()
        self._process = None
        if answer:
            process.kill()
            process.communicate()
        else:
            _check_death(process)
        return answer == b"fits\n"

    def _start(self) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "lmexp.costs.child"]
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        self._say(process, pickle.dumps(self._task))
        return process

    def _say(self, process: subprocess.Popen[bytes], words: bytes) -> None:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it died already, which its silence will tell
            process.stdin.write(words)
            process.stdin.flush()


def _check_death(process: subprocess.Popen[bytes]) -> None:
    """Raise RuntimeError when a child died of something else than the limit."""
    said = process.communicate()[1].decode(errors="replace").strip()
    out_of_memory = process.returncode < 0 or "MemoryError" in said or "alloc" in said  # MLX mostly dies by a signal
    if not (is_enforced() and out_of_memory):
        raise RuntimeError(f"the search for the longest sequence ended with code {process.returncode}: {said[-500:]}")
