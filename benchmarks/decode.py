"""Compare decoding speed with mlx_lm's generate loop: ``python benchmarks/decode.py [--contexts 512 4096]``.

Models of the same sizes with random float32 weights, tied embeddings, greedy, one text: lmexp's llama_small beside
mlx_lm's llama, and an MLA twin of as many parameters beside mlx_lm's deepseek_v2 (which caches expanded keys and
values). Both sides read the same prompt, uncounted, and then take turns, some tokens each, in one process, so that
whatever else the machine does falls on both. Needs mlx-lm; close other programs first. Nothing here belongs to the test
suite.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from lmexp import platform

platform.prepare()

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

from lmexp.compose import compose_run  # noqa: E402
from lmexp.decoding.decoder import Decoder  # noqa: E402
from lmexp.decoding.options import Sampling  # noqa: E402
from lmexp.decoding.sampling import row_keys  # noqa: E402
from lmexp.model.language_model import LanguageModel  # noqa: E402
from lmexp.model.spec import ModelSpec  # noqa: E402

_VOCAB_SIZE = 2048

Generate = Callable[[list[int], int], Iterator[Any]]


def main() -> None:
    """Print two lines for each pair of models and context."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 4096], help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=25, help="generated and timed at each turn")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--models", nargs="+", default=["llama", "mla"], choices=["llama", "mla"])
    given = parser.parse_args()
    print(f"{'model':<6} {'context':>7} {'':<9} {'lmexp':>22} {'mlx_lm':>22} {'ratio':>22}")
    for name in given.models:
        for context in given.contexts:
            _print_lines(name, context, given.tokens, given.turns)


def _print_lines(name: str, context: int, n_tokens: int, turns: int) -> None:
    spec = compose_run(["model=llama_small"]).config.model
    spec = spec if name == "llama" else _mla_twin(spec)
    n_all = n_tokens * (turns + 1) + 1
    prompt = [token % _VOCAB_SIZE for token in range(7, 7 + context)]
    sides = [build(spec, context + n_all)(prompt, n_all) for build in (_ours, _theirs)]
    for side in sides:
        next(side)  # reads the prompt
    speeds = [[_speed(side, n_tokens) for side in sides] for _ in range(turns + 1)][1:]  # the first turn warms up
    for what, clock in (("tok/s", 0), ("tok/CPU s", 1)):
        ours, theirs = ([turn[side][clock] for turn in speeds] for side in (0, 1))
        columns = ours, theirs, [one / other for one, other in zip(ours, theirs, strict=True)]
        cells = " ".join(f"{_summary(column):>22}" for column in columns)
        print(f"{name:<6} {context:>7} {what:<9} {cells}", flush=True)


def _speed(side: Iterator[Any], n_tokens: int) -> tuple[float, float]:
    """Return tokens per second, and per second of all threads on the CPU: on a busy machine that is the steadier."""
    started = time.perf_counter(), time.process_time()
    for _ in islice(side, n_tokens):
        pass
    mx.synchronize()  # the step that is under way is not to cost the other side
    return n_tokens / (time.perf_counter() - started[0]), n_tokens / (time.process_time() - started[1])


def _summary(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def _mla_twin(spec: ModelSpec) -> ModelSpec:
    """Return llama_small with latent attention and a feed-forward of as many more parameters as that saves."""
    twin = replace(spec, layers=["mla"], n_kv_heads=None, mla=replace(spec.mla, kv_rank=64, rope_width=16))
    missing = _n_params(spec) - _n_params(twin)
    per_width = 3 * spec.d_model * spec.n_layers
    return replace(twin, ffn_width=spec.hidden_width + round(missing / per_width))


def _n_params(spec: ModelSpec) -> int:
    return LanguageModel(spec, _VOCAB_SIZE, _VOCAB_SIZE, 8).n_params


def _ours(spec: ModelSpec, room: int) -> Generate:
    model = LanguageModel(spec, _VOCAB_SIZE, _VOCAB_SIZE, room)
    model.eval()
    mx.eval(model.parameters())
    keys = row_keys(0, 1)
    return lambda prompt, n_tokens: iter(Decoder(model, [prompt], n_tokens, Sampling(0), keys))


def _theirs(spec: ModelSpec, room: int) -> Generate:
    from mlx_lm.generate import generate_step

    model = (_mlx_lm_llama if spec.layers == ["gqa"] else _mlx_lm_mla)(spec, room)
    model.eval()
    mx.eval(model.parameters())
    n_params = sum(array.size for _, array in tree_flatten(model.parameters()))
    print(f"# parameters: lmexp {_n_params(spec):,}, mlx_lm {n_params:,}")
    return lambda prompt, n_tokens: generate_step(mx.array(prompt), model, max_tokens=n_tokens)


def _mlx_lm_llama(spec: ModelSpec, room: int) -> Any:
    from mlx_lm.models.llama import Model, ModelArgs

    return Model(
        ModelArgs(
            model_type="llama",
            hidden_size=spec.d_model,
            num_hidden_layers=spec.n_layers,
            intermediate_size=spec.hidden_width,
            num_attention_heads=spec.n_heads,
            num_key_value_heads=spec.kv_heads,
            rms_norm_eps=spec.norm_epsilon,
            vocab_size=_VOCAB_SIZE,
            max_position_embeddings=room,
            tie_word_embeddings=True,
        )
    )


def _mlx_lm_mla(spec: ModelSpec, room: int) -> Any:
    """Its head is untied, which costs the same product, and its RoPE always stretched: here by a factor of 1."""
    from mlx_lm.models.deepseek_v2 import Model, ModelArgs

    return Model(
        ModelArgs(
            vocab_size=_VOCAB_SIZE,
            hidden_size=spec.d_model,
            intermediate_size=spec.hidden_width,
            num_hidden_layers=spec.n_layers,
            num_attention_heads=spec.n_heads,
            num_key_value_heads=spec.n_heads,
            kv_lora_rank=spec.mla.kv_rank,
            q_lora_rank=spec.mla.query_rank,
            qk_rope_head_dim=spec.mla.rope_width,
            qk_nope_head_dim=spec.head_dim,
            v_head_dim=spec.head_dim,
            max_position_embeddings=room,
            rms_norm_eps=spec.norm_epsilon,
            rope_scaling={"factor": 1.0, "original_max_position_embeddings": room},
        )
    )


if __name__ == "__main__":
    main()
