"""``lmexp bench`` works from the command line to its rows. Sizes are tiny: that it works is tested, not how fast."""

import mmap

import pyarrow.parquet as pq
import pytest

from lmexp.bench import budget, harness, memory, startup
from lmexp.bench.child import Task
from lmexp.bench.harness import Benchmark, Side
from lmexp.cli import main
from lmexp.compose import compose_run
from lmexp.errors import UserError

ONE_LAUNCH = ["--repeats", "1", "--seconds", "0.2"]


def bench_rows(tmp_path, what):
    """Return the rows of the only call of a benchmark."""
    (path,) = (tmp_path / "results" / "bench" / what).glob("*.parquet")
    return pq.read_table(path).to_pylist()


def figures_of(rows):
    """Return {side: {figure: value}} of a call of one repeat."""
    sides = {}
    for row in rows:
        assert row["figure"] not in sides.setdefault(row["side"], {})
        sides[row["side"]][row["figure"]] = row["value"]
    return sides


def test_train_against_a_bare_loop(small, tmp_path, capsys):
    assert main(["bench", "train", *ONE_LAUNCH, "--against", "bare", *small]) == 0
    rows = bench_rows(tmp_path, "train")
    sides = figures_of(rows)
    assert set(sides) == {"lmexp", "bare"}
    ours = sides["lmexp"]
    assert ours["tokens_per_second"] > 0
    assert sides["bare"].keys() == {"tokens_per_second"}
    share = ours["model_gflops_per_second"] / ours["ceiling_gflops_per_second"]
    assert ours["share_of_ceiling"] == pytest.approx(share)  # the same division, in float64
    assert 0 < share < 1
    config = compose_run(["model=llama_small", *small]).config
    assert {row["config_sha256"] for row in rows} == {config.sha256}
    assert sorted({row["order"] for row in rows}) == [0, 1]
    assert all(row["host"] and row["chip"] and row["started_at"] and "mlx" in row["versions"] for row in rows)
    printed = capsys.readouterr().out
    assert "4 x 12 tokens a step" in printed
    assert "lmexp / side" in printed


def test_data_needs_no_device(small, tmp_path):
    assert main(["bench", "data", *ONE_LAUNCH, *small]) == 0
    figures = figures_of(bench_rows(tmp_path, "data"))["lmexp"]
    assert all(value > 0 for value in figures.values())
    # The tokens are bytes here, so both rates of encoding are one.
    assert figures["encode_bytes_per_second"] == pytest.approx(figures["encode_tokens_per_second"])


def finishes_with(monkeypatch, module, **row):
    """Let runs end at once with an invented row, and return the list of what they were asked."""
    asked = []
    monkeypatch.setattr(module, "rows_of", lambda arguments: asked.append(arguments) or [row])
    return asked


def test_startup_waits_for_a_run_the_help_and_the_config(small, tmp_path, monkeypatch):
    asked = finishes_with(monkeypatch, startup, time_to_first_step_seconds=2.5)
    assert main(["bench", "startup", "--repeats", "2", *small, "seed=7"]) == 0
    rows = bench_rows(tmp_path, "startup")
    assert {row["figure"] for row in rows} == {"first_step_seconds", "help_seconds", "show_config_seconds"}
    assert all(row["value"] > 0 for row in rows)
    assert [row["value"] for row in rows if row["figure"] == "first_step_seconds"] == [2.5, 2.5]
    assert [arguments[-1] for arguments in asked] == ["seed=7", "seed=8"]  # a run is a seed of its own


def test_a_budget_is_overrun_by_what_training_took_beyond_it(small, tmp_path, monkeypatch):
    asked = finishes_with(monkeypatch, budget, train_seconds=2.2, steps=11)
    seconds = [item for item in small if not item.startswith("budget")]
    assert main(["bench", "budget", "--repeats", "1", "--seconds", "2", *seconds]) == 0
    figures = figures_of(bench_rows(tmp_path, "budget"))["lmexp"]
    expected = {"overrun_seconds": 0.2, "overrun_steps": 1.0, "overrun_share": 0.1}  # steps of 0.2 s
    assert figures == pytest.approx(expected)
    assert "budget.seconds=2.0" in asked[0]
    assert not any(item.startswith("paths.results") for item in asked[0])  # its runs are nobody's evidence


def test_a_sweep_costs_what_its_cells_do_not_report(small, tmp_path):
    assert main(["bench", "sweep", "--repeats", "1", "--cells", "2", *small]) == 0
    figures = figures_of(bench_rows(tmp_path, "sweep"))["lmexp"]
    assert figures["overhead_seconds_per_cell"] > 1  # two probes of a second each are in it
    parts = figures["reported_seconds_per_cell"] + figures["overhead_seconds_per_cell"]
    assert figures["seconds_per_cell"] == pytest.approx(parts)
    assert not list((tmp_path / "results").glob("adhoc/*"))


