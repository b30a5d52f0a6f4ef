"""Facts about the machine and the code, and memory that is counted when it should be."""

import gc
import shutil
import subprocess
from pathlib import Path

import mlx.core as mx
import pytest

from lmexp.platform import Facts, device, facts, peak_memory_bytes, reset_peak_memory

FLOAT_BYTES = 4


def test_facts_are_those_of_this_machine():
    found = facts()
    assert isinstance(found, Facts)
    assert found.device == mx.default_device().type.name
    assert found.mlx_version == mx.__version__
    assert found.chip
    assert found.host
    assert found.cores >= 1
    assert 1 << 28 < found.memory_bytes < 1 << 45  # between a quarter of a GiB and 32 TiB: bytes, not kibibytes


def test_memory_is_the_containers_where_that_is_less(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(device, "_CONTROL_GROUP_LIMIT", limit)
    whole = device.machine_memory_bytes()
    limit.write_text("max\n")
    assert device.machine_memory_bytes() == whole
    limit.write_text("123456\n")
    assert device.machine_memory_bytes() == 123456


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with the layout of ours, in place of ours."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    root = tmp_path / "checkout"
    (root / "lmexp").mkdir(parents=True)
    (root / "lmexp" / "code.py").write_text("one = 1\n")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    monkeypatch.setattr(device, "_CHECKOUT", root)
    return root


def test_a_clean_checkout_is_clean_whatever_results_lie_in_it(checkout):
    (checkout / "experiments").mkdir()
    (checkout / "experiments" / "rows.parquet").write_text("rows")
    found = facts()
    assert found.git_dirty is False
    assert len(found.git_commit or "") == 40


@pytest.mark.parametrize("file", ["code.py", "new.py"])
def test_changed_code_is_dirty(checkout, file):
    (checkout / "lmexp" / file).write_text("one = 2\n")
    assert facts().git_dirty is True


def test_outside_a_checkout_git_is_not_asked_even_inside_someone_elses(checkout, monkeypatch):
    monkeypatch.setattr(device, "_CHECKOUT", checkout / "lmexp")
    assert (facts().git_commit, facts().git_dirty) == (None, None)


def test_without_git_the_commit_is_unknown(checkout, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (facts().git_commit, facts().git_dirty) == (None, None)


@pytest.fixture
def held_bytes() -> int:
    """What the tests before this one still hold; it counts in every peak."""
    gc.collect()
    return mx.get_active_memory()


def test_peak_memory_is_the_highest_moment_and_starts_anew(held_bytes):
    reset_peak_memory()
    held = mx.ones((300, 1000))
    mx.eval(held)
    del held
    assert 300_000 * FLOAT_BYTES <= peak_memory_bytes() - held_bytes < 2 * 300_000 * FLOAT_BYTES
    reset_peak_memory()
    mx.eval(mx.ones((7, 11)))
    assert peak_memory_bytes() - held_bytes < 300_000 * FLOAT_BYTES


def test_work_off_the_record_neither_raises_nor_lowers_the_peak(held_bytes):
    reset_peak_memory()
    mx.eval(mx.ones((30, 1000)))
    before = peak_memory_bytes()
    with device.untouched_peak():
        mx.eval(mx.ones((500, 1000)))
    assert peak_memory_bytes() == before
    mx.eval(mx.ones((60, 1000)))
    assert 60_000 * FLOAT_BYTES <= peak_memory_bytes() - held_bytes < 500_000 * FLOAT_BYTES
