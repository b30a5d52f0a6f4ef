"""A run that trains nothing: what it measures of a generation, and the search for the longest sequence."""

import gc
import io
import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tiny_specs import GPT, LAWFUL, LLAMA

from lmexp import results
from lmexp import run as run_room
from lmexp.compose import compose_run
from lmexp.config import FrozenRun
from lmexp.costs import child, longest
from lmexp.costs.generation import next_token, time_generation
from lmexp.costs.longest import Task, longest_length
from lmexp.display import metric_of
from lmexp.errors import UserError
from lmexp.model.language_model import LanguageModel
from lmexp.run import run
from lmexp.single import summarise

N_TOKENS, VOCAB = 24, 29
MLA = replace(LLAMA, layers=["mla"])
DECODE = ("decode=benchmark", f"decode.n_tokens={N_TOKENS}", f"data.context_length={N_TOKENS}")


@pytest.fixture(autouse=True)
def _quick_probe(monkeypatch):
    """The probe takes a second and has tests of its own."""
    monkeypatch.setattr(run_room.platform, "probe", lambda: 1.0)


@pytest.fixture
def without_child(monkeypatch):
    """Let a child of 1,000 tokens stand in for a process."""
    monkeypatch.setattr(longest._Child, "holds", lambda self, length: length <= 1000)


def make_model(spec, context=N_TOKENS):
    return LanguageModel(spec, VOCAB, VOCAB + 2, context)


def time_it(spec):
    return time_generation(make_model(spec), prompt=3, n_tokens=N_TOKENS, tell=lambda *_: None)


def task(spec=LLAMA, limit=1 << 40, context=N_TOKENS):
    return Task(spec, VOCAB, VOCAB + 2, context, "float32", limit)


def test_a_decode_run_measures_and_trains_nothing(small, tmp_path, without_child):
    frozen = FrozenRun(compose_run([*small, *DECODE]).config, tmp_path / "run")
    frozen.folder.mkdir()
    told = []
    gc.collect()
    held_bytes = mx.get_active_memory()  # by the tests before this one; it counts in the peak
    row = run(frozen, told.append)
    stored = results.read_row(frozen.folder)
    assert row["status"] == "ok"
    assert stored["decode_tokens_per_second"] > 0
    # gpt_tiny, 16 wide: keys and values, float32
    assert stored["cache_bytes_per_token_per_layer"] == 2 * 16 * 4
    weights_and_cache = 4 * stored["n_params"] + N_TOKENS * 2 * 2 * 16 * 4
    assert weights_and_cache < stored["decode_peak_memory_bytes"] - held_bytes < 2 * weights_and_cache
    assert stored["longest_length_tokens"] == N_TOKENS  # it has no positions for more
    assert stored["probe_before"] > 0
    assert stored["probe_after"] > 0
    for column in ("val_bpb", "train_seconds", "steps", "tokens", "tokens_per_second", "peak_memory_bytes"):
        assert stored[column] is None
    assert results.read_points(frozen.folder) == []
    assert not (frozen.folder / "checkpoint").exists()
    assert {"generating", "looking for the longest sequence"} <= {each.phase for each in told}

    printed = io.StringIO()
    summarise(frozen, stored, Console(file=printed, width=100))
    words = printed.getvalue()
    assert all(
        part in words for part in ("one sequence of 24 tokens", "128 bytes", "1,024.0 MiB", "no positions for more")
    )
    assert "lmexp generate" not in words  # there are no weights to generate from


def test_without_a_limit_nobody_looks_for_the_longest(small, tmp_path):
    frozen = FrozenRun(compose_run([*small, *DECODE, "decode.memory_limit_bytes=null"]).config, tmp_path / "run")
    frozen.folder.mkdir()
    row = run(frozen, lambda _: None)
    assert row["status"] == "ok"
    assert results.read_row(frozen.folder)["longest_length_tokens"] is None
    printed = io.StringIO()
    summarise(frozen, row, Console(file=printed, width=100))
    assert "longest" not in printed.getvalue()


def test_cache_bytes_are_those_of_the_arrays():
    heads, width = LLAMA.kv_heads, LLAMA.head_dim
    assert time_it(LLAMA).cache_bytes_per_token_per_layer == 2 * heads * width * 4
    assert time_it(MLA).cache_bytes_per_token_per_layer == (MLA.mla.kv_rank + MLA.mla.rope_width) * 4


