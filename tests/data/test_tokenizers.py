import itertools
import json
import subprocess
import sys

import pytest
import regex
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from lmexp.data.stored import load_tokenizer
from lmexp.data.tokenizer import (
    WORDS,
    BytePairTokenizer,
    ByteTokenizer,
    CharTokenizer,
    load_gpt2,
    train_bpe,
)
from lmexp.errors import UserError

TRAINING_TEXT = (
    "FIRST WITCH:\nWhen shall we three meet again\nIn thunder, lightning, or in rain?\n\n"
    "SECOND WITCH:\nWhen the hurlyburly's done,\nWhen the battle's lost and won. Ünd naïve Mädchen: 東京 42 1606!\n\n"
) * 5


def stub_gpt2(name: str) -> tiktoken.Encoding:
    """A small vocabulary of GPT-2's make: bytes in another order, some merges, the end of text last."""
    ranks = {bytes([value]): rank for rank, value in enumerate([*range(33, 256), *range(33)])}
    for piece in (b"th", b"the", b" the", b"\xc3\xa9"):
        ranks[piece] = len(ranks)
    words = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"
    return tiktoken.Encoding(name, pat_str=words, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": len(ranks)})


TOKENIZERS = {
    "byte": ByteTokenizer(),
    "char": CharTokenizer(TRAINING_TEXT),
    "bpe": train_bpe(TRAINING_TEXT, 330),
    "gpt2": load_gpt2(stub_gpt2),
}
TEXTS = st.one_of(
    st.text(), st.text(alphabet="eth '\n,.?éü東 4\r\t"), st.sampled_from(["<|endoftext|>", "\ufeff", "\x00"])
)


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


@given(text=TEXTS)
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_any_text_comes_back_and_every_byte_is_counted_once(kind, text):
    tokenizer = TOKENIZERS[kind]
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.byte_lengths[tokens].sum() == len(text.encode())
    assert all(0 <= token < tokenizer.vocab_size for token in tokens)


@given(text=TEXTS)
@settings(max_examples=50, deadline=None)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_each_tokens_length_is_that_of_its_bytes(kind, text):
    """The sum could be right by accident; token by token, bytes decoded as Latin-1 keep their number."""
    tokenizer = TOKENIZERS[kind]
    pieces = [tokenizer._pieces[token] for token in tokenizer.encode(text)]
    assert b"".join(pieces) == text.encode()
    assert [len(piece) for piece in pieces] == tokenizer.byte_lengths[tokenizer.encode(text)].tolist()


def test_shapes_and_types(tokenizer):
    tokens = tokenizer.encode("the thé")
    assert (tokens.dtype, tokens.ndim) == ("int32", 1)
    assert tokenizer.encode("").shape == (0,)
    assert (tokenizer.byte_lengths.dtype, tokenizer.byte_lengths.shape) == ("int32", (tokenizer.vocab_size,))


@pytest.mark.parametrize(("size", "padded"), [(256, 256), (257, 320), (320, 320), (321, 384)])
def test_the_vocabulary_is_padded_to_a_multiple_of_64(size, padded):
    tokenizer = CharTokenizer("".join(chr(0x4E00 + index) for index in range(size - 256)))
    assert (tokenizer.vocab_size, tokenizer.padded_vocab_size) == (size, padded)


def test_bytes_that_are_not_utf8_are_shown_as_replacements(tokenizer):
    first_of_two, _ = ByteTokenizer().encode("é")
    assert TOKENIZERS["byte"].decode([first_of_two, ord("a")]) == "\ufffda"
    assert tokenizer.decode([]) == ""


def test_a_character_seen_in_training_is_one_token_and_another_is_its_bytes():
    tokenizer = CharTokenizer("aé東é")
    assert tokenizer.vocab_size == 256 + 2
    assert tokenizer.encode("aé東").tolist() == [ord("a"), 256, 257]
    assert tokenizer.encode("aü東").tolist() == [ord("a"), *"ü".encode(), 257]


def test_for_ascii_characters_are_bytes():
    assert CharTokenizer("only ascii").vocab_size == 256
    assert CharTokenizer("x").encode("any text\n").tolist() == ByteTokenizer().encode("any text\n").tolist()


def reference_merge(piece: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Byte-pair encoding as one would say it: merge the neighbours whose union has the lowest rank, until none has."""
    parts = [bytes([byte]) for byte in piece]
    while True:
        pairs = [(ranks[a + b], place) for place, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]
        if not pairs:
            return [ranks[part] for part in parts]
        _, place = min(pairs)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


@given(text=st.text(alphabet="When the battlI's,\n ü4"))
@settings(max_examples=100, deadline=None)
def test_bpe_encodes_as_the_slow_reference_does(text):
    tokenizer = TOKENIZERS["bpe"]
    ranks = {piece: rank for rank, piece in enumerate(tokenizer._pieces)}
    expected = [token for cut in regex.findall(WORDS, text) for token in reference_merge(cut.encode(), ranks)]
    assert tokenizer.encode(text).tolist() == expected


def test_bpe_has_learnt_words_and_reached_its_size():
    tokenizer = TOKENIZERS["bpe"]
    assert tokenizer.vocab_size == 330
    assert tokenizer._pieces[:256] == tuple(bytes([value]) for value in range(256))
    assert b"When" in tokenizer._pieces
    assert len(tokenizer.encode(TRAINING_TEXT)) < len(TRAINING_TEXT.encode()) / 2


def test_a_text_without_repetition_yields_fewer_tokens_than_asked_for():
    tokenizer = train_bpe("ab", 300)
    assert tokenizer.vocab_size == 257
    assert tokenizer.padded_vocab_size == 320
    assert tokenizer.decode(tokenizer.encode("abba")) == "abba"


def test_where_a_text_is_cut():
    text = "O, 'tis call'd o'er!\n\nNAME:\nIn  1606--well,\n  \n\tso\n\nbe  \nit"
    cuts = ["O", ",", " 'tis", " call", "'d", " o", "'er", "!\n\n", "NAME", ":\n"]
    cuts += ["In", " ", " 160", "6", "--", "well", ",\n", "  \n", "\t", "so", "\n\n", "be", "  \n", "it"]
    assert regex.findall(WORDS, text) == cuts


def test_every_byte_survives_training():
    """Each character of U+0080 to U+00FF is a pair of bytes that occurs often enough to be merged first."""
    characters = [chr(code) for code in range(0x80, 0x100)]
    trained = train_bpe("".join(character * 3 + "\n" for character in characters), 256 + len(characters))
    assert set(trained._pieces[256:]) == {character.encode() for character in characters}


def test_no_token_reaches_over_the_end_of_a_line():
    for piece in TOKENIZERS["bpe"]._pieces:
        assert b"\n" not in piece.rstrip(b"\n"), piece


def test_training_on_lines_is_training_on_the_text(monkeypatch):
    whole = train_bpe(TRAINING_TEXT, 300).description()
    monkeypatch.setattr("lmexp.data.tokenizer._lines", lambda text: [text])
    assert train_bpe(TRAINING_TEXT, 300).description() == whole


def test_bpe_training_is_deterministic_across_processes():
    program = (
        "import json, sys; from lmexp.data.tokenizer import train_bpe;"
        "json.dump(train_bpe(json.loads(sys.argv[1]), 330).description(), sys.stdout)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, json.dumps(TRAINING_TEXT)],
        capture_output=True,
        check=True,
        env={"PYTHONHASHSEED": "12345", "PATH": ""},
    )
    assert json.loads(run.stdout) == TOKENIZERS["bpe"].description()


def test_a_saved_tokenizer_needs_nothing_but_its_folder(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    text = "the thé, 'tis 東京!\n\nWhen"
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["tokenizer.json"]
    assert loaded.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert loaded.byte_lengths.tolist() == tokenizer.byte_lengths.tolist()
    assert loaded.description() == tokenizer.description()


def test_a_missing_or_damaged_tokenizer_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    for damage in ('{"kind": "char"', '{"kind": "morse"}', '{"kind": "bpe"}', "[]"):
        (tmp_path / "tokenizer.json").write_text(damage)
        with pytest.raises(UserError, match="damaged"):
            load_tokenizer(tmp_path)


def test_gpt2_keeps_tiktokens_ids():
    original, ours = stub_gpt2("gpt2"), TOKENIZERS["gpt2"]
    text = "the thé of théthe 42!!"
    assert ours.encode(text).tolist() == original.encode_ordinary(text)
    assert ours.vocab_size == original.n_vocab == 261
    assert ours.byte_lengths[260] == len("<|endoftext|>")


def test_no_text_encodes_to_the_end_of_text():
    assert 260 not in TOKENIZERS["gpt2"].encode("the<|endoftext|> <|endoftext|>")


def test_gpt2_is_sought_where_the_user_keeps_data(tmp_path, monkeypatch, cache):
    seen = []

    def spy(name: str) -> tiktoken.Encoding:
        import os

        seen.append(os.environ["TIKTOKEN_CACHE_DIR"])
        return stub_gpt2(name)

    load_gpt2(spy)
    (tmp_path / "shared" / "tiktoken").mkdir(parents=True)
    monkeypatch.setenv("LMEXP_DATA", str(tmp_path / "shared"))
    load_gpt2(spy)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "/chosen")
    load_gpt2(spy)
    assert seen == [str(cache / "tiktoken"), str(tmp_path / "shared" / "tiktoken"), "/chosen"]


def test_gpt2s_search_leaves_the_environment_as_it_was(monkeypatch):
    import os

    load_gpt2(stub_gpt2)
    assert "TIKTOKEN_CACHE_DIR" not in os.environ


def test_gpt2_without_network_is_a_users_error(cache):
    """The network is refused for every test: what fails here is tiktoken's own download."""
    with pytest.raises(UserError, match=r"cannot be downloaded.*data\.tokenizer=bpe"):
        load_gpt2()


def test_a_byte_pair_tokenizer_is_built_only_when_it_encodes():
    tokenizer = BytePairTokenizer("bpe", WORDS, TOKENIZERS["bpe"]._pieces)
    assert tokenizer.decode([72, 105]) == "Hi"
    assert "_encoding" not in vars(tokenizer)
    tokenizer.encode("Hi")
    assert "_encoding" in vars(tokenizer)
