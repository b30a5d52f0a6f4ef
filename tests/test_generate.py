"""``lmexp generate`` as it is typed: what is printed where, and what is refused in one sentence."""

import dataclasses
import io

import mlx.core as mx
import pytest

from lmexp import results
from lmexp import run as run_room
from lmexp.cli import main
from lmexp.compose import compose_run
from lmexp.decoding.options import Sampling
from lmexp.generate import load_model, load_run, stream_text, stream_texts, write, write_candidates
from lmexp.run import run

PROMPTS = ["line 1", "quick é", "x"]
WARM = Sampling(1.0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the folders of two runs of two steps on one text, with seeds 0 and 1, and of one with other tokens."""
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "text.txt"
    text.write_text("".join(f"line {n}: the quick é fox number {n * 7 % 13} jumps.\n" for n in range(300)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_room.platform, "probe", lambda: 1.0)  # it takes a second and has tests of its own
        return [_train(folder, text, *arm) for arm in (("byte", 0), ("byte", 1), ("char", 0))]


def _train(folder, text, tokenizer, seed):
    overrides = [
        "model=llama_tiny",
        "model.d_model=16",
        "data=text",
        f"data.path={text}",
        f"data.tokenizer={tokenizer}",
    ]
    overrides += [
        "data.context_length=12",
        "data.batch_size=4",
        "budget=steps",
        "budget.steps=2",
        "budget.evaluations=1",
    ]
    frozen = compose_run([*overrides, "compile=none", f"seed={seed}"])
    frozen = dataclasses.replace(frozen, folder=results.make_writable(folder / f"{tokenizer}{seed}"))
    assert run(frozen, lambda observation: None)["status"] == "ok"
    return frozen.folder


@pytest.fixture
def generate(runs, capsys):
    """Return a function from arguments to (exit code, standard output, error output)."""

    def call(*arguments):
        code = main(["generate", str(runs[0]), *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_text_is_printed_after_its_prompt(runs, generate):
    model, tokenizer = load_run(runs[0])
    options = ["--temperature", 1.0, "--seed", 3, "--tokens", 20]
    texts = [generate("--prompt", prompt, *options) for prompt in PROMPTS]
    assert texts == [
        (0, prompt + text + "\n", "")
        for prompt, text in zip(PROMPTS, write(model, tokenizer, PROMPTS, 20, WARM, 3), strict=True)
    ]
    assert generate("--prompt", PROMPTS[0], *options[:2], "--seed", 4, *options[4:])[1] != texts[0][1]


def test_several_texts_have_titles_and_are_those_of_each_alone(generate):
    options = ["--tokens", 9, "--top-k", 20]
    alone = [generate("--prompt", prompt, *options)[1] for prompt in PROMPTS]
    several = [option for prompt in PROMPTS for option in ("--prompt", prompt)]
    titled = [f"--- {place} of 3 ---\n{text}" for place, text in enumerate(alone, 1)]
    assert generate(*several, *options) == (0, "".join(titled), "")
    samples = generate("--prompt", PROMPTS[0], "--samples", 2, *options)[1]
    first, second = samples.removeprefix("--- 1 of 2 ---\n").split("--- 2 of 2 ---\n")
    assert first == alone[0] != second


def test_texts_of_samples_do_not_depend_on_what_stands_beside_them(runs):
    model, tokenizer = load_run(runs[0])

    def texts(prompts, n_samples):
        rows = [""] * len(prompts) * n_samples
        for row, piece in stream_texts(model, tokenizer, prompts, 15, WARM, 5, (), n_samples):
            rows[row] += piece
        return rows

    assert texts(PROMPTS[::-1], 2) == [row for prompt in PROMPTS[::-1] for row in texts([prompt], 3)[:2]]
    assert texts([PROMPTS[0]], 3) == [
        text for text, _ in write_candidates(model, tokenizer, PROMPTS[0], 15, WARM, 3, 5)
    ]


def test_a_stop_string_ends_the_text_before_it(runs, generate):
    whole = generate("--prompt", "x", "--tokens", 40)[1].removeprefix("x").removesuffix("\n")
    stop = whole[11:14]
    assert generate("--prompt", "x", "--tokens", 40, "--stop", stop)[1] == "x" + whole[: whole.find(stop)] + "\n"
    model, tokenizer = load_run(runs[0])
    assert (
        "".join(stream_text(model, tokenizer, "x", 40, Sampling(), 0, ["never seen", stop]))
        == whole[: whole.find(stop)]
    )


def test_a_draft_writes_the_same_greedy_text_and_says_how_well_it_guessed(runs, generate):
    plain = generate("--prompt", "x", "--temperature", 0, "--tokens", 30)[1]
    for draft in (runs[1], "lookup"):
        code, out, err = generate(
            "--prompt", "x", "--temperature", 0, "--tokens", 30, "--draft", draft, "--draft-tokens", 3
        )
        assert (code, out) == (0, plain)
        assert err.startswith("lmexp: draft: 30 tokens in ")


def test_the_best_is_printed_with_what_it_is_worth(runs, generate):
    model, tokenizer = load_run(runs[0])
    pairs = write_candidates(model, tokenizer, "x", 8, Sampling(), 5)
    best = max(pairs, key=lambda pair: pair[1].mean_log_probability)
    code, out, err = generate("--prompt", "x", "--tokens", 8, "--best-of", 5)
    assert (code, out) == (0, f"x{best[0]}\n")
    assert f"{best[1].mean_log_probability:.3f} nats per token" in err


def test_the_majority_is_printed_with_its_votes(generate):
    code, out, err = generate("--prompt", "x", "--tokens", 1, "--majority", 40, "--top-k", 2)
    assert code == 0
    votes = int(err.removeprefix("lmexp: ").split(" of 40 texts say: ")[0])
    assert 20 <= votes < 40
    assert out == "x" + err.split("say: ")[1]
    assert "none of 3 texts has an answer" in generate("--tokens", 2, "--majority", 3, "--answer", "not there")[2]


def test_beams_find_a_likelier_text_than_greed(generate):
    worth = [generate("--prompt", "x", "--tokens", 6, "--beams", n)[2] for n in (1, 30)]
    greedy, searched = (float(text.split("log-probability ")[1].split()[0]) for text in worth)
    assert searched >= greedy
    assert (
        generate("--prompt", "x", "--tokens", 6, "--beams", 1)[1]
        == generate("--prompt", "x", "--tokens", 6, "--temperature", 0)[1]
    )


def test_lines_are_prompts_that_stand_alone(generate, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\none\n\nignored\n"))
    code, out, err = generate("--interactive", "--tokens", 4)
    alone = [generate("--prompt", prompt, "--tokens", 4)[1] for prompt in ("one", "two", "one")]
    assert (code, out) == (0, "".join(alone))
    assert "an empty line or Ctrl-D ends" in err


def test_stopping_is_polite(generate, monkeypatch):
    def interrupted(*arguments):
        yield 0, "a"
        raise KeyboardInterrupt

    monkeypatch.setattr("lmexp.writing.stream_texts", interrupted)
    assert generate("--prompt", "x") == (130, "xa", "\nlmexp: interrupted.\n")


def test_a_run_of_random_bytes_shows_replacements_only_where_bytes_are_no_text(runs):
    model, tokenizer = load_run(runs[0])
    pieces = list(stream_text(model, tokenizer, "x", 300, Sampling(1e6)))
    assert "\ufffd" in "".join(pieces)
    assert len(pieces) == 301


def test_memory_of_the_prompt_is_shared_by_samples(runs):
    model, tokenizer = load_run(runs[0])
    read = []
    plain = model.hidden
    model.hidden = lambda tokens, caches: read.append(tokens.shape) or plain(tokens, caches)
    write_candidates(model, tokenizer, "quick", 3, WARM, 6)
    assert read == [(1, 5), (6, 1), (6, 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--beams", 2, "--temperature", 1, "--seed", 0], "leave out --temperature, --seed"),
        (["--beams", 2, "--stop", "x"], "leave out --stop"),
        (["--samples", 2, "--best-of", 3], "not allowed with argument --samples"),
        (["--draft", "lookup", "--samples", 2], "leave out --samples, or --draft"),
        (["--draft", "lookup", "--draft-tokens", 0], "draft of 0 tokens is out of range"),
        (["--draft-tokens", 3], "--draft-tokens is read with --draft only"),
        (["--answer", "x"], "--answer is read with --majority only"),
        (["--majority", 3, "--answer", "("], "not a regular expression"),
        (["--temperature", 0, "--best-of", 3], "At --temperature 0 all texts are the same"),
        (["--samples", 0], "--samples 0 is out of range"),
        (["--top-p", 2], "top-p of 2.0 is out of range"),
        (["--interactive", "--prompt", "x"], "leave out --prompt, or --interactive"),
        (["--prompt", ""], "prompt is empty"),
        (["--prompt", "\udcff"], "prompt is not UTF-8"),
        (["--stop", ""], "stop string is empty"),
        (["--tokens", -1], "Cannot generate -1 tokens"),
        (["--draft", "nowhere"], "nowhere does not exist: name a run's folder"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_mistakes_are_one_sentence(generate, arguments, message):
    code, out, err = generate(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_draft_of_other_tokens_is_refused(runs, generate):
    code, _, err = generate("--draft", runs[2])
    assert code == 2
    assert "other tokens" in err


def test_a_published_folder_is_read_in_float32_on_a_cpu(runs, tmp_path, monkeypatch):
    """Stands in for the loader of published weights, which has tests of its own."""
    (tmp_path / "config.json").touch()
    half = load_run(runs[0])
    half[0].set_dtype(mx.bfloat16)
    monkeypatch.setattr("lmexp.generate.load_pretrained", lambda source: half)
    model, _ = load_model(tmp_path)
    if mx.default_device() == mx.cpu:
        assert model.embedding.weight.dtype == mx.float32
    assert len(write(*load_model(tmp_path), ["x"], 3, WARM)[0]) > 0
