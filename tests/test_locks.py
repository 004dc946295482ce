"""A lock between processes: held by one, taken over from the dead, gone afterwards."""

import os
import subprocess
import sys

import pytest

from simpletune import locks
from simpletune.errors import UsageError

HOLD = """
import sys, time
from pathlib import Path
from simpletune import locks
from simpletune.errors import UsageError
with locks.hold(Path(sys.argv[1]), UsageError, patience=10):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
print("given back", flush=True)
"""


def holder(path, seconds):
    return subprocess.Popen([sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE, text=True)


def test_the_file_is_gone_afterwards(tmp_path):
    path = tmp_path / "lock"
    with locks.hold(path, UsageError):
        assert str(os.getpid()) in path.read_text()
    assert not path.exists()


def test_a_taken_lock_names_its_holder(tmp_path):
    path = tmp_path / "lock"
    with holder(path, 30) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"process {process.pid}"), locks.hold(path, UsageError):
            pass
        process.kill()
    assert path.exists()  # a killed process leaves the file, not the lock
    with locks.hold(path, UsageError):
        pass


def test_a_patient_one_waits(tmp_path):
    path = tmp_path / "lock"
    with holder(path, 0.3) as process:
        assert process.stdout.readline() == "held\n"
        with locks.hold(path, UsageError, patience=10):
            assert process.stdout.readline() == "given back\n"


def test_a_file_that_its_holder_removed_meanwhile_is_not_the_lock(tmp_path, monkeypatch):
    """Who opened the file before the holder removed it would else hold one that nobody else sees."""
    path, try_lock = tmp_path / "lock", locks._try_lock

    def removed_first(file):
        monkeypatch.setattr(locks, "_try_lock", try_lock)
        path.unlink()
        return try_lock(file)

    monkeypatch.setattr(locks, "_try_lock", removed_first)
    with locks.hold(path, UsageError):
        assert path.exists()
        with pytest.raises(UsageError), locks.hold(path, UsageError):
            pass


def test_of_many_there_is_always_one(tmp_path):
    """Each reads a number, sleeps and writes the next; none may be lost to two holding files of one name."""
    path, number = tmp_path / "lock", tmp_path / "number"
    number.write_text("0")
    code = """
import sys
import time
from pathlib import Path
from simpletune import locks
from simpletune.errors import UsageError
folder = Path(sys.argv[1])
for _ in range(20):
    with locks.hold(folder / "lock", UsageError, patience=60):
        value = int((folder / "number").read_text())
        time.sleep(0.001)
        (folder / "number").write_text(str(value + 1))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert number.read_text() == "60"
    assert not path.exists()
