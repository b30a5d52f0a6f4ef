"""Published settings of rotary positions, in the old and the new form of config.json, as our ``rope`` section."""

import math
from typing import Any

from lmexp.pretrained.settings import Settings

_DEFAULT_BASE = 10_000.0  # what publishers mean by leaving it out (Su et al. 2021)


def read_rope(settings: Settings) -> dict[str, Any]:
    """Return our ``rope`` section.

    New files hold everything in ``rope_parameters``; old ones hold ``rope_theta`` and ``rope_scaling`` side by side.

    Raises:
        UserError: a scaling that lmexp does not have.
    """
    if settings.get("rope_parameters", None):
        rope = read_rope_section(settings.section("rope_parameters"))
        settings.ignore("rope_theta", "rope_scaling", "partial_rotary_factor")
        return rope
    rope = {"base": float(settings.get("rope_theta", _DEFAULT_BASE))}
    if share := settings.get("partial_rotary_factor", None):
        rope["share"] = float(share)
    if settings.get("rope_scaling", None):
        scaling = settings.section("rope_scaling")
        rope |= _read_scaling(scaling)
        scaling.refuse_unread()
    return rope


def read_rope_section(section: Settings) -> dict[str, Any]:
    """Return our ``rope`` section from the new form."""
    rope: dict[str, Any] = {"base": float(section.get("rope_theta", _DEFAULT_BASE))}
    if share := section.get("partial_rotary_factor", None):
        rope["share"] = float(share)
    rope |= _read_scaling(section)
    section.refuse_unread()
    return rope


def latent_score_factor(rope: Settings) -> float:
    """Return by how much DeepSeek multiplies the scores of a stretched model: (0.1 m ln(factor) + 1)^2.

    m is ``mscale_all_dim``; it leaves the rotated part alone, whose own temperature it divides.
    """
    all_widths = rope.get("mscale_all_dim", 0)
    return _temperature(float(rope["factor"]), float(all_widths)) ** 2 if all_widths else 1.0


def _read_scaling(section: Settings) -> dict[str, Any]:
    kind = section.get("rope_type", None) or section.get("type", None) or "default"
    section.ignore("type", "rope_type")
    readers = {"default": lambda _: {}, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
    if kind not in readers:
        raise section.unsupported("rope_type", kind, ", ".join(readers))
    return readers[kind](section)


def _linear(section: Settings) -> dict[str, Any]:
    section.ignore("original_max_position_embeddings")
    return {"scaling": "linear", "factor": float(section["factor"])}


def _llama3(section: Settings) -> dict[str, Any]:
    return {
        "scaling": "llama3",
        "factor": float(section["factor"]),
        "original_context": int(section["original_max_position_embeddings"]),
        "slow_turns": float(section["low_freq_factor"]),
        "fast_turns": float(section["high_freq_factor"]),
    }


def _yarn(section: Settings) -> dict[str, Any]:
    section.expect("truncate", True)
    return {
        "scaling": "yarn",
        "factor": float(section["factor"]),
        "original_context": int(section["original_max_position_embeddings"]),
        "slow_turns": float(section.get("beta_slow", None) or 1),
        "fast_turns": float(section.get("beta_fast", None) or 32),
        "temperature": _yarn_temperature(section),
    }


def _yarn_temperature(section: Settings) -> float:
    """Return what multiplies rotated queries and keys: given, or by DeepSeek's two factors, or the paper's.

    Source: Peng et al. 2023, "YaRN", equation 22; its two further factors are DeepSeek's.
    """
    factor, given = float(section["factor"]), section.get("attention_factor", None)
    rotated, all_widths = section.get("mscale", None), section.get("mscale_all_dim", None)
    if given is not None:
        return float(given)
    if rotated and all_widths:
        return _temperature(factor, float(rotated)) / _temperature(factor, float(all_widths))
    return _temperature(factor, 1.0)


def _temperature(factor: float, multiple: float) -> float:
    return 0.1 * multiple * math.log(factor) + 1.0 if factor > 1 else 1.0
