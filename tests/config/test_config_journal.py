"""Files written together: all or none, whatever is in the way, and nothing lost."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from simpletune import files
from simpletune.config import journal
from simpletune.config.journal import recover, write_together
from simpletune.errors import EnvironmentNotReady, SimpletuneError, UsageError

HERE = Path(__file__).parent
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX")
not_root = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")


@pytest.fixture
def pair(tmp_path):
    """A folder with both files; the path of config.json."""
    (tmp_path / "config.json").write_bytes(b"old")
    (tmp_path / "multidatabackend.json").write_bytes(b"[old]")
    return tmp_path / "config.json"


def both(config, content=b"new"):
    return {config: content, config.with_name("multidatabackend.json"): b"[" + content + b"]"}


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed_while_renaming(config, monkeypatch, at=2):
    """A state as a killed writer leaves it: before the `at`-th rename of a target."""
    renames = []

    def rename(source, target):
        renames.append(target)
        if len(renames) == at + 1:  # the first is the journal's
            raise SystemExit
        source.replace(target)

    with monkeypatch.context() as patch:
        patch.setattr(files, "rename", rename)
        patch.setattr(journal, "_undo", lambda *_: None)
        with pytest.raises(SystemExit):
            write_together(config, both(config))


# --- writing


def test_new_files_in_new_folders(tmp_path):
    config, prompts = tmp_path / "my [set] ü" / "config.json", tmp_path / "a" / "b" / "prompts.json"
    assert write_together(config, {config: b"{}", prompts: b"[]"}) == ()
    assert contents(tmp_path) == {"my [set] ü/config.json": b"{}", "a/b/prompts.json": b"[]"}


def test_what_is_replaced_is_kept_and_no_backup_is_overwritten(pair):
    pair.with_name("config.json.bak").write_bytes(b"older")
    backups = write_together(pair, both(pair))
    assert [path.name for path in backups] == ["config.json.bak2", "multidatabackend.json.bak"]
    assert [path.read_bytes() for path in backups] == [b"old", b"[old]"]
    assert contents(pair.parent) == {
        "config.json": b"new",
        "multidatabackend.json": b"[new]",
        "config.json.bak": b"older",
        "config.json.bak2": b"old",
        "multidatabackend.json.bak": b"[old]",
    }


def test_without_backups_nothing_else_stays(pair):
    assert write_together(pair, both(pair), backup=False) == ()
    assert contents(pair.parent) == {"config.json": b"new", "multidatabackend.json": b"[new]"}


def test_the_programs_own_folder_has_no_backups(pair):
    copy = pair.parent / ".simpletune" / "config.schema.json"
    for content in (b"1", b"2"):
        assert write_together(pair, {copy: content}) == ()
    assert set(contents(copy.parent)) == {"config.schema.json"}


def test_a_file_that_stays_the_same_is_not_touched(pair):
    before = pair.stat()
    assert [path.name for path in write_together(pair, {**both(pair), pair: b"old"})] == ["multidatabackend.json.bak"]
    assert (pair.stat().st_ino, pair.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@posix
def test_the_mode_of_the_old_file_is_kept(pair):
    pair.chmod(0o640)
    (backup, _) = write_together(pair, both(pair))
    assert stat.S_IMODE(pair.stat().st_mode) == stat.S_IMODE(backup.stat().st_mode) == 0o640


@posix
def test_new_files_have_the_mode_that_the_umask_gives(tmp_path):
    old = os.umask(0o027)
    try:
        write_together(tmp_path / "config.json", {tmp_path / "config.json": b"{}"})
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "config.json").stat().st_mode) == 0o640


@posix
def test_a_link_is_kept_and_its_target_written(pair, tmp_path):
    (tmp_path / "shared").mkdir()
    real = pair.rename(tmp_path / "shared" / "real.json")
    pair.symlink_to(Path("shared") / "real.json")
    assert write_together(pair, both(pair))[0] == real.with_name("real.json.bak")
    assert pair.is_symlink()
    assert real.read_bytes() == b"new"


@posix
def test_a_dangling_link_makes_its_target(tmp_path):
    config = tmp_path / "config.json"
    config.symlink_to("there/real.json")
    write_together(config, {config: b"{}"})
    assert (tmp_path / "there" / "real.json").read_bytes() == b"{}"


# --- what stands in the way


def refused(config, data, error):
    before = contents(config.parent)
    with pytest.raises(error) as caught:
        write_together(config, data)
    assert contents(config.parent) == before
    assert caught.value.hint
    return caught.value.message


def test_a_folder_in_the_place_of_a_file(pair):
    (pair.parent / "prompts.json").mkdir()
    message = refused(pair, {**both(pair), pair.parent / "prompts.json": b"{}"}, UsageError)
    assert message.endswith("prompts.json can't be written: it is a folder")


def test_a_file_in_the_place_of_a_folder(pair):
    assert "notes.txt" in refused(
        pair, {**both(pair), pair.with_name("config.json") / "notes.txt": b""}, EnvironmentNotReady
    )


@posix
def test_one_file_under_two_names(pair):
    other = pair.with_name("other.json")
    other.symlink_to("config.json")
    assert "one and the same" in refused(pair, {pair: b"1", other: b"2"}, UsageError)


@posix
def test_a_loop_of_links(tmp_path):
    config = tmp_path / "config.json"
    config.symlink_to("config.json")
    assert "no usable path" in refused(config, {config: b"1"}, UsageError)
    assert recover(config) is None


@posix
@not_root
def test_a_read_only_folder(pair):
    pair.parent.chmod(0o500)
    try:
        assert "Permission denied; nothing was changed" in refused(pair, both(pair), EnvironmentNotReady)
    finally:
        pair.parent.chmod(0o700)


def test_a_write_protected_file(pair, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "multidatabackend.json")
    assert "multidatabackend.json is write-protected" in refused(pair, both(pair), EnvironmentNotReady)


def test_folders_made_for_a_write_that_fails_are_gone(tmp_path):
    (tmp_path / "taken").mkdir()
    config = tmp_path / "new" / "config.json"
    refused(config, {config: b"{}", tmp_path / "taken": b""}, UsageError)
    assert not config.parent.exists()


def test_a_rename_that_fails_puts_the_others_back(pair, monkeypatch):
    real_rename = files.rename

    def rename(source, target):
        if target.name == "multidatabackend.json" and target.exists():
            raise PermissionError(13, "in use by another program", str(target))
        real_rename(source, target)

    monkeypatch.setattr(files, "rename", rename)
    assert "in use by another program; nothing was changed" in refused(pair, both(pair), EnvironmentNotReady)


FULL = """
import resource, sys
from pathlib import Path
from simpletune.config.journal import write_together
from simpletune.errors import EnvironmentNotReady
config = Path(sys.argv[1])
old = config.read_bytes()
for size in range(0, len(old) + 600, 37):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        write_together(config, {config.with_name("first.json"): b"1", config: b"x" * (len(old) + 500)})
    except EnvironmentNotReady as error:
        assert "no room to write" in error.message and "nothing was changed" in error.message, error.message
        assert config.read_bytes() == old and len(list(config.parent.iterdir())) == 1, list(config.parent.iterdir())
    else:
        print("written at", size)
        break
