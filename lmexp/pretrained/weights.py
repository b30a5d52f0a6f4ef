"""The arrays of a published folder, and their way into a model."""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

import mlx.core as mx

from lmexp.errors import UserError
from lmexp.model.count import named_parameters
from lmexp.model.language_model import LanguageModel
from lmexp.pretrained.sources import Source, Sources

_WHOLE = "model.safetensors"
_INDEX = f"{_WHOLE}.index.json"


def read_arrays(folder: Path) -> dict[str, mx.array]:
    """Return every array of a folder by its published name, lazily: nothing is read before it is used.

    Raises:
        UserError: no safetensors there, or a damaged file.
    """
    arrays: dict[str, mx.array] = {}
    for path in _files(folder):
        try:
            arrays |= cast(dict[str, mx.array], mx.load(str(path)))
        except (RuntimeError, ValueError, FileNotFoundError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path} is missing or damaged ({reason}): copy it again from the hub.") from error
    return arrays


def _files(folder: Path) -> list[Path]:
    """Return the files that the index names, else the one file of the usual name, else every safetensors file."""
    if (folder / _INDEX).exists():
        return _shards(folder / _INDEX)
    if (folder / _WHOLE).exists():
        return [folder / _WHOLE]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} has no .safetensors file: lmexp reads no other format of weights.")
    return files


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{index} is damaged ({error!r}): copy it again from the hub.") from error
    return [index.parent / name for name in sorted(names)]


def fill(model: LanguageModel, arrays: Mapping[str, mx.array], sources: Sources, ignored: Collection[str]) -> None:
    """Give every parameter of a model its published value, lazily as well.

    Args:
        model: whose parameters are exactly the keys of ``sources``.
        arrays: by published name.
        sources: our path to what it is made of.
        ignored: regular expressions of published names that hold nothing the model needs.

    Raises:
        UserError: names that are missing or that nothing reads, or shapes that differ.
    """
    ours = dict(named_parameters(model))
    assert ours.keys() == sources.keys(), sorted(ours.keys() ^ sources.keys())
    _check_names(arrays, sources, ignored)
    model.load_weights([(path, _built(path, sources[path], arrays, array.shape)) for path, array in ours.items()])


def _check_names(arrays: Mapping[str, mx.array], sources: Sources, ignored: Collection[str]) -> None:
    wanted = {name for source in sources.values() for name in source.names}
    missing = sorted(wanted - arrays.keys())
    unread = sorted(arrays.keys() - wanted)
    unexpected = [name for name in unread if not any(re.fullmatch(pattern, name) for pattern in ignored)]
    if missing or unexpected:
        raise UserError(
            f"The weights do not fit their config.json: missing {', '.join(missing) or 'nothing'}; unexpected "
            f"{', '.join(unexpected) or 'nothing'}; get both from the same place."
        )


def _built(path: str, source: Source, arrays: Mapping[str, mx.array], shape: tuple[int, ...]) -> mx.array:
    parts = [arrays[name] for name in source.names]
    shapes = " and ".join(sorted({str(part.shape) for part in parts}))
    wrong = UserError(
        f"{', '.join(source.names)} has the shape {shapes}, from which no {path} of the shape {shape} is made, as "
        "config.json says: get both from the same place."
    )
    try:
        built = source.build(*parts)
    except (ValueError, IndexError) as error:  # a split or a reshape that does not come out even
        raise wrong from error
    if built.shape != shape:
        raise wrong
    if not mx.issubdtype(built.dtype, mx.floating):
        raise UserError(
            f"{', '.join(source.names)} holds {built.dtype}, which lmexp does not compute with: choose weights that "
            "are not quantized."
        )
    return built
