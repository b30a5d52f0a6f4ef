"""A polite stop loses as little as Ctrl-C: closing the terminal, or a batch system's SIGTERM."""

import signal


def take_stops_as_interrupts() -> None:
    """Raise KeyboardInterrupt in the main thread on SIGTERM and SIGHUP, unless they are ignored (as under nohup)."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
