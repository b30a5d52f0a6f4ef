"""A polite stop loses as little as Ctrl-C: closing the terminal, or a batch system's SIGTERM."""

import signal
import time
from types import FrameType

# A terminal and the program that started us (`uv run`, timeout) each pass the same Ctrl-C on: the second must not break
# off what saves the rows. Whoever means it again waits this long.
_SAME_STOP_SECONDS = 5.0


def take_stops_as_interrupts() -> None:
    """Raise KeyboardInterrupt in the main thread on SIGINT, SIGTERM and SIGHUP, unless ignored (as under nohup).

    More of them within five seconds are the same stop, and are passed over.
    """
    stopped_at = -_SAME_STOP_SECONDS

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped_at
        now = time.monotonic()
        if now - stopped_at >= _SAME_STOP_SECONDS:
            stopped_at = now
            raise KeyboardInterrupt

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        given = getattr(signal, name, None)
        if given is not None and signal.getsignal(given) is not signal.SIG_IGN:
            signal.signal(given, stop)
