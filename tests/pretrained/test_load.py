"""Reading a folder of published weights: what is found, what is refused, and what each refusal says."""

import json

import mlx.core as mx
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

import lmexp
from lmexp.errors import UserError

ROWS, WIDTH, HIDDEN, CONTEXT = 11, 12, 20, 32
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": ROWS,
    "num_hidden_layers": 1,
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
LAYER = "model.layers.0."
SHAPES = {
    "lm_head.weight": (ROWS, WIDTH),
    "model.embed_tokens.weight": (ROWS, WIDTH),
    "model.norm.weight": (WIDTH,),
    LAYER + "input_layernorm.weight": (WIDTH,),
    LAYER + "post_attention_layernorm.weight": (WIDTH,),
    LAYER + "self_attn.q_proj.weight": (WIDTH, WIDTH),
    LAYER + "self_attn.k_proj.weight": (4, WIDTH),
    LAYER + "self_attn.v_proj.weight": (4, WIDTH),
    LAYER + "self_attn.o_proj.weight": (WIDTH, WIDTH),
    LAYER + "mlp.gate_proj.weight": (HIDDEN, WIDTH),
    LAYER + "mlp.up_proj.weight": (HIDDEN, WIDTH),
    LAYER + "mlp.down_proj.weight": (WIDTH, HIDDEN),
}
TOKENS = mx.array([[1, 5, 2, 7]])


def arrays(**changes):
    drawn = {name: mx.random.normal(shape, key=mx.random.key(i)) for i, (name, shape) in enumerate(SHAPES.items())}
    return {name: array for name, array in (drawn | changes).items() if array is not None}


def published(folder, weights=None, **settings):
    (folder / "config.json").write_text(json.dumps(CONFIG | settings))
    mx.save_safetensors(str(folder / "model.safetensors"), arrays() if weights is None else weights)
    return folder


def logits(folder):
    return np.array(lmexp.load_pretrained(folder).model(TOKENS))


def test_a_folder_becomes_a_model_that_needs_the_folder_no_more(tmp_path):
    model, tokenizer = lmexp.load_pretrained(str(published(tmp_path)))
    (tmp_path / "model.safetensors").unlink()
    assert tokenizer is None
    assert (model.vocab_size, model.context_length, model.training) == (ROWS, CONTEXT, False)
    assert np.isfinite(np.array(model(TOKENS))).all()


def test_shards_are_one_model(tmp_path):
    whole = logits(published(tmp_path))
    weights = arrays()
    (tmp_path / "model.safetensors").unlink()
    index = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(weights)}
    for shard in set(index.values()):
        part = {name: weights[name] for name in weights if index[name] == shard}
        mx.save_safetensors(str(tmp_path / shard), part)
    mx.save_safetensors(str(tmp_path / "other.safetensors"), {"not.in.the.index": mx.zeros(1)})
    with pytest.raises(UserError, match=r"unexpected not\.in\.the\.index"):
        logits(tmp_path)  # without an index every file counts
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert (logits(tmp_path) == whole).all()
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"part-1\.safetensors is missing or damaged"):
        logits(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        logits(tmp_path)


def test_other_files_beside_the_usual_one_are_left_alone(tmp_path):
    whole = logits(published(tmp_path))
    mx.save_safetensors(str(tmp_path / "consolidated.safetensors"), {"tok_embeddings.weight": mx.zeros(1)})
    assert (logits(tmp_path) == whole).all()


def test_the_decoder_alone_has_no_prefix(tmp_path):
    whole = logits(published(tmp_path))
    bare = {name.removeprefix("model."): array for name, array in arrays().items()}
    assert (logits(published(tmp_path, bare)) == whole).all()


def test_a_tied_head_is_the_embedding_whatever_the_file_holds(tmp_path):
    with_head = logits(published(tmp_path, tie_word_embeddings=True))
    without = logits(published(tmp_path, arrays(**{"lm_head.weight": None}), tie_word_embeddings=True))
    assert (with_head == without).all()


def test_weights_keep_their_dtype(tmp_path):
    weights = {name: array.astype(mx.bfloat16) for name, array in arrays().items()}
    model = lmexp.load_pretrained(published(tmp_path, weights)).model
    assert model(TOKENS).dtype == mx.bfloat16


def test_missing_and_unexpected_names_are_listed_in_full(tmp_path):
    changes = {
        LAYER + "mlp.up_proj.weight": None,
        "model.norm.weight": None,
        "model.extra.weight": mx.zeros(3),
        LAYER + "self_attn.q_proj.bias": mx.zeros(WIDTH),
        LAYER + "self_attn.rotary_emb.inv_freq": mx.zeros(2),  # of old files; holds nothing
    }
    with pytest.raises(UserError) as caught:
        lmexp.load_pretrained(published(tmp_path, arrays(**changes)))
    assert (
        "missing model.layers.0.mlp.up_proj.weight, model.norm.weight; unexpected model.extra.weight, "
        "model.layers.0.self_attn.q_proj.bias;"
    ) in str(caught.value)


def test_a_wrong_shape_is_named_with_the_right_one(tmp_path):
    weights = arrays(**{LAYER + "self_attn.k_proj.weight": mx.zeros((8, WIDTH))})
    with pytest.raises(UserError, match=r"self_attn\.k_proj\.weight has the shape \(8, 12\).*\(4, 12\)"):
        lmexp.load_pretrained(published(tmp_path, weights))


@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 5)])
@pytest.mark.parametrize("name", [name for name in SHAPES if "q_proj" in name or "embed" in name])
def test_an_array_of_another_rank_is_a_wrong_shape_too(tmp_path, name, shape):
    with pytest.raises(UserError, match=f"{name} has the shape"):
        lmexp.load_pretrained(published(tmp_path, arrays(**{name: mx.zeros(shape)})))


