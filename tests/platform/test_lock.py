"""The device lock: one holder, named to who waits, gone when its process is gone."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lmexp.errors import UserError
from lmexp.platform import device_lock, lock

HOLD = """
import sys, time
from lmexp.platform import device_lock
with device_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold(environment):
    """Start a process that holds a device until it is killed."""
    started = []

    def start(device, **variables):
        command = [sys.executable, "-c", HOLD, device]
        process = subprocess.Popen(command, env=environment | variables, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_killed_holder_lets_go_and_the_waiter_was_told_its_name_once(hold):
    holder = hold("cpu")
    told = []

    def on_wait(name):
        told.append(name)
        assert lock.holder("cpu") == name
        os.kill(holder.pid, signal.SIGKILL)

    with device_lock("cpu", on_wait):
        assert told == [f"process {holder.pid}"]
    assert lock.holder("cpu") is None


def test_it_excludes_for_as_long_as_it_is_held(hold):
    holder = hold("cpu")
    killed = []

    def on_wait(_):
        time.sleep(0.3)  # longer than one poll
        killed.append(time.perf_counter())
        holder.kill()

    with device_lock("cpu", on_wait):
        assert time.perf_counter() > killed[0]


def test_a_free_device_is_taken_without_a_word():
    with device_lock("cpu", on_wait=pytest.fail):
        pass
    with pytest.raises(ZeroDivisionError), device_lock("cpu", on_wait=pytest.fail):
        raise ZeroDivisionError
    with device_lock("cpu", on_wait=pytest.fail):
        pass


def test_the_default_device_is_the_one_that_mlx_uses():
    from lmexp.platform.device import default_device

    with device_lock():
        assert lock.holder(default_device()) == f"process {os.getpid()}"


def test_processes_on_different_gpus_do_not_wait_for_each_other(hold, monkeypatch):
    holder = hold("gpu", CUDA_VISIBLE_DEVICES="1,3")
    for devices, expected in {"0": None, "3": None, "1": f"process {holder.pid}"}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        assert lock.holder("gpu") == expected
    assert lock.holder("cpu") is None


def test_a_process_that_sees_all_gpus_uses_the_first(hold, monkeypatch):
    holder = hold("gpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert lock.holder("gpu") == f"process {holder.pid}"


def test_a_dead_or_unwritten_name_is_not_given_out(hold):
    hold("cpu")
    note = lock._holder_file(lock._lock_path("cpu"))
    for text in ("", str(2**22 + 1)):  # not yet written; above the greatest process number of Linux
        note.write_text(text)
        assert lock.holder("cpu") == "another process"


def test_an_unwritable_cache_is_the_users_to_mend(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LMEXP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="LMEXP_CACHE"), device_lock("cpu"):
        pass
