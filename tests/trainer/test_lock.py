"""One run at a time in an output folder, whatever became of the last one."""

import os
import signal
import subprocess
import sys

import pytest

from simpletune.errors import UsageError
from simpletune.results.run_folder import LOCK_FILE
from simpletune.trainer.lock import run_lock

HOLD = """
import sys, time
from pathlib import Path
from simpletune.trainer.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_run(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_naming_the_first(tmp_path, other_run):
    with pytest.raises(UsageError, match=f"in use by another run \\(process {other_run.pid} on .*, since 20") as caught:
        with run_lock(tmp_path):
            pass
    assert "output_dir" in caught.value.hint


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path, other_run):
    os.kill(other_run.pid, signal.SIGKILL)
    other_run.wait()
    assert str(other_run.pid) in (tmp_path / LOCK_FILE).read_text()
    with run_lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK_FILE).read_text()


def test_the_folder_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        raise ZeroDivisionError
    with run_lock(tmp_path):
        pass
    assert not (tmp_path / LOCK_FILE).exists()


def test_an_unreadable_lock_file_still_refuses(tmp_path, other_run):
    (tmp_path / LOCK_FILE).write_text("{half")
    with pytest.raises(UsageError, match="process unknown"), run_lock(tmp_path):
        pass