"""


@posix
def test_no_room_at_any_moment_of_the_write(tmp_path):
    """A limit on file sizes stops the write at ever later places, until it is large enough."""
    config = tmp_path / "config.json"
    config.write_bytes(b"o" * 1000)
    done = subprocess.run([sys.executable, "-c", FULL, str(config)], capture_output=True, text=True, check=True)
    assert "written at 15" in done.stdout


FULL_DISK = """
import os, sys
from pathlib import Path
from simpletune.config.journal import write_together
from simpletune.errors import EnvironmentNotReady
root = Path(sys.argv[1])
config = root / "config.json"
config.write_bytes(b"o" * 20_000)
page = 4096
free = 0
while True:
    filler = root / "filler"
    filler.unlink(missing_ok=True)
    room = os.statvfs(root).f_bavail * page
    filler.write_bytes(b"f" * (room - free * page))
    before = sorted(root.iterdir())
    try:
        write_together(config, {root / "new" / "first.json": b"1" * 5000, config: b"n" * 21_000})
    except EnvironmentNotReady as error:
        assert "no room to write" in error.message, error.message
        assert sorted(root.iterdir()) == before and config.read_bytes() == b"o" * 20_000
    else:
        break
    free += 1
print("refused", free, "times")
"""


READ_ONLY = """
import subprocess, sys
from pathlib import Path
from simpletune.config import journal
from simpletune.errors import EnvironmentNotReady
config = Path(sys.argv[1]) / "config.json"
config.write_bytes(b"old")
journal._journal(config).write_bytes(b"{}")
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
for act in (lambda: journal.recover(config), lambda: journal.write_together(config, {config: b"new"})):
    try:
        act()
    except EnvironmentNotReady as error:
        print(error.message.replace(sys.argv[1], "DISK"), "|", error.hint)
