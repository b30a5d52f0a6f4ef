"""Published weights: a Hugging Face folder or hub id, read into the one ``LanguageModel``."""

from lmexp.pretrained.load import Pretrained, load_pretrained
from lmexp.pretrained.tokenizer import PublishedTokenizer

__all__ = ["Pretrained", "PublishedTokenizer", "load_pretrained"]
