"""The corpora: where each text comes from, what identifies it, and how it is split."""

import glob
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lmexp.data import plays, synthetic
from lmexp.data.spec import DataSpec
from lmexp.errors import UserError
from lmexp.files import cache_folder, shared_data, write_atomic

_log = logging.getLogger(__name__)

TINY_FILE = "tiny_shakespeare.txt"
TINY_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINY_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
DOWNLOAD_TIMEOUT_SECONDS = 30

SYNTHETIC_TRAIN_BYTES = 2_000_000
SYNTHETIC_HELD_OUT_BYTES = 100_000  # each of val and test; an exact model's cost on them is within 1% of the rate


@dataclass(frozen=True)
class Texts:
    """A corpus, split. The test text is read by nothing but the one measurement at the end of a run."""

    train: str
    val: str
    test: str


@dataclass(frozen=True)
class Corpus:
    """A text that has been found but, where that costs time, not yet read.

    Attributes:
        fingerprint: what identifies the text; equal fingerprints mean equal splits.
        read: makes the splits.
        entropy_bits_per_byte: the source's true entropy rate, where it is known.
    """

    fingerprint: str
    read: Callable[[], Texts]
    entropy_bits_per_byte: float | None


def open_corpus(spec: DataSpec) -> Corpus:
    """Find the corpus that ``data.corpus`` names.

    Raises:
        UserError: if its files are missing or cannot be read as UTF-8.
    """
    match spec.corpus:
        case "shakespeare":
            return Corpus(plays.corpus_fingerprint(), _read_shakespeare, None)
        case "tiny_shakespeare":
            return Corpus(f"tiny_shakespeare-80/10/10-sha256-{TINY_SHA256}", _read_tiny_shakespeare, None)
        case "text":
            assert spec.path is not None, "DataSpec demands a path for corpus text"
            return _open_text(spec.path)
        case "synthetic":
            return _open_synthetic()
    raise ValueError(f"no corpus {spec.corpus!r}")  # DataSpec lets no other name through


def _read_shakespeare() -> Texts:
    by_name = plays.read_plays()
    held_out = {*plays.VAL_PLAYS, *plays.TEST_PLAYS}
    return Texts(
        train="".join(text for name, text in by_name.items() if name not in held_out),
        val="".join(by_name[name] for name in plays.VAL_PLAYS),
        test="".join(by_name[name] for name in plays.TEST_PLAYS),
    )


def _read_tiny_shakespeare() -> Texts:
    """Split as usual: the last 10% is the validation text that others report on; the 10% before it is our test."""
    text = _tiny_shakespeare_bytes().decode("ascii")
    test_from, val_from = int(len(text) * 0.8), int(len(text) * 0.9)
    return Texts(train=text[:test_from], val=text[val_from:], test=text[test_from:val_from])


def _tiny_shakespeare_bytes() -> bytes:
    """Look under LMEXP_DATA, then in the cache, then on the network; accept the pinned content only."""
    shared = shared_data(TINY_FILE)
    if shared:
        content = shared.read_bytes()
        if not _is_tiny(content):
            raise UserError(f"{shared} is not tiny Shakespeare (its sha256 differs from {TINY_SHA256}): replace it.")
        return content
    cached = cache_folder("data") / TINY_FILE
    if cached.is_file():
        content = cached.read_bytes()
        if _is_tiny(content):
            return content
        _log.warning("%s is damaged and is downloaded again", cached)
    content = _download_tiny(cached)
    write_atomic(cached, lambda path: path.write_bytes(content))
    return content


def _download_tiny(destination: Path) -> bytes:
    import urllib.request  # slow to import and seldom needed

    try:
        with urllib.request.urlopen(TINY_URL, timeout=DOWNLOAD_TIMEOUT_SECONDS) as response:
            content: bytes = response.read()
    except OSError as error:
        raise UserError(
            f"Tiny Shakespeare cannot be downloaded ({error}): fetch {TINY_URL} elsewhere and put it at {destination}, "
            f"or name it {TINY_FILE} in the folder LMEXP_DATA, or choose data=shakespeare, which needs no network."
        ) from error
    if not _is_tiny(content):
        raise UserError(
            f"What {TINY_URL} returned is not tiny Shakespeare ({len(content)} bytes, another sha256): the network may "
            f"have changed it; put a good copy at {destination}, or choose data=shakespeare."
        )
    return content


def _is_tiny(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == TINY_SHA256


def _open_text(path: str) -> Corpus:
    """Read at once, so that the fingerprint is that of the very text that becomes tokens."""
    *first, last = [_decoded(file) for file in _text_files(path)]
    text = "".join(part if part.endswith("\n") else part + "\n" for part in first) + last
    return Corpus(
        f"text-90/5/5-sha256-{hashlib.sha256(text.encode()).hexdigest()}", lambda: _split_at_lines(text), None
    )


def _text_files(path: str) -> list[Path]:
    """Return the files that ``data.path`` names, sorted by path: one file, a folder's ``*.txt`` files, or a glob's."""
    given = Path(path).expanduser()
    if given.is_file():
        return [given]
    if given.is_dir():
        files = [file for file in given.rglob("*.txt") if file.is_file()]
    else:
        files = [Path(name) for name in glob.glob(str(given), recursive=True) if Path(name).is_file()]
    if files:
        return sorted(files)
    if given.is_dir():
        raise UserError(
            f"data.path={path} is a folder without any .txt file: for others type 'data.path={path}/**/*.md'."
        )
    raise UserError(
        f"data.path={path} matches no file (relative paths start at {Path.cwd()}): "
        "give a file, a folder or a quoted glob."
    )


def _decoded(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8 text (byte {error.start} is 0x{error.object[error.start]:02x}): convert it, for "
            "instance with 'iconv -t UTF-8', or leave it out of data.path."
        ) from error
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}): check its permissions, or change data.path."
        ) from error


def _split_at_lines(text: str) -> Texts:
    """Cut at the line breaks at or after 90% and 95%: train, val, test."""
    val_from = _line_start(text, int(len(text) * 0.90))
    test_from = _line_start(text, max(val_from, int(len(text) * 0.95)))
    return Texts(train=text[:val_from], val=text[val_from:test_from], test=text[test_from:])


def _line_start(text: str, position: int) -> int:
    """Return where the first line at or after a position starts, or the text's end."""
    return text.find("\n", max(position - 1, 0)) + 1 or len(text)


def _open_synthetic() -> Corpus:
    language = synthetic.default_language()
    sizes = f"{SYNTHETIC_TRAIN_BYTES}+2x{SYNTHETIC_HELD_OUT_BYTES}"
    fingerprint = f"synthetic-version-{synthetic.VERSION}/bytes-{sizes}"
    return Corpus(fingerprint, lambda: _read_synthetic(language), language.entropy_bits_per_byte())


def _read_synthetic(language: synthetic.MarkovLanguage) -> Texts:
    """Three samples of one language, from seeds of their own: no run's seed changes the text."""
    return Texts(
        train=language.sample(SYNTHETIC_TRAIN_BYTES, seed=0),
        val=language.sample(SYNTHETIC_HELD_OUT_BYTES, seed=1),
        test=language.sample(SYNTHETIC_HELD_OUT_BYTES, seed=2),
    )
