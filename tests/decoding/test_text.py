"""Laws of streaming text: however the bytes are split, the pieces make the whole, and nothing is shown too early."""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmexp.decoding.text import StopStrings, TextStream
from lmexp.errors import UserError

# Single bytes, whole characters, halves of them, and nothing.
PIECES = [
    *(bytes([byte]) for byte in range(256)),
    "é".encode(),
    "日本".encode(),
    b"\xf0\x9f\x98",
    b"\xf0\x9f",
    b"ab",
    b"",
]
TOKENS = st.lists(st.integers(0, len(PIECES) - 1) | st.integers(256, len(PIECES) - 1), max_size=30)
PLACES = st.lists(st.integers(0, 200), max_size=8)


def cut(whole, places):
    """Cut a text or bytes at these places."""
    marks = [0, *sorted(place % (len(whole) + 1) for place in places), len(whole)]
    return [whole[start:end] for start, end in itertools.pairwise(marks)]


def streamed(pieces, stops=()):
    stream = TextStream(pieces, stops)
    return [*(stream.push(token) for token in range(len(pieces))), stream.close()]


@given(TOKENS)
@settings(max_examples=300)
def test_pieces_make_the_text_whatever_the_bytes(tokens):
    pieces = [PIECES[token] for token in tokens]
    assert "".join(streamed(pieces)) == b"".join(pieces).decode("utf-8", errors="replace")


@given(st.text(), PLACES)
@example("😀日é", [1, 2, 3, 5, 6, 8])
@settings(max_examples=300)
def test_a_character_is_shown_when_it_is_whole_and_not_before(text, places):
    """No U+FFFD for a character that later completes, and nothing whole is held back."""
    parts = cut(text.encode(), places)
    stream, read, shown = TextStream(parts), b"", ""
    for token, part in enumerate(parts):
        read += part
        shown += stream.push(token)
        assert shown == read.decode("utf-8", errors="ignore")
    assert stream.close() == ""


def test_what_never_completes_is_shown_as_a_replacement():
    assert streamed([b"a\xf0\x9f", b"\x98"]) == ["a", "", "\ufffd"]
    assert streamed([b"\xe6\x97", b"!"]) == ["", "\ufffd!", ""]


def cut_by_definition(text, stops):
    """Read character by character; end where a stop string is complete, before the longest that is."""
    for end in range(len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            return text[: end - max(map(len, met))], True
    return text, False


@given(st.text("ab", max_size=25), st.lists(st.text("abc", min_size=1, max_size=5), max_size=3), PLACES)
@example("aab", ["aab", "ab", "abc"], [1, 2])
@settings(max_examples=500)
def test_stop_strings_cut_where_the_definition_does_however_the_text_comes(text, stops, places):
    expected, met = cut_by_definition(text, stops)
    finder, shown, read = StopStrings(stops), "", ""
    for part in cut(text, places):
        shown += finder.push(part)
        read += part
        assert expected.startswith(shown)
        if not finder.met:  # nothing is held back without need
            held = read[len(shown) :]
            assert any(stop.startswith(held) for stop in [held, *stops][bool(held) :])
    assert finder.met == met
    assert shown + finder.close() == expected


def test_stop_strings_are_met_across_tokens_and_inside_a_character():
    text = "one\n\nétwo".encode()
    assert streamed([text[:4], text[4:6], text[6:]], ["\n\né"]) == ["one", "", "", ""]


def test_a_beginning_that_comes_to_nothing_is_shown_after_all():
    assert streamed([b"a<", b"e", b"n!", b"<e"], ["<end>"]) == ["a", "", "<en!", "", "<e"]


def test_an_empty_stop_string_is_refused():
    with pytest.raises(UserError, match="stop string is empty"):
        StopStrings(["a", ""])
