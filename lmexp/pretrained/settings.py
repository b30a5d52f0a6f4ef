"""A published config.json, read so that nothing in it can be overlooked."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmexp.errors import UserError

# Keys that no forward pass depends on: how the model was trained, how text is generated, who wrote the file.
_WITHOUT_EFFECT = {
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "aux_loss_alpha",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "keys_to_ignore_at_inference",
    "label2id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
    "unsloth_fixed",
    "use_cache",
}


class Settings:
    """The keys of one config.json, each of which must be read, checked or known to have no effect.

    Args:
        values: the file's content, or a section of it.
        place: what to call it in errors.
    """

    def __init__(self, values: Mapping[str, Any], place: str):
        self._values, self.place = values, place
        self._unread = set(values) - _WITHOUT_EFFECT

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        """Return a value that must be there.

        Raises:
            UserError: it is not.
        """
        self._unread.discard(key)
        if key not in self._values:
            raise UserError(f"{self.place} lacks '{key}': copy the file again from where the weights were published.")
        return self._values[key]

    def get(self, key: str, default: Any) -> Any:
        """Return a value, or what the family's publishers mean by leaving it out."""
        return self[key] if key in self._values else default

    def expect(self, key: str, *supported: Any) -> None:
        """Check that a value is one of those that leave the numbers as lmexp computes them. It may be absent.

        Raises:
            UserError: it is another.
        """
        value = self.get(key, supported[0])
        if value not in supported:
            raise self.unsupported(key, value, " or ".join(json.dumps(choice) for choice in supported))

    def section(self, key: str) -> "Settings":
        """Return a nested section, whose keys are watched in the same way."""
        return Settings(self[key] or {}, f"'{key}' in {self.place}")

    def ignore(self, *keys: str) -> None:
        """Name keys that have no effect in this family."""
        self._unread -= set(keys)

    def unsupported(self, key: str, value: Any, supported: str) -> UserError:
        """Return the error for a value that would change the numbers."""
        return UserError(
            f"{self.place} has {key}={json.dumps(value)}, which lmexp does not compute: it supports {supported}; "
            "choose other weights."
        )

    def refuse_unread(self) -> None:
        """Check that nothing is left that might have changed the numbers.

        Raises:
            UserError: something is.
        """
        if self._unread:
            names = ", ".join(f"{key}={json.dumps(self._values[key])}" for key in sorted(self._unread))
            raise UserError(
                f"{self.place} has settings that lmexp does not know and that may change the numbers: {names}; "
                "remove those that have no effect from a copy of the file, or choose other weights."
            )


def read_settings(folder: Path) -> Settings:
    """Read ``config.json`` of a folder.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no config.json: name a folder of published weights, or a hub id.") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): copy it again from where it was published.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged (it holds no keys): copy it again from where it was published.")
    return Settings(values, str(path))


SpecReader = Callable[[Settings], dict[str, Any]]
