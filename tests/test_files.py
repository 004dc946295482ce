"""The atomic writer: the old file or the new one, never half of one, and with ordinary modes."""

import errno
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys

import pytest

from simpletune import files


@pytest.fixture
def plain_mode():
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def test_what_is_written_is_there(tmp_path, plain_mode):
    files.write_bytes(tmp_path / "a", b"\x00\xff")
    files.write_text(tmp_path / "b", "ü\n")
    files.write_json(tmp_path / "c", {"z": 1, "a": "ü"})
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_bytes() == "ü\n".encode()
    assert (tmp_path / "c").read_text(encoding="utf-8") == '{\n  "z": 1,\n  "a": "ü"\n}\n'
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {plain_mode}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o007])
def test_modes_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        files.write_text(tmp_path / "file", "x")
        with files.new_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_mount_that_syncs_no_folders_takes_files(tmp_path, monkeypatch):
    real, refused = os.fsync, []

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            refused.append(descriptor)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_text(tmp_path / "a", "x")
    with files.new_folder(tmp_path / "folder") as folder:
        files.write_text(folder / "b", "y")
    files.remove(tmp_path / "a")
    assert (tmp_path / "folder" / "b").read_text() == "y"
    assert os.name == "nt" or refused

    def fails(descriptor):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Invalid"):  # of a file it is no such thing
        files.write_text(tmp_path / "c", "z")


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}, {1, 2}])
def test_what_json_can_not_say_leaves_the_old_file(tmp_path, value):
    files.write_json(tmp_path / "a.json", {"old": True})
    with pytest.raises((ValueError, TypeError)):
        files.write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": True}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_writer_leaves_the_old_file_and_no_trace(tmp_path, error):
    files.write_text(tmp_path / "a.txt", "old")

    def fill(temporary):
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)):
        files.write_with(tmp_path / "a.txt", fill)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_library_sees_the_targets_extension_in_the_same_folder(tmp_path):
    seen = []
    files.write_with(tmp_path / "a.png", lambda temporary: seen.append(temporary) or temporary.write_bytes(b"x"))
    assert seen[0].suffix == ".png"
    assert seen[0].parent == tmp_path
    assert seen[0].name.startswith(".")


def test_a_library_that_replaces_the_file_itself_is_fine(tmp_path, plain_mode):
    def fill(temporary):
        other = temporary.with_name("other")
        other.write_text("new")
        other.chmod(0o600)
        other.replace(temporary)

    files.write_with(tmp_path / "a", fill)
    assert (tmp_path / "a").read_text() == "new"
    assert (tmp_path / "a").stat().st_mode & 0o777 == plain_mode


def test_an_absent_folder_is_an_error_not_a_new_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.write_text(tmp_path / "absent" / "a", "x")


def test_a_new_folder_appears_whole(tmp_path):
    target = tmp_path / "folder"
    with files.new_folder(target) as building:
        (building / "sub").mkdir()
        files.write_text(building / "sub" / "a", "x")
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_new_folder_that_fails_vanishes(tmp_path):
    with pytest.raises(ZeroDivisionError), files.new_folder(tmp_path / "folder"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_finished_folder_is_never_overwritten(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").touch()
    with pytest.raises(FileExistsError), files.new_folder(tmp_path / "folder"):
        pass
    assert (tmp_path / "folder" / "kept").exists()


def test_file_and_folder_are_synced_before_the_new_name_counts(tmp_path, monkeypatch):
    """The order is the promise: the data, then the rename, then the folder."""
    events = []
    replace, sync = os.replace, files._sync
    monkeypatch.setattr(files.os, "replace", lambda a, b: events.append("rename") or replace(a, b))
    monkeypatch.setattr(files, "_sync", lambda path: events.append(path.is_dir()) or sync(path))
    files.write_text(tmp_path / "a", "x")
    assert events == [False, "rename", True]


def test_sha256(tmp_path):
    data = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(data)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()


WRITE_FOREVER = """
import sys
from pathlib import Path
from simpletune import files
path = Path(sys.argv[1])
for number in range(1_000_000):
    files.write_text(path, f"{number} " * 20_000)
    print("x", flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.txt"
    for wait_for in (1, 2, 3, 5, 8):
        with subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, str(path)], stdout=subprocess.PIPE) as process:
            for _ in range(wait_for):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
        words = path.read_text().split()
        assert len(words) == 20_000
        assert len(set(words)) == 1
