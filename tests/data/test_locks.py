"""Locks on folders: a second process is refused, a killed one holds nothing."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from fast_electra.data.locks import LOCK, folder_lock
from fast_electra.errors import DataError, ResourceError

HOLD = """
import sys, time
from pathlib import Path
from fast_electra.data.locks import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_and_learns_who_holds_the_folder_until_that_one_is_killed(tmp_path, holder):
    refused = rf"run is being written by another process \({holder.pid} on {socket.gethostname()}, since 20.*\): wait"
    for _ in range(2):
        with pytest.raises(DataError, match=refused), folder_lock(tmp_path / "run"):
            pass
    with folder_lock(tmp_path / "run", name=f"{LOCK}-2"):
        (tmp_path / "run" / "file").touch()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with folder_lock(tmp_path / "run"):
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]  # no lock file is left


def test_a_forked_worker_that_outlives_its_parent_does_not_hold_the_lock(tmp_path):
    fork = "import os, sys\nfrom pathlib import Path\nfrom fast_electra.data.locks import folder_lock\n"
    fork += "with folder_lock(Path(sys.argv[1])):\n    child = os.fork()\n    if not child: os.read(0, 1)\n"
    fork += "    else: print(child, flush=True); os.kill(os.getpid(), 9)\n"
    command = [sys.executable, "-W", "ignore", "-c", fork, tmp_path / "run"]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdin is not None
    child = int(parent.stdout.readline())
    assert parent.wait() == -signal.SIGKILL
    os.kill(child, 0)  # it lives
    with folder_lock(tmp_path / "run", wait=True):  # the child gives the lock up as its first step
        pass
    parent.stdin.close()  # ends the child


def test_a_folder_in_which_nothing_was_written_disappears_with_its_lock(tmp_path):
    with pytest.raises(FileNotFoundError), folder_lock(tmp_path / "a" / "b"):
        (tmp_path / "missing").read_bytes()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with folder_lock(tmp_path / "empty"):
        pass
    assert list((tmp_path / "empty").iterdir()) == []


def test_what_cannot_be_locked_is_said_or_left_to_the_caller(tmp_path):
    (tmp_path / "file").touch()
    with folder_lock(tmp_path / "file"):
        pass
    refused = pytest.raises(ResourceError, match=r"file/run can't be written: .*file is a file and no folder; ")
    with refused, folder_lock(tmp_path / "file" / "run"):
        pass


def test_a_damaged_lock_file_holds_nobody(tmp_path, holder):
    (tmp_path / "run" / LOCK).write_text("{")
    with pytest.raises(DataError, match=r"by another process: wait"), folder_lock(tmp_path / "run"):
        pass
