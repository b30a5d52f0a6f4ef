"""A ``ModelSpec`` from what a published model sets; everything else is as ``conf/model/_shared.yaml`` says."""

from collections.abc import Mapping
from typing import Any

import yaml

from lmexp.files import installed_folder
from lmexp.model.parts import DeltaSpec, ExpertsSpec, LatentSpec, RopeSpec
from lmexp.model.spec import ModelSpec

_PARTS: Mapping[str, type] = {"rope": RopeSpec, "mla": LatentSpec, "delta": DeltaSpec, "experts": ExpertsSpec}


def spec_of(choices: Mapping[str, Any]) -> ModelSpec:
    """Build a spec from its choices; a part such as ``rope`` is a mapping that names what differs from its defaults.

    Raises:
        UserError: a choice out of range.
    """
    shared = yaml.safe_load((installed_folder("conf") / "model" / "_shared.yaml").read_text(encoding="utf-8"))
    parts = {name: part(**{**shared[name], **choices.get(name, {})}) for name, part in _PARTS.items()}
    return ModelSpec(**{**shared, **choices, **parts})