"""


def on_a_disk_of_its_own(program, folder):
    """What a program prints that runs on a file system of 128 KiB, made for it alone."""
    script = f'mount -t tmpfs -o size=128k none "{folder}" && exec "{sys.executable}" -c "$0" "{folder}"'
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        possible = subprocess.run([*unshare, f'mount -t tmpfs none "{folder}"'], capture_output=True).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("this system doesn't let a test mount a file system")
    done = subprocess.run([*unshare, script, program], capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout


@posix
def test_a_disk_that_is_really_full(tmp_path):
    refused_times = on_a_disk_of_its_own(FULL_DISK, tmp_path).split()[1]
    assert int(refused_times) > 10


@posix
def test_a_disk_that_is_really_read_only(tmp_path):
    for line in on_a_disk_of_its_own(READ_ONLY, tmp_path).splitlines():
        message, _, hint = line.partition(" | ")
        assert message.startswith(
            "DISK/.config.json.lock can't be written: Read-only file system; an interrupted write"
        )
        assert hint == "allow writing to the folder, or choose another one"


# --- killed writers


@posix
@pytest.mark.parametrize("what", ["write", "recover"])
def test_killed_before_any_system_call_leaves_all_old_or_all_new(tmp_path, what):
    """Real processes, each ended by SIGKILL before its n-th call that changes or syncs a file, for every n."""
    script = [sys.executable, str(HERE / "killed_writers.py"), str(tmp_path), what]
    found = json.loads(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
    assert {one["after"] for one in found} == {"old", "new"}
    assert any(one["before"] == "mixed" for one in found)  # else nothing was proved
    assert sum(one["killed"] for one in found) > 60
    for one in found:
        backups = ["config.json.bak", "far/prompts.json.bak", "multidatabackend.json.bak"]
        left = [
            name for name in one["others"] if name != ".config.json.lock"
        ]  # a killed process's; it locks nobody out
        assert left == (backups if one["after"] == "new" else []), one
        if one["before"] == "mixed":
            assert "had been interrupted; it was completed" in one["note"]


def test_a_lost_temporary_undoes_what_was_renamed(pair, monkeypatch):
    before = contents(pair.parent)
    killed_while_renaming(pair, monkeypatch)
    assert pair.read_bytes() == b"new"
    next(pair.parent.glob(".multidatabackend.json.*.new")).unlink()
    assert recover(pair) == "writing config.json and multidatabackend.json had been interrupted; it was undone"
    assert contents(pair.parent) == before


def test_without_the_old_content_it_says_where_to_look(pair, monkeypatch):
    killed_while_renaming(pair, monkeypatch)
    next(pair.parent.glob(".multidatabackend.json.*.new")).unlink()
    pair.with_name("config.json.bak").unlink()
    with pytest.raises(SimpletuneError, match="its old content is no longer in") as caught:
        recover(pair)
    assert ".config.json.journal" in caught.value.hint


def test_work_of_a_hand_before_the_first_rename_stays(pair, monkeypatch):
    killed_while_renaming(pair, monkeypatch, at=1)
    pair.write_bytes(b"by hand")
    assert "it was undone" in recover(pair)
    assert pair.read_bytes() == b"by hand"
    assert pair.with_name("multidatabackend.json").read_bytes() == b"[old]"


def test_work_of_a_hand_between_the_renames_is_kept_beside(pair, monkeypatch):
    killed_while_renaming(pair, monkeypatch)
    pair.with_name("multidatabackend.json").write_bytes(b"by hand")
    assert recover(pair).endswith("it was completed; what was there meanwhile is kept as multidatabackend.json.bak2")
    assert pair.with_name("multidatabackend.json").read_bytes() == b"[new]"
    assert pair.with_name("multidatabackend.json.bak2").read_bytes() == b"by hand"


def test_the_next_writer_settles_what_was_left(pair, monkeypatch):
    killed_while_renaming(pair, monkeypatch)
    write_together(pair, both(pair, b"newer"))
    assert contents(pair.parent) == {
        "config.json": b"newer",
        "multidatabackend.json": b"[newer]",
        "config.json.bak": b"old",
        "config.json.bak2": b"new",
        "multidatabackend.json.bak": b"[old]",
        "multidatabackend.json.bak2": b"[new]",
    }


def test_a_moved_folder_is_settled_in_its_new_place(pair, monkeypatch, tmp_path):
    home = tmp_path / "project"
    home.mkdir()
    config = home / "config.json"
    for path in (pair, pair.with_name("multidatabackend.json")):
        path.rename(home / path.name)
    killed_while_renaming(config, monkeypatch)
    home.rename(tmp_path / "moved")
    recover(tmp_path / "moved" / "config.json")
    assert (tmp_path / "moved" / "multidatabackend.json").read_bytes() == b"[new]"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1, "token": "../../x", "files": []}', "\xff"])
def test_a_journal_that_is_none(pair, text):
    pair.with_name(".config.json.journal").write_text(text, encoding="latin-1")
    with pytest.raises(SimpletuneError, match="does not read as the journal") as caught:
        recover(pair)
    assert "delete it" in caught.value.hint


def test_a_journal_from_elsewhere_removes_nothing_outside_its_folder(tmp_path):
    """What a folder that somebody downloaded could bring along."""
    victim = tmp_path / "victim.txt"
    victim.write_bytes(b"well known")
    home = tmp_path / "project"
    home.mkdir()
    entry = {"target": str(victim), "new": files.sha256(victim), "old": None, "backup": None}
    gone = {"target": "gone.json", "new": "0", "old": None, "backup": None}
    value = {"format": 1, "token": "0123abcd", "files": [entry, gone]}
    (home / ".config.json.journal").write_text(json.dumps(value))
    assert recover(home / "config.json").endswith(f"it was undone; but {victim} was new and is left")
    assert victim.read_bytes() == b"well known"


# --- two at once

WRITER = """
import sys, time
from pathlib import Path
from simpletune import files
from simpletune.config.journal import write_together
rename = files.rename
def slow(source, target):
    rename(source, target)
    if target.name == "config.json":
        print("between", flush=True)
        time.sleep(float(sys.argv[2]))
