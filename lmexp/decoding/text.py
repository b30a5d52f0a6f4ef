"""From tokens to text that can be printed at once: whole characters only, and nothing that may yet be a stop string."""

import codecs
from collections.abc import Sequence

from lmexp.errors import UserError


class TextStream:
    """Turns one row's tokens into text, piece by piece; the work for a token does not grow with the text.

    A character may be split over tokens: its bytes are held back until it is whole, or until ``close``. Bytes that are
    no UTF-8 are shown as U+FFFD, exactly as in decoding the whole text at once.

    Args:
        pieces: the bytes that each token stands for.
        stops: strings that end the text; none of them is shown.
    """

    def __init__(self, pieces: Sequence[bytes], stops: Sequence[str] = ()):
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met: the text is complete, and what follows is not shown."""
        return self._stops.met

    def push(self, token: int) -> str:
        """Take one token and return what can be shown by now."""
        return self._stops.push(self._decoder.decode(self._pieces[token]))

    def close(self) -> str:
        """Return what was held back, now that no more will come."""
        return self._stops.push(self._decoder.decode(b"", final=True)) + self._stops.close()


class StopStrings:
    """Shows a text up to the first stop string, whatever the pieces it comes in.

    The text ends where a stop string is complete for the first time, and shows what stands before that string; of
    several that end there, before the longest. What may yet become a stop string is held back.

    Raises:
        UserError: an empty stop string.
    """

    def __init__(self, stops: Sequence[str]):
        if not all(stops):
            raise UserError("A stop string is empty: give at least one character, or leave it out.")
        self._stops = tuple(stops)
        self._held = ""
        self.met = False

    def push(self, text: str) -> str:
        """Take more text and return what can be shown by now."""
        if self.met:
            return ""
        text = self._held + text
        found = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.met, self._held = True, ""
            return text[: min(found)[1]]
        shown = len(text) - self._longest_beginning(text)
        self._held = text[shown:]
        return text[:shown]

    def close(self) -> str:
        """Return what was held back, now that no more will come."""
        held, self._held = self._held, ""
        return held

    def _longest_beginning(self, text: str) -> int:
        """Return the length of the longest end of ``text`` that is the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        lengths = range(min(longest, len(text)), 0, -1)
        return next((length for length in lengths if any(stop.startswith(text[-length:]) for stop in self._stops)), 0)
