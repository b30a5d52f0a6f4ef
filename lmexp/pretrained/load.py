"""``load_pretrained``: from a folder or a hub id to a model and its tokenizer."""

from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from lmexp.data import PublishedTokenizer
from lmexp.data.tokenizer import FILE_NAME
from lmexp.errors import UserError, unknown
from lmexp.model.language_model import LanguageModel
from lmexp.pretrained.families import FAMILIES
from lmexp.pretrained.hub import download
from lmexp.pretrained.settings import read_settings
from lmexp.pretrained.spec import spec_of
from lmexp.pretrained.weights import fill, read_arrays


class Pretrained(NamedTuple):
    """A published model; ``model, tokenizer = load_pretrained(...)``.

    Attributes:
        model: in evaluation mode, with the dtype of the file (``model.set_dtype`` changes it).
        tokenizer: None where the folder has no ``tokenizer.json``.
    """

    model: LanguageModel
    tokenizer: PublishedTokenizer | None


def load_pretrained(source: str | Path) -> Pretrained:
    """Load published weights.

    Args:
        source: a folder with ``config.json`` and ``*.safetensors`` in Hugging Face's format, or a hub id such as
            ``openai-community/gpt2``, which is downloaded once. What exists as a folder is read as one.

    Returns:
        The model and its tokenizer. Rows of the embedding beyond the tokenizer's vocabulary are padding: their logits
        are about -1e9, as everywhere in lmexp.

    Raises:
        UserError: an architecture or a setting that lmexp does not compute, names or shapes that do not fit, or a
            folder or hub id that cannot be read.
    """
    folder = Path(source).expanduser() if Path(source).expanduser().is_dir() else download(str(source))
    settings = read_settings(folder)
    kind = str(settings["model_type"])
    if kind not in FAMILIES:
        raise unknown("architecture", kind, FAMILIES)
    family = FAMILIES[kind]
    spec = spec_of(family.read(settings))
    n_rows, context_length = int(settings["vocab_size"]), int(settings[family.context_key])
    settings.refuse_unread()
    tokenizer = _read_tokenizer(folder)
    vocab_size = n_rows if tokenizer is None else min(n_rows, tokenizer.vocab_size)
    model = LanguageModel(spec, vocab_size, n_rows, context_length)
    arrays = read_arrays(folder)
    fill(model, arrays, family.sources_in(arrays, spec), family.ignored_by(spec))
    del arrays  # so that each is freed as soon as what is made of it is there
    mx.eval(model.parameters())  # so that the folder is not needed any more
    model.eval()
    return Pretrained(model, tokenizer)


def _read_tokenizer(folder: Path) -> PublishedTokenizer | None:
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        return PublishedTokenizer(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): copy it again from where it was published.") from error
