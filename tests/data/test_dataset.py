import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from lmexp.data import Batches, DataSpec, corpora, dataset, load_dataset, unigram_bits_per_byte
from lmexp.errors import UserError

TEXT = "".join(f"Line {number}: the café, the naïve 東京 and the hurlyburly's done.\n" for number in range(300))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT)
    return path


def spec(path, **changed) -> DataSpec:
    chosen = {"tokenizer": "bpe", "bpe_vocab_size": 300, "context_length": 16, "batch_size": 4} | changed
    return DataSpec(corpus="text", path=str(path), **chosen)


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe"])
def test_the_splits_are_the_text_and_their_bytes_are_counted(file, tokenizer):
    loaded = load_dataset(spec(file, tokenizer=tokenizer))
    splits = (loaded.train, loaded.val, loaded.test)
    assert "".join(loaded.tokenizer.decode(split.tokens) for split in splits) == TEXT
    for split in splits:
        assert split.n_tokens == len(split.tokens)
        assert split.n_bytes == loaded.tokenizer.byte_lengths[split.tokens].sum()
        assert split.n_bytes == len(loaded.tokenizer.decode(split.tokens).encode())
        assert isinstance(split.tokens, np.memmap)
        assert split.tokens.dtype == np.uint16
    assert loaded.entropy_bits_per_byte is None


def test_a_vocabulary_past_16_bits_is_kept_in_32(file, monkeypatch):
    many = "".join(chr(0x4E00 + index) for index in range(20_000)) + "".join(chr(0x20000 + i) for i in range(45_500))
    file.write_text((many + "\n") * 3 + "a line\n" * 30_000)
    loaded = load_dataset(spec(file, tokenizer="char"))
    assert loaded.tokenizer.vocab_size > 65_536
    assert loaded.train.tokens.dtype == np.uint32
    assert loaded.tokenizer.decode(loaded.train.tokens[:65_501]) == many + "\n"


def test_the_second_load_reads_the_cache_and_gives_the_same(file, monkeypatch):
    first = load_dataset(spec(file))

    def never(*_):
        raise AssertionError("the corpus was tokenised again")

    monkeypatch.setattr(dataset, "_tokenised", never)
    again = load_dataset(spec(file, context_length=8, batch_size=2))  # the shape of a batch decides no token
    for name in ("train", "val", "test"):
        assert (getattr(again, name).tokens == getattr(first, name).tokens).all()
        assert getattr(again, name).n_bytes == getattr(first, name).n_bytes
    assert again.tokenizer.description() == first.tokenizer.description()


@pytest.mark.parametrize("change", ["text", "tokenizer", "bpe_vocab_size", "format", "library"])
def test_whatever_decides_the_tokens_is_in_the_key(file, cache, change, monkeypatch):
    load_dataset(spec(file))
    before = set((cache / "data").iterdir())
    changed = spec(file)
    if change == "text":
        file.write_text(TEXT + "more\n")
    elif change == "format":
        monkeypatch.setattr(dataset.tokenizer, "FORMAT", dataset.tokenizer.FORMAT + 1)
    elif change == "library":
        monkeypatch.setattr(dataset.importlib.metadata, "version", lambda name: "99.0")
    else:
        changed = spec(file, **{"tokenizer": {"tokenizer": "byte"}, "bpe_vocab_size": {"bpe_vocab_size": 301}}[change])
    load_dataset(changed)
    assert len(set((cache / "data").iterdir()) - before) == 2  # its ids and their description


def test_a_vocabulary_size_that_is_not_read_makes_no_other_entry(file, cache):
    for size in (300, 400):
        load_dataset(spec(file, tokenizer="char", bpe_vocab_size=size))
    assert len(list((cache / "data").iterdir())) == 2


def test_a_damaged_cache_is_made_again(file, cache, caplog):
    first = load_dataset(spec(file)).train.tokens.tolist()
    ids = next((cache / "data").glob("*.tokens"))
    damaged = bytearray(ids.read_bytes())
    damaged[10] ^= 1
    ids.unlink()  # the memory map of the first load still shows the old file
    ids.write_bytes(damaged)
    assert load_dataset(spec(file)).train.tokens.tolist() == first
    assert "damaged" in caplog.text


def test_the_tokenizer_learns_from_train_alone(file):
    """The held-out lines are changed beyond recognition; no merge and no character is learnt from them."""
    lines = TEXT.splitlines(keepends=True)
    plain = {kind: load_dataset(spec(file, tokenizer=kind)) for kind in ("bpe", "char")}
    n_train = plain["bpe"].tokenizer.decode(plain["bpe"].train.tokens).count("\n")
    changed = [*lines[:n_train], *("Ω" * (len(line) - 1) + "\n" for line in lines[n_train:])]
    file.write_text("".join(changed))
    for kind, before in plain.items():
        after = load_dataset(spec(file, tokenizer=kind))
        assert after.tokenizer.description() == before.tokenizer.description()
        assert (after.train.tokens == before.train.tokens).all()
        assert "Ω" in after.tokenizer.decode(after.val.tokens)