def test_what_is_counted_is_the_same_every_time():
    first, second = time_it(MLA), time_it(MLA)
    assert first.cache_bytes_per_token_per_layer == second.cache_bytes_per_token_per_layer
    assert first.tokens_per_second > 0


@pytest.mark.parametrize("spec", LAWFUL.values(), ids=LAWFUL)
def test_skipping_takes_the_memory_that_reading_takes(spec):
    model, n_read = make_model(spec), 19
    read, skipped = model.make_caches(N_TOKENS), model.make_caches(N_TOKENS)
    model(mx.zeros((1, n_read), mx.int32), read)
    next_token(model, skipped, mx.array([[0]]))
    for cache in skipped:
        cache.skip(n_read - 1)
    for caches in (read, skipped):
        next_token(model, caches, mx.array([[0]]))
    for one, other in zip(read, skipped, strict=True):
        assert [array.shape for array in one.arrays()] == [array.shape for array in other.arrays()]
        assert one.position == other.position == n_read + 1


@given(fits=st.integers(64, 10_000_000))
def test_the_search_finds_the_length_to_one_part_in_64(fits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(longest._Child, "holds", lambda self, length: length <= fits)
        found = longest_length(task())
    assert found <= fits <= found * (1 + 1 / 64) + 1


def test_the_search_ends_where_a_model_cannot_read_on(without_child):
    assert longest_length(task(GPT, context=300)) == 300
    assert longest_length(task(GPT, context=20)) == 20


@pytest.mark.skipif(sys.platform != "linux" or mx.default_device() != mx.cpu, reason="no limit is enforced here")
def test_a_child_dies_of_what_does_not_fit_and_the_search_goes_on(monkeypatch):
    monkeypatch.setattr(longest, "_PRECISION", 4)
    wide = replace(LLAMA, d_model=256, n_heads=8, n_kv_heads=8, head_width=256)
    limit, bytes_per_token = 400 << 20, 2 * 8 * 256 * 4 * wide.n_layers
    found = longest_length(task(wide, limit))
    # Python, MLX and the BLAS take some of it (about 100 MiB here), and the search stops at a quarter below.
    assert 0.25 * limit < found * bytes_per_token < limit


def test_a_length_does_not_feel_what_was_asked_before(monkeypatch):
    """Memory that an earlier, longer text has cut up is no limit of this one: each question has a process to itself."""
    pids, start = [], longest._Child._start

    def started(self):
        process = start(self)
        pids.append(process.pid)
        return process

    monkeypatch.setattr(longest._Child, "_start", started)
    with longest._Child(task()) as child:
        assert [child.holds(length) for length in (90, 64)] == [True, True]
    assert len(set(pids)) == 2


def test_where_nothing_enforces_the_limit_the_peak_is_compared_with_it(monkeypatch, capsys):
    """The child's own part, in this process."""
    made = make_model(LLAMA)
    bytes_per_token = 2 * LLAMA.kv_heads * LLAMA.head_dim * 4 * LLAMA.n_layers
    limit = mx.get_active_memory() + 4 * made.n_params + 100_000 * bytes_per_token  # what other tests left, too
    monkeypatch.setattr(child, "is_enforced", lambda: False)
    questions = pickle.dumps(task(limit=limit)) + b"64\n80000\n100001\n90\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(questions)))
    child.main()
    assert capsys.readouterr().out.split("\n") == ["fits", "fits", "too long", "fits", ""]


def test_a_limit_that_does_not_hold_the_model_is_refused(monkeypatch):
    monkeypatch.setattr(longest._Child, "holds", lambda self, length: False)
    with pytest.raises(UserError, match="does not hold the model and 64 tokens"):
        longest_length(task())


def test_a_child_that_dies_of_something_else_is_an_error():
    with pytest.raises(RuntimeError, match="no attribute 'nonsense'"):
        longest_length(replace(task(), dtype="nonsense"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["decode.n_tokens=25"], r"add data\.context_length=25"),
        (["decode.n_tokens=8"], "too short to time"),
        (["decode.memory_limit_bytes=0"], "too small"),
    ],
)
def test_mistakes_are_told(small, overrides, words):
    with pytest.raises(UserError, match=words):
        compose_run([*small, *DECODE, *overrides])


def test_a_sweep_of_runs_that_generate_shows_their_speed():
    generates, trains = (compose_run(["model=gpt_tiny", f"decode={decode}"]) for decode in ("benchmark", "none"))
    assert metric_of([generates]) == "decode_tokens_per_second"
    assert metric_of([generates, trains]) == metric_of([trains]) == "val_bpb"
