"""Presets of published size are what their publishers say: the count, every setting, and transformers' own count."""

import json
from dataclasses import asdict
from functools import cache
from typing import Any, NamedTuple

import published
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lmexp.config import spec_from
from lmexp.files import installed_folder
from lmexp.model.language_model import LanguageModel
from lmexp.model.spec import ModelSpec
from lmexp.pretrained.families import FAMILIES
from lmexp.pretrained.settings import Settings
from lmexp.pretrained.spec import spec_of


class Published(NamedTuple):
    """A model as it was published, written down here a second time on purpose."""

    n_params: int
    family: str  # of transformers
    settings: dict[str, Any]


_7B = {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000,
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
}
_GPT2 = {"vocab_size": 50257, "n_positions": 1024}

PUBLISHED = {
    "gpt2": Published(124_439_808, "GPT2", _GPT2 | {"n_layer": 12, "n_embd": 768, "n_head": 12}),
    "gpt2_medium": Published(354_823_168, "GPT2", _GPT2 | {"n_layer": 24, "n_embd": 1024, "n_head": 16}),
    "gpt2_large": Published(774_030_080, "GPT2", _GPT2 | {"n_layer": 36, "n_embd": 1280, "n_head": 20}),
    "gpt2_xl": Published(1_557_611_200, "GPT2", _GPT2 | {"n_layer": 48, "n_embd": 1600, "n_head": 25}),
    "llama_7b": Published(6_738_415_616, "Llama", _7B | {"vocab_size": 32000, "intermediate_size": 11008}),
    "llama3_8b": Published(
        8_030_261_248,
        "Llama",
        _7B
        | {
            "vocab_size": 128256,
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        },
    ),
    "mistral_7b": Published(
        7_241_732_096,
        "Mistral",
        _7B
        | {
            "vocab_size": 32000,
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "sliding_window": 4096,
        },
    ),
    "mixtral_8x7b": Published(
        46_702_792_704,
        "Mixtral",
        _7B | {"vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8, "num_local_experts": 8},
    ),
    "gemma3_1b": Published(
        999_885_952,
        "Gemma3",
        {
            "vocab_size": 262144,
            "num_hidden_layers": 26,
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "sliding_window": 512,
        },
    ),
    "gemma3_4b": Published(
        3_880_263_168,
        "Gemma3",
        {
            "vocab_size": 262208,
            "num_hidden_layers": 34,
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 1024,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "qwen3_0_6b": Published(
        596_049_920,
        "Qwen3",
        {
            "vocab_size": 151936,
            "num_hidden_layers": 28,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
    "qwen3_next_80b": Published(
        79_674_391_296,
        "Qwen3Next",
        {
            "vocab_size": 151936,
            "num_hidden_layers": 48,
            "hidden_size": 2048,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "num_experts": 512,
            "num_experts_per_tok": 10,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
        },
    ),
    "deepseek_v2_lite": Published(
        15_706_484_224,
        "DeepseekV2",
        {
            "vocab_size": 102400,
            "num_hidden_layers": 27,
            "hidden_size": 2048,
            "intermediate_size": 10944,
            "moe_intermediate_size": 1408,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "q_lora_rank": None,
            "n_routed_experts": 64,
            "num_experts_per_tok": 6,
            "first_k_dense_replace": 1,
            "rope_parameters": _YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
        },
    ),
    "deepseek_v2": Published(
        235_741_434_880,
        "DeepseekV2",
        {
            "vocab_size": 102400,
            "num_hidden_layers": 60,
            "hidden_size": 5120,
            "intermediate_size": 12288,
            "moe_intermediate_size": 1536,
            "num_attention_heads": 128,
            "num_key_value_heads": 128,
            "n_routed_experts": 160,
            "num_experts_per_tok": 6,
            "first_k_dense_replace": 1,
            "topk_method": "group_limited_greedy",
            "n_group": 8,
            "topk_group": 3,
            "routed_scaling_factor": 16.0,
            "rope_parameters": _YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
        },
    ),
    # 671,026,419,200 are published: 58 routers have a bias for each of 256 experts, which nobody trains by gradients.
    "deepseek_v3": Published(
        671_026_419_200 - 58 * 256,
        "DeepseekV3",
        {
            "vocab_size": 129280,
            "num_hidden_layers": 61,
            "hidden_size": 7168,
            "intermediate_size": 18432,
            "moe_intermediate_size": 2048,
            "num_attention_heads": 128,
            "num_key_value_heads": 128,
            "q_lora_rank": 1536,
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
            "first_k_dense_replace": 3,
            "n_group": 8,
            "topk_group": 4,
            "routed_scaling_factor": 2.5,
            "rope_parameters": _YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
        },
    ),
}


@cache
def spec_named(name):
    with initialize_config_dir(str(installed_folder("conf")), version_base="1.3"):
        return spec_from(ModelSpec, OmegaConf.to_container(compose(overrides=[f"+model={name}"]).model))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_weighs_what_was_published(name):
    """Nothing is computed to count: an array of the largest model alone would not fit into memory."""
    paper = PUBLISHED[name]
    vocab_size, context_length = paper.settings["vocab_size"], paper.settings.get("n_positions", 64)
    assert LanguageModel(spec_named(name), vocab_size, vocab_size, context_length).n_params == paper.n_params


@pytest.mark.parametrize("name", PUBLISHED)
def test_transformers_counts_the_same(name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    paper = PUBLISHED[name]
    with torch.device("meta"):  # shapes only
        model = published.model_of(paper.family, published.config_of(paper.family, paper.settings))
    model.tie_weights()
    assert sum(array.numel() for array in model.parameters()) == paper.n_params


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_is_what_its_config_json_says(name):
    """Every setting that has a meaning is the same, whether it comes from the preset or from the published file."""
    pytest.importorskip("transformers")
    paper = PUBLISHED[name]
    config = json.loads(published.config_of(paper.family, paper.settings).to_json_string())
    settings = Settings(config, "config.json")
    ours, theirs = spec_named(name), spec_of(FAMILIES[config["model_type"]].read(settings))
    assert meaning(ours) == meaning(theirs)


# What files published before ``rope_parameters`` hold besides, all of it without effect or as lmexp assumes.
_ONCE = {
    "gpt2": {"n_ctx": 1024, "task_specific_params": {"text-generation": {"do_sample": True}}},
    "llama": {"pretraining_tp": 1, "torch_dtype": "bfloat16"},
    "mistral": {"_name_or_path": "somewhere"},
    "mixtral": {"router_aux_loss_coef": 0.02},
    "gemma3_text": {"cache_implementation": "hybrid", "sliding_window_pattern": 6},
    "qwen3": {"use_sliding_window": False, "max_window_layers": 28},
    "qwen3_next": {"full_attention_interval": 4, "use_sliding_window": False},
    "deepseek_v2": {"ep_size": 1, "moe_layer_freq": 1, "seq_aux": True, "scoring_func": "softmax", "auto_map": {}},
    "deepseek_v3": {"ep_size": 1, "moe_layer_freq": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid"},
}


def as_once_published(config: dict[str, Any]) -> dict[str, Any]:
    """Return the same settings in the older form of the file."""
    once = config | _ONCE[config["model_type"]]
    once.pop("layer_types", None)
    once.pop("_sliding_window_pattern", None)
    rope = dict(once.pop("rope_parameters", {}))
    if local := rope.pop("sliding_attention", None):
        rope, once["rope_local_base_freq"] = dict(rope["full_attention"]), local["rope_theta"]
    if rope:
        once["rope_theta"] = rope.pop("rope_theta")
        if share := rope.pop("partial_rotary_factor", None):
            once["partial_rotary_factor"] = share
        kind = rope.pop("rope_type")
        once["rope_scaling"] = None if kind == "default" else rope | {"type": kind}
    return once


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_older_form_of_config_json_says_the_same(name):
    pytest.importorskip("transformers")
    paper = PUBLISHED[name]
    new = json.loads(published.config_of(paper.family, paper.settings).to_json_string())
    family, old = FAMILIES[new["model_type"]], Settings(as_once_published(new), "config.json")
    assert meaning(spec_of(family.read(old))) == meaning(spec_of(family.read(Settings(new, "config.json"))))
    assert old["vocab_size"] == paper.settings["vocab_size"]
    assert old[family.context_key] > 0
    old.refuse_unread()


def meaning(spec: ModelSpec) -> dict[str, Any]:
    """Return what a spec says, however it says it."""
    names = ("mixers", "kv_heads", "head_dim", "hidden_width", "attention_scale")
    said = asdict(spec) | {name: getattr(spec, name) for name in names}
    for name in ("layers", "n_kv_heads", "head_width", "ffn_width", "ffn_expansion"):
        del said[name]
    if said["experts"]["n_experts"] and not spec.experts.n_dense_layers:
        del said["hidden_width"]  # nothing has it
        said["experts"]["width"] = spec.experts.width or spec.hidden_width
    said["experts"].pop("balance_rate")  # how it is trained
    if said["attention_scale"] is None:
        said["attention_scale"] = spec.head_dim**-0.5
    if spec.delta.value_width is None:
        said["delta"]["value_width"] = spec.delta.key_width
    if spec.mla.value_width is None:
        said["mla"]["value_width"] = spec.head_dim
    return rounded(said)


def rounded(value: Any) -> Any:
    """Return nested values with every number cut to 12 digits: a scale that a file states and one that is computed."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return float(f"{value:.12g}") if isinstance(value, float) else value
