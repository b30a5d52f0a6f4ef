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

# What each value must be that is read and is no whole number.
_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("model_type", "rope_type", "topk_method", "type"), str),
    **dict.fromkeys(("norm_topk_prob", "tie_word_embeddings"), bool),
    **dict.fromkeys(("rms_norm_eps", "layer_norm_epsilon", "final_logit_softcapping", "query_pre_attn_scalar"), float),
    **dict.fromkeys(("rope_theta", "rope_local_base_freq", "partial_rotary_factor", "routed_scaling_factor"), float),
    **dict.fromkeys(("factor", "low_freq_factor", "high_freq_factor", "beta_slow", "beta_fast"), float),
    **dict.fromkeys(("attention_factor", "mscale", "mscale_all_dim"), float),
    **dict.fromkeys(("rope_parameters", "rope_scaling", "full_attention", "sliding_attention"), dict),
    "layer_types": list,
}
_MAY_BE_ZERO = ("first_k_dense_replace", "n_shared_experts")
_IN_WORDS = {
    int: "a whole number from 1 up",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list of texts",
    dict: "a section of keys",
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
            UserError: it is not, or is of another kind.
        """
        self._unread.discard(key)
        if key not in self._values:
            raise UserError(f"{self.place} lacks '{key}': copy the file again from where the weights were published.")
        value, kind = self._values[key], _KINDS.get(key, int)
        least = 0 if key in _MAY_BE_ZERO else 1
        if not _is_of(kind, value) or (kind is int and value < least):
            raise UserError(
                f"{self.place} has {key}={json.dumps(value)}, which must be {_IN_WORDS[kind]}: copy the file again "
                "from where the weights were published."
            )
        return value

    def get(self, key: str, default: Any) -> Any:
        """Return a value, or what the family's publishers mean by leaving it out; they write null for no value.

        Raises:
            UserError: it is of another kind.
        """
        self._unread.discard(key)
        if key in self._values and self._values[key] is None:
            return None if default is None else self[key]
        return self[key] if key in self._values else default

    def expect(self, key: str, *supported: Any) -> None:
        """Check that a value is one of those that leave the numbers as lmexp computes them. It may be absent.

        Raises:
            UserError: it is another.
        """
        self._unread.discard(key)
        value = self._values.get(key, supported[0])
        if value not in supported:
            raise self.unsupported(key, value, " or ".join(json.dumps(choice) for choice in supported))

    def section(self, key: str) -> "Settings":
        """Return a nested section, whose keys are watched in the same way."""
        return Settings(self[key], f"'{key}' in {self.place}")

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


def _is_of(kind: type, value: object) -> bool:
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, kind)


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