def test_processes_that_build_at_once_agree(file, cache):
    """Four fresh processes, no cache: all succeed with the same tokens, and one entry without rubbish is left."""
    program = (
        "import hashlib, json, sys; from lmexp.data import DataSpec, load_dataset;"
        "d = load_dataset(DataSpec(**json.loads(sys.argv[1])));"
        "print(hashlib.sha256(d.train.tokens.tobytes() + d.val.tokens.tobytes()).hexdigest())"
    )
    argument = json.dumps(vars(spec(file)))
    running = [
        subprocess.Popen([sys.executable, "-c", program, argument], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    printed = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert len(printed) == 1
    assert sorted(entry.suffix for entry in (cache / "data").iterdir()) == [".json", ".tokens"]


def test_a_warm_load_imports_no_tokenizer_library(file):
    load_dataset(spec(file))
    program = (
        "import json, sys; from lmexp.data import DataSpec, Batches, load_dataset, unigram_bits_per_byte;"
        "d = load_dataset(DataSpec(**json.loads(sys.argv[1]))); unigram_bits_per_byte(d);"
        "Batches(d.train.tokens, d.tokenizer.byte_lengths, 2, 8, 0)[0]; d.tokenizer.decode([65]);"
        "print([m for m in ('tokenizers', 'tiktoken', 'mlx', 'pandas', 'urllib.request') if m in sys.modules])"
    )
    argument = json.dumps(vars(spec(file)))
    run = subprocess.run([sys.executable, "-c", program, argument], capture_output=True, text=True, env=os.environ)
    assert run.stdout == "[]\n", run.stderr


def test_the_unigram_baseline_done_by_hand(file):
    """Train is "aab\\n" 33 times (a 66, b 33, line break 33; one more for each of 256), val once, test twice."""
    file.write_text("aab\n" * 36)
    loaded = load_dataset(spec(file, tokenizer="byte", context_length=1, batch_size=1))
    # 144 bytes, cut where the first line at or after byte 129 (90%) and byte 136 (95%) starts
    assert (loaded.train.n_bytes, loaded.val.n_bytes, loaded.test.n_bytes) == (132, 4, 8)
    total = 132 + 256
    cost = {"a": math.log2(total / 67), "b": math.log2(total / 34), "\n": math.log2(total / 34)}
    assert unigram_bits_per_byte(loaded) == pytest.approx(sum(cost[c] for c in "ab\n") / 3)  # the first "a" is given
    assert unigram_bits_per_byte(loaded, "test") == pytest.approx(sum(cost[c] for c in "ab\naab\n") / 7)


def test_the_unigram_baseline_is_per_byte_whatever_the_tokens(file):
    """Its denominator is the bytes of all tokens but the first, so multi-byte tokens are not counted as one."""
    loaded = load_dataset(spec(file))
    tokens = loaded.val.tokens
    n_bytes = len(loaded.tokenizer.decode(tokens).encode()) - loaded.tokenizer.byte_lengths[tokens[0]]
    counts = dict.fromkeys(range(loaded.tokenizer.vocab_size), 1)
    for token in loaded.train.tokens.tolist():
        counts[token] += 1
    bits = sum(-math.log2(counts[token] / sum(counts.values())) for token in tokens[1:].tolist())
    assert unigram_bits_per_byte(loaded) == pytest.approx(bits / n_bytes)


def test_a_train_split_shorter_than_a_batch_is_refused_with_its_numbers(file):
    n_tokens = load_dataset(spec(file)).train.n_tokens
    context_length = 16
    largest = n_tokens // context_length - 1  # so many windows an epoch has
    loaded = load_dataset(spec(file, batch_size=largest))
    batches = Batches(loaded.train.tokens, loaded.tokenizer.byte_lengths, largest, context_length, seed=0)
    assert batches.windows_per_epoch == largest
    with pytest.raises(UserError, match=rf"train split holds {n_tokens} tokens .* need {(largest + 2) * 16}"):
        load_dataset(spec(file, batch_size=largest + 1))


@pytest.mark.parametrize("text", ["", "one line, no end", "short\n" * 10])
def test_a_text_too_short_for_a_window_is_refused(file, text):
    file.write_text(text)
    with pytest.raises(UserError, match=r"too short: its (train|val|test) split holds"):
        load_dataset(spec(file, tokenizer="byte", context_length=5, batch_size=1))


def test_held_out_splits_need_one_window(file):
    file.write_text("x" * 999 + "\n" + "12345\n" + "7\n")  # val is empty or tiny: the lines fall so
    with pytest.raises(
        UserError, match=r"its (val|test) split holds \d+ tokens \(\d+ bytes\) but data\.context_length=8"
    ):
        load_dataset(spec(file, tokenizer="byte", context_length=8, batch_size=2))


def test_synthetic_has_a_floor_below_its_unigram_baseline(monkeypatch):
    monkeypatch.setattr(corpora, "SYNTHETIC_TRAIN_BYTES", 50_000)
    monkeypatch.setattr(corpora, "SYNTHETIC_HELD_OUT_BYTES", 5_000)
    loaded = load_dataset(DataSpec("synthetic", None, "char", 512, 16, 4))
    assert 0 < loaded.entropy_bits_per_byte < unigram_bits_per_byte(loaded) < 8