def test_whole_numbers_are_no_weights(tmp_path):
    weights = arrays(**{"model.norm.weight": mx.zeros(WIDTH, mx.int32)})
    with pytest.raises(UserError, match=r"model\.norm\.weight holds mlx\.core\.int32.*not quantized"):
        lmexp.load_pretrained(published(tmp_path, weights))


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("hidden_size", "twelve", "a whole number from 1 up"),
        ("hidden_size", 12.5, "a whole number from 1 up"),
        ("hidden_size", None, "a whole number from 1 up"),
        ("hidden_size", True, "a whole number from 1 up"),
        ("num_attention_heads", 0, "a whole number from 1 up"),
        ("max_position_embeddings", [32], "a whole number from 1 up"),
        ("vocab_size", -1, "a whole number from 1 up"),
        ("rms_norm_eps", "small", "a number"),
        ("rope_theta", {"base": 1}, "a number"),
        ("tie_word_embeddings", "no", "true or false"),
        ("model_type", 3, "text"),
        ("rope_scaling", [1], "a section of keys"),
        ("rope_parameters", "default", "a section of keys"),
    ],
)
def test_a_value_of_another_kind_is_named_with_what_it_must_be(tmp_path, key, value, kind):
    with pytest.raises(UserError, match=f"has {key}=.*, which must be {kind}:"):
        lmexp.load_pretrained(published(tmp_path, **{key: value}))


def test_null_is_no_value_where_one_may_be_left_out(tmp_path):
    nothing = {"rope_scaling": None, "rope_parameters": None, "head_dim": None}
    assert (logits(published(tmp_path, **nothing)) == logits(published(tmp_path))).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "mistralx"}, r"Unknown architecture 'mistralx'.*gpt2.*llama"),
        ({"attention_bias": True}, "attention_bias=true.*supports false"),
        ({"mlp_bias": True}, "mlp_bias=true"),
        ({"hidden_act": "gelu"}, 'hidden_act="gelu".*supports "silu"'),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 'rope_type="dynamic".*linear, llama3, yarn'),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "twist": 3}}, "rope_scaling.*twist=3"),
        ({"quantization_config": {"bits": 4}}, r"does not know.*quantization_config=\{\"bits\": 4\}"),
        ({"residual_multiplier": 0.2}, "residual_multiplier=0.2"),
    ],
)
def test_what_would_change_the_numbers_is_refused(tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        lmexp.load_pretrained(published(tmp_path, **settings))


def test_a_setting_that_must_be_there_is_named(tmp_path):
    published(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="lacks 'num_hidden_layers'"):
        lmexp.load_pretrained(tmp_path)


def test_what_is_no_folder_of_weights_is_refused_in_words(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json"):
        lmexp.load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        lmexp.load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(UserError, match=r"no \.safetensors file"):
        lmexp.load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12345678901234567890")
    with pytest.raises(UserError, match="is missing or damaged"):
        lmexp.load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LocalEntryNotFoundError("long story"), r"cannot be downloaded \(the hub cannot be reached\): check the name"),
        (RepositoryNotFoundError.__new__(RepositoryNotFoundError), "the hub has no such model"),
        (OSError("no space left"), r"cannot be downloaded \(no space left\)"),
    ],
)
def test_a_hub_id_that_cannot_be_had_is_said_in_one_sentence(monkeypatch, error, said):
    def failing(name, allow_patterns):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", failing)
    with pytest.raises(UserError, match=f"nobody/nothing is not a folder, and .*{said}"):
        lmexp.load_pretrained("nobody/nothing")


def test_what_is_neither_a_folder_nor_a_hub_id_is_said_in_one_sentence():
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        lmexp.load_pretrained("no/such/folder")


def test_a_hub_id_is_read_from_its_download(tmp_path, monkeypatch):
    folder = published(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, allow_patterns: {"a/b": folder}[name])
    assert lmexp.load_pretrained("a/b").model.vocab_size == ROWS


def test_the_tokenizer_comes_along_and_rows_beyond_it_are_padding(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "?": 8}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.decoder = decoders.Fuse()
    words.save(str(published(tmp_path) / "tokenizer.json"))
    model, tokenizer = lmexp.load_pretrained(tmp_path)
    assert tokenizer is not None
    assert tokenizer.encode("a c b d").tolist() == [0, 2, 1, 8]
    assert tokenizer.decode(np.array([2, 0])) == "ca"
    assert (model.vocab_size, model.padded_vocab_size) == (9, ROWS)
    assert (np.array(model(TOKENS))[..., 9:] < -1e8).all()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged"):
        lmexp.load_pretrained(tmp_path)
