import json
import os
import threading

import numpy as np
import pytest

from lmexp.data import store
from lmexp.errors import UserError
from lmexp.files import write_atomic

KEY = {"corpus": "a", "format": 1}
TOKENS = np.array([5, 0, 65_535, 3, 3], np.uint16)
FACTS = {"n_tokens": [2, 2, 1], "tokenizer": {"kind": "byte"}}


@pytest.fixture
def files(cache):
    """One saved entry: (the file of ids, its description)."""
    store.save("name", KEY, TOKENS, FACTS)
    ids, description = sorted((cache / "data").iterdir(), key=lambda file: file.suffix, reverse=True)
    return ids, description


def test_what_is_saved_is_loaded_as_a_memory_map(files):
    entry = store.load("name", KEY)
    assert entry.tokens.tolist() == TOKENS.tolist()
    assert (entry.tokens.dtype, type(entry.tokens)) == (np.uint16, np.memmap)
    assert entry.facts == FACTS
    assert not entry.tokens.flags.writeable


def test_wide_ids_keep_their_type(cache):
    store.save("name", KEY, np.array([1, 2**20], np.uint32), FACTS)
    assert store.load("name", KEY).tokens.tolist() == [1, 2**20]


def test_no_tokens_at_all_are_no_special_case(cache):
    store.save("name", KEY, TOKENS[:0], FACTS)
    assert store.load("name", KEY).tokens.shape == (0,)


@pytest.mark.parametrize("other", [{"corpus": "b", "format": 1}, {"corpus": "a", "format": 2}, {"corpus": "a"}])
def test_another_key_is_another_entry(files, other):
    assert store.load("name", other) is None


def truncate(ids, description):
    ids.write_bytes(ids.read_bytes()[:-2])


def flip_a_bit(ids, description):
    content = bytearray(ids.read_bytes())
    content[3] ^= 16
    ids.write_bytes(content)


def lengthen(ids, description):
    ids.write_bytes(ids.read_bytes() + b"\0\0")


def cut_description(ids, description):
    description.write_bytes(description.read_bytes()[:40])


def empty_description(ids, description):
    description.write_text("{}")


def list_description(ids, description):
    description.write_text("[]")


def foreign_description(ids, description):
    description.write_text(json.dumps(json.loads(description.read_text()) | {"key": {"corpus": "z"}}))


@pytest.mark.parametrize(
    "damage",
    [truncate, flip_a_bit, lengthen, cut_description, empty_description, list_description, foreign_description],
)
def test_damage_is_seen_said_and_mended_by_saving_again(files, damage, caplog):
    damage(*files)
    assert store.load("name", KEY) is None
    assert "damaged" in caplog.text
    store.save("name", KEY, TOKENS, FACTS)
    assert store.load("name", KEY).tokens.tolist() == TOKENS.tolist()


@pytest.mark.parametrize("missing", [0, 1])
def test_half_an_entry_is_none_and_no_damage(files, missing, caplog):
    files[missing].unlink()
    assert store.load("name", KEY) is None
    assert caplog.text == ""


def test_a_cache_that_cannot_be_written_is_a_users_error(cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left.*LMEXP_CACHE"):
        store.save("name", KEY, TOKENS, FACTS)
    assert list((cache / "data").iterdir()) == []


def test_a_write_that_fails_leaves_the_old_content_and_no_rubbish(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_atomic(file, lambda path: path.write_bytes(b"old"))

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(file, lambda path: path.write_bytes(b"new"))
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


def test_a_reader_never_sees_half_a_write(tmp_path):
    """One thread rewrites a file with 200 kB of one letter, again and again; every read is whole and of one letter."""
    file, size, seen = tmp_path / "file", 200_000, set()
    write_atomic(file, lambda path: path.write_bytes(b"a" * size))

    def rewrite():
        for letter in (b"a", b"b") * 20:
            write_atomic(file, lambda path, letter=letter: path.write_bytes(letter * size))

    writer = threading.Thread(target=rewrite)
    writer.start()
    while writer.is_alive():
        content = file.read_bytes()
        seen.add((len(content), len(set(content))))
    writer.join()
    assert seen == {(size, 1)}
