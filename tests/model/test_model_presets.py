"""Every preset composes, has the stated size, and weighs exactly what a formula on paper says."""

import re
from dataclasses import fields
from typing import NamedTuple

import mlx.core as mx
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lmexp.config import spec_from
from lmexp.errors import UserError
from lmexp.files import installed_folder
from lmexp.model.count import named_parameters
from lmexp.model.language_model import LanguageModel
from lmexp.model.spec import ModelSpec

VOCAB, PADDED, CONTEXT = 65, 128, 96
SIZES = {"tiny": (64, 2, 4), "small": (256, 6, 8), "medium": (512, 8, 8)}
PRESETS = [f"{family}_{size}" for family in ("gpt", "llama") for size in SIZES]


def preset(name, *overrides):
    with initialize_config_dir(str(installed_folder("conf")), version_base="1.3"):
        config = compose(overrides=[f"+model={name}", *overrides])
    return OmegaConf.to_container(config.model)


def model_of(name, *overrides):
    return LanguageModel(spec_from(ModelSpec, preset(name, *overrides)), VOCAB, PADDED, CONTEXT)


def test_the_presets_are_those_tested_here():
    found = {path.stem for path in (installed_folder("conf") / "model").glob("[!_]*.yaml")}
    assert set(PRESETS) <= found
    for name in found:
        spec_from(ModelSpec, preset(name))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_every_field_and_the_stated_size(name):
    values = preset(name)
    assert set(values) == {field.name for field in fields(ModelSpec)}
    spec = spec_from(ModelSpec, values)
    assert (spec.d_model, spec.n_layers, spec.n_heads) == SIZES[name.split("_")[1]]


@pytest.mark.parametrize("size", SIZES)
def test_the_two_families_differ_as_the_ablation_says(size):
    gpt, llama = spec_from(ModelSpec, preset(f"gpt_{size}")), spec_from(ModelSpec, preset(f"llama_{size}"))
    assert (gpt.kv_heads, gpt.ffn, gpt.norm, gpt.position, gpt.bias) == (
        gpt.n_heads,
        "gelu",
        "layernorm",
        "sinusoidal",
        True,
    )
    assert (llama.kv_heads, llama.ffn, llama.norm, llama.position, llama.bias) == (
        llama.n_heads // 2,
        "swiglu",
        "rmsnorm",
        "rope",
        False,
    )
    assert (gpt.tie_embeddings, gpt.dropout) == (llama.tie_embeddings, llama.dropout) == (True, 0.0)


def test_every_llama_feature_is_one_override_of_gpt():
    llama = preset("llama_small")
    overrides = [f"model.{key}={value}" for key, value in llama.items() if value != preset("gpt_small")[key]]
    assert preset("gpt_small", *overrides) == llama
    assert len(overrides) == 5


class Paper(NamedTuple):
    """A preset's dimensions, written down here a second time on purpose."""

    d: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    matrices: int  # of a feed-forward
    biases: bool
    norm_vectors: int  # a gain, and LayerNorm's bias


ON_PAPER = {
    "gpt_tiny": Paper(64, 2, 4, 4, 256, 2, True, 2),
    "gpt_small": Paper(256, 6, 8, 8, 1024, 2, True, 2),
    "gpt_medium": Paper(512, 8, 8, 8, 2048, 2, True, 2),
    "llama_tiny": Paper(64, 2, 4, 2, 168, 3, False, 1),
    "llama_small": Paper(256, 6, 8, 4, 680, 3, False, 1),
    "llama_medium": Paper(512, 8, 8, 4, 1368, 3, False, 1),
}


def count_on_paper(p: Paper) -> int:
    """Count one model's weights outside its embeddings, from its dimensions alone."""
    kv = p.d // p.heads * p.kv_heads
    attention = p.d * p.d + p.d * kv + p.d * kv + p.d * p.d
    feedforward = p.matrices * p.d * p.hidden
    bias = (p.d + kv + kv + p.d) + (p.matrices - 1) * p.hidden + p.d if p.biases else 0
    return p.layers * (attention + feedforward + bias + 2 * p.norm_vectors * p.d) + p.norm_vectors * p.d


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_counted_exactly(name):
    paper, model = ON_PAPER[name], model_of(name)
    assert model.n_params_non_embedding == count_on_paper(paper)
    assert model.n_params == count_on_paper(paper) + PADDED * paper.d


