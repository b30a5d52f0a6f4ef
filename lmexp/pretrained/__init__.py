"""Published weights: a Hugging Face folder or hub id, read into the one ``LanguageModel``."""

from lmexp.pretrained.load import Pretrained, load_pretrained

__all__ = ["Pretrained", "load_pretrained"]
