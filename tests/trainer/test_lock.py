"""One run at a time in an output folder, whatever became of the last one."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from simpletune import lock_holder, locks
from simpletune.errors import UsageError
from simpletune.progress import SilentReporter
from simpletune.results.run_folder import LOCK_FILE
from simpletune.trainer.launch import launch
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


def test_a_file_of_any_size_names_nobody(tmp_path):
    path = tmp_path / LOCK_FILE
    path.write_bytes(lock_holder.signature() + b" " * (1 << 16))
    assert lock_holder.read_holder(path) is None
    path.write_bytes(b"[" * 60_000)
    assert lock_holder.read_holder(path) is None


def test_a_start_is_refused_before_anything_heavy_is_imported(project, other_run, tmp_path, monkeypatch):
    made = project(output_dir=str(tmp_path))
    monkeypatch.setitem(sys.modules, "simpletune.trainer.run", None)
    with pytest.raises(UsageError, match=f"in use by another run \\(process {other_run.pid} on "):
        launch(made.config, (), SilentReporter())
    said = []
    reporter = SilentReporter()
    monkeypatch.setattr(reporter, "warn", said.append)
    launch(made.config, (), reporter, dry_run=True)
    assert any("a start would be refused" in line and f"process {other_run.pid}" in line for line in said)


@pytest.fixture
def no_flock(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks, "_try_lock", refuse)


def signed(tmp_path, **what):
    written = json.loads(lock_holder.signature()) | what
    (tmp_path / LOCK_FILE).write_text(json.dumps(written))


@pytest.mark.usefixtures("no_flock")
class TestWithoutFlock:
    def test_one_holds_it_and_leaves_nothing(self, tmp_path):
        with run_lock(tmp_path), pytest.raises(UsageError, match=f"process {os.getpid()}"), run_lock(tmp_path):
            pass
        assert not list(tmp_path.iterdir())

    def test_a_process_that_is_gone_has_lost_it(self, tmp_path):
        with subprocess.Popen([sys.executable, "-c", ""]) as gone:
            gone.wait()
        signed(tmp_path, pid=gone.pid)
        with run_lock(tmp_path):
            assert lock_holder.read_holder(tmp_path / LOCK_FILE).pid == os.getpid()

    def test_so_has_one_whose_number_another_process_has_by_now(self, tmp_path):
        signed(tmp_path, pid=os.getppid(), birth="another boot 4711")
        with run_lock(tmp_path):
            pass

    def test_one_on_another_host_is_believed_to_run(self, tmp_path):
        signed(tmp_path, host="elsewhere", command="simpletune train\x1b[2J")
        with pytest.raises(UsageError, match="on elsewhere, since 20") as caught, run_lock(tmp_path):
            pass
        assert f"if that machine is gone, remove {tmp_path / LOCK_FILE}" in caught.value.hint
        assert "\x1b" not in caught.value.message
        (tmp_path / LOCK_FILE).unlink()
        with run_lock(tmp_path):
            pass

    def test_a_file_that_nobody_signed_is_left_behind(self, tmp_path):
        path = tmp_path / LOCK_FILE
        path.write_text("")
        os.utime(path, (0, 0))
        with run_lock(tmp_path):
            assert path.read_text()