def test_memory_has_a_size_and_a_slope(small, tmp_path):
    assert main(["bench", "memory", "--steps", "100", *small]) == 0
    figures = figures_of(bench_rows(tmp_path, "memory"))["lmexp"]
    assert 0 < figures["mlx_bytes"] < figures["process_bytes"]
    assert abs(figures["mlx_bytes_per_1000_steps"]) < figures["mlx_bytes"]  # a leak of every step's arrays is more


def test_a_report_of_an_invented_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    size = ["--arms", "2", "--seeds", "3", "--points", "10", "--keep", str(home)]
    assert main(["bench", "report", "--repeats", "1", *size]) == 0
    figures = figures_of(bench_rows(tmp_path, "report"))["lmexp"]
    assert figures["processor_seconds"] > 0
    assert figures["peak_bytes"] > 10_000_000  # a Python process with pandas
    assert figures["page_bytes"] == (home / "results" / "invented" / "report.html").stat().st_size
    assert len(list((home / "results" / "invented").glob("*/DONE"))) == 6
    # The experiment is one that counts: a lock, and six runs that follow it.
    monkeypatch.chdir(home)
    assert main(["plan", "verify", "invented"]) == 0


def test_decode_after_prompts_of_several_lengths(small, tmp_path):
    lengths = ["--lengths", "7,5", "--tokens", "3"]
    assert main(["bench", "decode", "--repeats", "1", *lengths, *small, "model=llama_tiny"]) == 0
    figures = figures_of(bench_rows(tmp_path, "decode"))["lmexp"]
    expected = [f"{name}_after_{n}" for n in (5, 7) for name in ("first_token_seconds", "tokens_per_second")]
    assert list(figures) == expected
    assert all(value > 0 for value in figures.values())


def test_pytorch_trains_on_the_same_batches(small):
    pytest.importorskip("torch")
    from lmexp.bench.torch_loop import train

    config = compose_run(["model=llama_small", *small]).config
    figures = train(Task(config, "cpu", 0.2, {"compiled": False, "threads": 1}))
    assert figures["tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--repeats", "0"], "--repeats 0 must be at least 1"),
        (["train", "--seconds", "0"], "--seconds 0 must be above 0"),
        (["train", "--against", "jax"], "invalid choice: 'jax'"),
        (["train", "--against", "bare", "optimizer=lion"], "knows optimizer=adamw"),
        (["train", "--against", "torch", "model.dropout=0.1"], "loops that drop nothing"),
        (["train", "--against", "bare", "model.dropout=0.1"], "leave model.dropout=0.1 or --against out"),
        (["train", "model=gpt_tinny"], "did you mean 'gpt_tiny'"),
        (["sweep", "--cells", "1"], "--cells 1 must be at least 2"),
        (["memory", "--steps", "3"], "--steps 3 is too few"),
        (["report", "--seeds", "1"], "--seeds 1 must be at least 2"),
        (["decode", "--lengths", "8,none"], "--lengths 8,none must be whole numbers"),
        (["decode", "--tokens", "0"], "--tokens 0 must be at least 1"),
        (["everything"], "invalid choice: 'everything'"),
    ],
)
def test_a_mistake_is_said_in_one_sentence(arguments, said, tmp_path, capsys):
    if "torch" in arguments:
        pytest.importorskip("torch")
    results = [] if arguments == ["everything"] else [f"paths.results={tmp_path}"]
    assert main(["bench", *arguments, *results]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert len(printed.strip().splitlines()) == 1


def test_torch_that_is_not_installed_is_said_before_anything_is_launched(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["bench", "train", "--against", "torch", "model=gpt_tiny", f"paths.results={tmp_path}"]) == 2
    assert "pip install 'lmexp[bench]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        (UserError("The third launch fails."), 2, "The third launch fails."),
        (KeyboardInterrupt(), 130, "after 2 launches"),
    ],
)
def test_what_was_measured_before_a_failure_is_kept(ending, code, said, tmp_path, monkeypatch, capsys):
    def launch(repeat):
        if repeat == 2:
            raise ending
        return {"rate": float(repeat)}

    monkeypatch.setattr(harness, "_asked", lambda given: Benchmark("t", [Side("ours", launch)], {"rate": "1/s"}))
    assert main(["bench", "train", "--repeats", "5", f"paths.results={tmp_path / 'results'}"]) == code
    assert [row["value"] for row in bench_rows(tmp_path, "train")] == [0.0, 1.0]
    assert said in capsys.readouterr().err


def test_a_launch_that_fails_is_said_with_its_last_words():
    with pytest.raises(UserError, match=r"no such thing .* exit code 3"):
        harness.run_process(["sh", "-c", "echo first >&2; echo 'no such thing' >&2; exit 3"])


def test_the_size_of_a_process_counts_what_it_takes():
    before = memory._process_bytes()
    with mmap.mmap(-1, 50_000_000) as taken:  # fresh from the system: Python's own memory might be there already
        taken.write(b"x" * len(taken))
        grown = memory._process_bytes() - before
    assert grown > 0.9 * 50_000_000  # pages of 4 KiB; a little may be given back meanwhile
