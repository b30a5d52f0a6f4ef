"""The doctor says what is so, and what to type."""

import io
import os
from pathlib import Path

import pytest

from lmexp.platform import checks, start
from lmexp.platform.checks import Check
from lmexp.platform.show import show

linux_cpu = pytest.mark.skipif(start.mlx_backend() != "cpu", reason="about MLX's CPU wheel")
DOCTOR = "from lmexp.platform import print_doctor; raise SystemExit(not print_doctor())"


def test_a_working_machine_passes_and_the_table_names_everything(run_python):
    shown = run_python(DOCTOR).stdout
    for name in ("device", "mlx", "matrix products", "FLOP/s", "memory", "results", "cache", "GPT-2 vocabulary"):
        assert name in shown


@linux_cpu
def test_a_slow_machine_passes_with_commands_to_type(run_python, no_tools):
    shown = run_python(DOCTOR, LMEXP_BLAS="off", PATH=no_tools).stdout
    assert "! matrix products reference:" in " ".join(shown.split())
    assert "→ unset LMEXP_BLAS" in shown
    assert "no g++" in shown


@linux_cpu
def test_a_broken_mlx_fails_and_nothing_more_is_asked_of_it(run_python, tmp_path):
    broken = tmp_path / "broken" / "mlx"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libmlx.so: cannot open shared object file')")
    done = run_python(DOCTOR, check=False, PYTHONPATH=str(broken.parent))
    assert done.returncode == 1, done.stderr
    assert "libmlx.so: cannot open" in done.stdout
    assert "→ uv pip install" in done.stdout
    assert "matrix products" not in done.stdout


@linux_cpu
def test_what_the_user_must_mend_fails_and_the_rest_is_still_told(run_python, tmp_path):
    (tmp_path / "file").write_text("")
    for name, value in {"LMEXP_BLAS": "/nowhere/blas.so", "LMEXP_CACHE": str(tmp_path / "file" / "cache")}.items():
        done = run_python(DOCTOR, check=False, **{name: value})
        assert done.returncode == 1, done.stderr
        assert "✗ matrix products" in " ".join(done.stdout.split())
        assert name in done.stdout
        assert "GPT-2 vocabulary" in done.stdout


@linux_cpu
def test_a_product_half_as_fast_as_numpys_is_a_warning(monkeypatch):
    monkeypatch.setattr(checks, "_SPIN_SECONDS", 0)
    monkeypatch.setattr(checks, "numpy_gflops", lambda: 100.0)
    for rate, state in ((49.0, "warn"), (51.0, "ok")):
        monkeypatch.setattr(checks, "mlx_gflops", lambda rate=rate: rate)
        check = checks.check_products("openblas 1.2.3 (wheel)")
        assert check.state == state
        assert check.found == f"openblas 1.2.3 (wheel): {rate:.0f} GFLOP/s in float32 on a core (numpy: 100 GFLOP/s)"


@linux_cpu
def test_numpy_multiplies_on_one_core_like_mlx(monkeypatch):
    import numpy
    import threadpoolctl

    def threads() -> set[int]:
        pools = threadpoolctl.threadpool_info()
        return {pool["num_threads"] for pool in pools if "numpy" in pool["filepath"]}

    assert numpy.ones((2, 2)).shape == (2, 2)  # and its BLAS is loaded
    seen = []
    monkeypatch.setattr(checks, "_best_gflops", lambda multiply: seen.append((multiply().shape, threads())) or 1.0)
    with threadpoolctl.threadpool_limits(limits=2, user_api="blas"):
        checks.numpy_gflops()
    assert seen == [((checks._MATRIX, checks._MATRIX), {1})]


def test_rates_are_in_the_unit_that_reads_best():
    assert (checks._rate(999.4), checks._rate(53_210.0)) == ("999 GFLOP/s", "53.2 TFLOP/s")


def test_measured_rates_count_two_operations_per_product(monkeypatch):
    seconds = iter([0, 0, 0.5, 0.1, 1.0, 2.0, 9.0])  # deadline, then start, end of each product and a look at the clock
    monkeypatch.setattr(checks.time, "perf_counter", lambda: next(seconds))
    assert checks._best_gflops(lambda: None) == 2 * 1024**3 / 0.5 / 1e9


@pytest.mark.parametrize(("load", "state"), [(0.9, "ok"), (1.1, "warn")])
def test_a_busy_machine_is_a_warning(monkeypatch, load, state):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 9.0, 9.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert checks.check_load().state == state


def test_swap_is_mentioned_only_when_used(monkeypatch):
    gib = 1 << 30
    monkeypatch.setattr(checks, "_meminfo", lambda: {"SwapTotal": 4 * gib, "SwapFree": 4 * gib})
    assert checks.check_swap() is None
    monkeypatch.setattr(checks, "_meminfo", lambda: {"SwapTotal": 4 * gib, "SwapFree": 1 * gib})
    assert "3.0 GiB swapped out" in checks.check_swap().found


def test_two_backends_at_once_are_a_warning(monkeypatch):
    monkeypatch.setattr(checks, "is_installed", lambda name: name == "mlx-cpu")
    monkeypatch.setattr(checks, "cuda_packages", lambda: ["mlx-cuda-13"])
    check = checks.check_mlx()
    assert check.state == "warn"
    assert "mlx-cuda-13" in check.mend


def test_folders_that_cannot_be_written_fail(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checks.check_results().state == "ok"
    assert list(tmp_path.iterdir()) == []  # looking leaves nothing behind
    Path("results").write_text("a file in the way")
    assert checks.check_results().state == "fail"
    monkeypatch.setenv("LMEXP_CACHE", str(tmp_path / "results" / "cache"))
    check = checks.check_cache()
    assert check.state == "fail"
    assert "LMEXP_CACHE" in check.mend


def test_texts_are_found_where_the_data_room_looks(tmp_path, monkeypatch):
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.delenv("LMEXP_DATA", raising=False)
    assert checks.check_data() is None
    assert "not here yet" in checks.check_tiny_shakespeare().found
    monkeypatch.setenv("LMEXP_DATA", str(tmp_path / "absent"))
    assert checks.check_data().state == "warn"
    shared = tmp_path / "shared"
    (shared / "tiktoken").mkdir(parents=True)
    monkeypatch.setenv("LMEXP_DATA", str(shared))
    (shared / "tiny_shakespeare.txt").write_text("First Citizen:")
    (shared / "tiktoken" / checks._GPT2_FILES[0]).write_text("merges")
    assert checks.check_tiny_shakespeare().found == f"in {shared}"
    assert "not here yet" in checks.check_tiktoken().found  # one of two files
    (shared / "tiktoken" / checks._GPT2_FILES[1]).write_text("vocabulary")
    assert checks.check_tiktoken().found == f"in {shared / 'tiktoken'}"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "other"))
    assert "not here yet" in checks.check_tiktoken().found


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        (["ok", "ok"], "Ready to run."),
        (["ok", "warn", "ok"], "Ready to run; 1 of 3 could be better."),
        (["fail", "warn"], "1 of 2 must be mended"),
    ],
)
def test_the_verdict_sums_up(states, verdict):
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    show(
        [Check(f"name{index}", state, "found [not markup]", "type this") for index, state in enumerate(states)], console
    )
    text = console.export_text()
    assert verdict in text
    assert text.count("found [not markup]") == text.count("→ type this") == len(states)