files.rename = slow
config = Path(sys.argv[1])
write_together(config, {config: b"new", config.with_name("multidatabackend.json"): b"[new]"})
"""


def live_writer(config, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(config), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "between\n"
    return process


def test_a_live_writer_is_waited_for(pair):
    with live_writer(pair, 0.5):
        assert recover(pair) is None
        assert pair.with_name("multidatabackend.json").read_bytes() == b"[new]"


def test_a_writer_that_does_not_end_is_named(pair, monkeypatch):
    monkeypatch.setattr(journal, "PATIENCE_SECONDS", 0.1)
    with live_writer(pair, 30) as process:
        for act in (lambda: recover(pair), lambda: write_together(pair, both(pair))):
            with pytest.raises(UsageError, match=f"is being written by another process {process.pid}"):
                act()
        process.kill()
    assert "it was completed" in recover(pair)


# --- where it is called


def test_validate_settles_what_was_left_and_says_so(pair, monkeypatch):
    from simpletune.cli.validate import validate

    killed_while_renaming(pair, monkeypatch)
    result = CliRunner().invoke(validate, [str(pair), "--json"], standalone_mode=False)
    assert result.stderr.startswith("note: writing config.json and multidatabackend.json had been interrupted")
    assert json.loads(result.stdout)
    assert pair.with_name("multidatabackend.json").read_bytes() == b"[new]"


def test_train_settles_what_was_left_and_says_so(pair, monkeypatch):
    from simpletune.errors import ConfigError
    from simpletune.trainer.launch import launch

    class Notes:
        def __init__(self):
            self.notes = []

        def note(self, text):
            self.notes.append(text)

    killed_while_renaming(pair, monkeypatch)
    reporter = Notes()
    with pytest.raises(ConfigError):
        launch(pair, (), reporter)
    assert reporter.notes[0].endswith("it was completed")


def test_what_somebody_else_wrote_meanwhile_is_not_written_over(pair):
    data = pair.with_name("multidatabackend.json")
    seen = {pair: b"old", data: b"[old]"}
    data.write_bytes(b"[theirs]")
    with pytest.raises(UsageError, match=r"multidatabackend\.json was changed meanwhile"):
        write_together(pair, both(pair), expected=seen)
    assert (pair.read_bytes(), data.read_bytes()) == (b"old", b"[theirs]")
    new = pair.with_name("new.json")
    new.write_bytes(b"theirs")
    with pytest.raises(UsageError, match="changed meanwhile"):
        write_together(new, {new: b"ours"}, expected={new: None})
    write_together(pair, both(pair), expected={pair: b"old", data: b"[theirs]"})
    assert data.read_bytes() == b"[new]"