def test_positions_and_an_untied_head_count_as_embedding():
    model = model_of("gpt_tiny", "model.position=learned", "model.tie_embeddings=false")
    assert model.n_params_non_embedding == count_on_paper(ON_PAPER["gpt_tiny"])
    assert model.n_params == model.n_params_non_embedding + (PADDED + CONTEXT + PADDED) * 64


def test_microgpt_weighs_what_its_author_says_and_the_gains_of_three_norms():
    """27 tokens and a context of 16: 4,192 parameters; ours has a gain of 16 in each norm."""
    assert LanguageModel(spec_from(ModelSpec, preset("microgpt")), 27, 27, 16).n_params == 4192 + 3 * 16


SAID = [
    (r"(\d+) wide", lambda spec: spec.d_model),
    (r"(\d+) layers?\b", lambda spec: spec.n_layers),
    (r"sees? (\d+)", lambda spec: spec.window),
    (r"of (\d+) experts", lambda spec: spec.experts.n_experts),
    (r"(\d+) of \d+ experts", lambda spec: spec.experts.n_active),
]


@pytest.mark.parametrize("name", sorted(path.stem for path in (installed_folder("conf") / "model").glob("[!_]*.yaml")))
def test_the_first_line_of_a_preset_tells_the_truth(name):
    line = (installed_folder("conf") / "model" / f"{name}.yaml").read_text().partition("\n")[0]
    spec = spec_from(ModelSpec, preset(name))
    numbers = [(float(match[1]), of(spec)) for pattern, of in SAID if (match := re.search(pattern, line))]
    if match := re.search(r"([\d.]+) (m|b)illion parameters at ([\d,]+) tokens", line):
        vocab_size, unit = int(match[3].replace(",", "")), {"m": 1e6, "b": 1e9}[match[2]]
        model = LanguageModel(spec, vocab_size, vocab_size, 1024)
        digits = len(match[1].partition(".")[2])
        numbers.append((float(match[1]), round(model.n_params / unit, digits)))
    assert numbers, "the line has no number"
    assert all(said == true for said, true in numbers), numbers


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("tied", ["true", "false"])
def test_flops_are_six_per_multiplied_weight_and_twelve_for_attention(name, tied):
    """PaLM's appendix B: 6 N + 12 L H Q T, with N the weights of matrix products and H Q the width."""
    paper = ON_PAPER[name]._replace(biases=False, norm_vectors=0)
    multiplied = count_on_paper(paper) + PADDED * paper.d
    expected = 6 * multiplied + 12 * paper.layers * paper.d * CONTEXT
    assert model_of(name, f"model.tie_embeddings={tied}").flops_per_token == expected


def test_no_bias_means_no_bias_anywhere():
    def biases(name, *overrides):
        return [path for path, _ in named_parameters(model_of(name, *overrides)) if path.endswith("bias")]

    assert biases("gpt_tiny", "model.bias=false") == biases("llama_tiny") == []
    assert (
        len(biases("gpt_tiny")) == 2 * (4 + 2 + 2) + 1
    )  # per layer: attention, feed-forward, norms; and the final norm


@pytest.mark.parametrize("name", ["gpt_tiny", "llama_tiny"])
def test_a_preset_predicts(name):
    logits = model_of(name)(mx.zeros((2, 3), dtype=mx.int32))
    assert logits.shape == (2, 3, PADDED)
    assert mx.all(mx.isfinite(logits))


def test_a_wrong_override_is_refused_as_typed():
    with pytest.raises(UserError, match=r"model.n_heads=3 does not divide model.d_model=256: choose one of 1, 2, 4"):
        model_of("gpt_small", "model.n_heads=3")
