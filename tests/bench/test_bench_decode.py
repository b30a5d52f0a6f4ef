"""Laws of timing a decoder, and of the models that it is compared with."""

from dataclasses import replace

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from tiny_specs import GPT, LLAMA

from lmexp.bench import decode
from lmexp.bench.child import Task
from lmexp.bench.decode import timed
from lmexp.compose import compose_run
from lmexp.errors import UserError
from lmexp.model.language_model import LanguageModel

MLA = replace(LLAMA, layers=["mla"], n_kv_heads=None)


def test_the_first_token_is_timed_apart_and_warming_up_is_not_counted():
    # Handed out at 5 (the prompt), 7 and 8 (slow still), then two every second.
    times = iter([2.0, 5.0, 7.0, 8.0, 8.5, 9.0, 9.5])
    assert timed(range(6), uncounted=2, now=lambda: next(times)) == (3.0, 2.0)


@pytest.mark.parametrize("spec", [LLAMA, replace(LLAMA, tie_embeddings=False, head_width=10)])
def test_mlx_lm_decodes_a_llama_of_the_same_sizes(spec):
    pytest.importorskip("mlx_lm")
    from lmexp.bench.mlx_lm_model import build, check

    check(spec)
    ours, theirs = LanguageModel(spec, 64, 64, 16), build(spec, 64, 16)
    sizes = sorted(array.shape for _, array in tree_flatten(ours.parameters()))
    assert sorted(array.shape for _, array in tree_flatten(theirs.parameters())) == sizes
    assert theirs(mx.array([[1, 2, 3]])).shape == (1, 3, 64)


def test_mlx_lm_decodes_latent_attention_of_the_same_sizes():
    pytest.importorskip("mlx_lm")
    from lmexp.bench.mlx_lm_model import build, check

    spec = replace(MLA, tie_embeddings=False)  # its head is never tied
    check(spec)
    ours, theirs = LanguageModel(spec, 64, 64, 16), build(spec, 64, 16)
    assert theirs(mx.array([[1, 2, 3]])).shape == (1, 3, 64)
    count = sum(array.size for _, array in tree_flatten(theirs.parameters()))
    # It norms the latent as we do; ours may cut a matrix elsewhere, so the numbers are counted, not the shapes.
    assert count == ours.n_params


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (GPT, "model.ffn=gelu"),
        (replace(LLAMA, layers=["mla", "gqa"]), "model.layers"),
        (replace(LLAMA, bias=True), "bias"),
    ],
)
def test_another_model_is_refused_by_name(spec, said):
    from lmexp.bench.mlx_lm_model import check

    with pytest.raises(UserError, match=f"compares llama_.* not .*{said}"):
        check(spec)


def test_mlx_lm_decodes_the_same_prompts(small):
    pytest.importorskip("mlx_lm")
    config = compose_run([*small, "model=llama_tiny"]).config
    figures = decode.mlx_lm(Task(config, "cpu", 1.0, {"lengths": [5], "tokens": 3}))
    assert set(figures) == {"first_token_seconds_after_5", "tokens_per_second_after_5"}
    assert all(value > 0 for value in figures.values())
