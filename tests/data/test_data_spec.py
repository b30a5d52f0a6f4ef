import dataclasses
from pathlib import Path

import pytest
import yaml

from lmexp.data import DataSpec
from lmexp.errors import UserError
from lmexp.files import installed_folder

GOOD = {
    "corpus": "shakespeare",
    "path": None,
    "tokenizer": "bpe",
    "bpe_vocab_size": 2048,
    "context_length": 128,
    "batch_size": 32,
}
CONFIGS = sorted(installed_folder("conf").glob("data/*.yaml"))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("corpus", "shakespear", "did you mean 'shakespeare'"),
        ("tokenizer", "bp", "data.tokenizer 'bp'"),
        ("bpe_vocab_size", 255, "data.bpe_vocab_size is 255"),
        ("bpe_vocab_size", 65_537, "data.bpe_vocab_size is 65537"),
        ("context_length", 0, "data.context_length is 0"),
        ("batch_size", -3, "data.batch_size is -3"),
        ("path", "notes.txt", "data=text data.path=notes.txt"),
        ("corpus", "text", "data.path=FILE"),
    ],
)
def test_a_wrong_value_is_named_as_it_is_typed(key, value, said):
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        DataSpec(**GOOD | {key: value})


@pytest.mark.parametrize(("key", "value"), [("bpe_vocab_size", 256), ("context_length", 1), ("batch_size", 1)])
def test_the_smallest_allowed_values_are_allowed(key, value):
    assert getattr(DataSpec(**GOOD | {key: value}), key) == value


def test_the_spec_holds_no_defaults():
    assert all(field.default is dataclasses.MISSING for field in dataclasses.fields(DataSpec))


def test_there_is_a_config_for_every_corpus():
    assert {file.stem for file in CONFIGS} == {"shakespeare", "tiny_shakespeare", "text", "synthetic"}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_config_is_a_spec_with_exactly_its_keys(file: Path):
    config = yaml.safe_load(file.read_text())
    assert list(config) == [field.name for field in dataclasses.fields(DataSpec)]
    assert config["corpus"] == file.stem
    assert config["path"] is None
    DataSpec(**config | ({"path": "anything"} if file.stem == "text" else {}))
