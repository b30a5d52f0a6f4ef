"""A published tokenizer gives its file's tokens, and the bytes of each."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from lmexp.data.published import PublishedTokenizer
from lmexp.data.stored import from_description
from lmexp.data.tokenizer import byte_of_printable

TEXT = "Café 10€, naïve?"


def byte_level():
    """Return GPT-2's kind: all bytes, one merge, and a mark that opens every text."""
    names = ["<start>", *byte_of_printable(), "af"]
    tokenizer = Tokenizer(models.BPE({name: token for token, name in enumerate(names)}, [("a", "f")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<start>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A", special_tokens=[("<start>", 0)])
    return tokenizer


def sentence_piece():
    """Return LLaMA's kind: words behind a mark for the space, and bytes for what has no piece."""
    pieces = ["<unk>", *(f"<0x{value:02X}>" for value in range(256)), "▁", *"Caf10,nve?", "▁1"]
    vocabulary = {name: token for token, name in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "1")], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


@pytest.fixture(params=[byte_level, sentence_piece])
def library(request):
    return request.param()


def test_text_goes_there_and_back(library):
    tokenizer = PublishedTokenizer(library.to_str())
    tokens = tokenizer.encode(TEXT)
    assert tokens.tolist() == library.encode(TEXT).ids
    assert tokenizer.decode(tokens) == TEXT
    assert tokenizer.vocab_size == len(tokenizer.pieces) == len(tokenizer.byte_lengths) == library.get_vocab_size()


def test_the_pieces_of_a_text_are_its_bytes_after_a_space_where_the_file_adds_one(library):
    tokenizer = PublishedTokenizer(library.to_str())
    assert b"".join(tokenizer.pieces[token] for token in tokenizer.encode(TEXT)).strip() == TEXT.encode()
    assert any(len(tokenizer.pieces[token]) > 1 for token in tokenizer.encode(TEXT)), "no merge was used"


def test_a_mark_has_no_bytes():
    tokenizer = PublishedTokenizer(byte_level().to_str())
    assert tokenizer.encode("a")[0] == 0
    assert tokenizer.pieces[0] == b""


def test_it_is_rebuilt_from_its_description(library):
    tokenizer = PublishedTokenizer(library.to_str())
    twin = from_description(json.loads(json.dumps(tokenizer.description())))
    assert twin.pieces == tokenizer.pieces
    assert (twin.encode(TEXT) == tokenizer.encode(TEXT)).all()


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(ValueError, match="missing"):
        PublishedTokenizer("{}")
