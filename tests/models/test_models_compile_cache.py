"""Compiled code is kept where nobody else can write, and found again."""

import os
import re
import stat
import subprocess
import sys

import pytest
import torch

from simpletune.errors import EnvironmentNotReady
from simpletune.machine import user_cache
from simpletune.models.compile_cache import INDUCTOR, TRITON, prepare

on_posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """Where the code goes; the two variables are as they were afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in (INDUCTOR, TRITON):
        monkeypatch.setenv(name, "")
    return tmp_path / "cache" / "simpletune" / "compiled"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_folder_for_each_version_of_torch(root):
    assert prepare() is None
    for name in (INDUCTOR, TRITON):
        assert os.environ[name].startswith(str(root / f"torch-{torch.__version__}"))
        assert os.path.isdir(os.environ[name])  # noqa: PTH112
    assert os.environ[INDUCTOR] != os.environ[TRITON]
    if os.name != "nt":
        assert mode(root) == 0o700
    os.environ[INDUCTOR] = ""
    assert prepare() is None  # the folder that is there is taken again


def test_what_the_user_set_stays(root, monkeypatch):
    monkeypatch.setenv(INDUCTOR, "mine")
    prepare()
    assert os.environ[INDUCTOR] == "mine"
    assert os.environ[TRITON].startswith(str(root))


def test_nothing_is_made_when_both_are_set(root, monkeypatch):
    monkeypatch.setenv(INDUCTOR, "mine")
    monkeypatch.setenv(TRITON, "mine too")
    prepare()
    assert not root.exists()


@on_posix
@pytest.mark.parametrize("open_mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_can_write_is_refused(root, open_mode):
    root.mkdir(parents=True)
    root.chmod(open_mode)
    with pytest.raises(EnvironmentNotReady, match=rf"other users can write there \(mode {open_mode:04o}\)") as caught:
        prepare()
    assert str(root) in caught.value.message
    assert INDUCTOR in caught.value.hint
    assert os.environ[INDUCTOR] == ""


@on_posix
def test_a_link_is_refused(root, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    root.parent.mkdir(parents=True)
    root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EnvironmentNotReady, match="a link or a file"):
        prepare()


@on_posix
def test_another_users_folder_is_refused(root, monkeypatch):
    root.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: root.stat().st_uid + 1)
    with pytest.raises(EnvironmentNotReady, match="belongs to another user"):
        prepare()


def test_where_nothing_can_be_kept_the_process_has_a_folder_of_its_own(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    note = prepare()
    assert "can't be kept for the next run" in note
    folder = os.environ[INDUCTOR]
    assert not folder.startswith(str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux", ".cache/simpletune"),
        ("darwin", "Library/Caches/simpletune"),
        ("win32", "AppData/Local/simpletune/cache"),
    ],
)
def test_where_caches_are(monkeypatch, platform, expected):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    assert user_cache.cache_folder().as_posix().endswith(expected)


_COMPILE = """
import time
from simpletune.models.compile_cache import prepare
prepare()
import torch
began = time.perf_counter()
torch.compile(lambda x: torch.sin(x).mean())(torch.ones(8, requires_grad=True)).backward()
print("seconds", time.perf_counter() - began, torch._dynamo.utils.counters["inductor"])
"""


@pytest.mark.slow
def test_a_second_process_takes_the_code_of_the_first(root):
    def run():
        return subprocess.run([sys.executable, "-c", _COMPILE], capture_output=True, text=True, check=True).stdout

    first, second = run(), run()
    assert "cache_miss" in first
    assert "cache_hit" in second
    assert "cache_miss" not in second
    before, after = (float(re.search(r"seconds (\S+)", text)[1]) for text in (first, second))
    assert after < before
    assert any(path.suffix == ".so" for path in root.rglob("*"))


def test_the_place_that_torch_fills_in_by_itself_is_no_choice_of_the_users(root):
    """In a process of its own: importing accelerate's compiler support sets the variable."""
    code = (
        "import os; os.environ.pop('TORCHINDUCTOR_CACHE_DIR', None); os.environ.pop('TRITON_CACHE_DIR', None)\n"
        "import torch._dynamo\n"
        "from simpletune.models import compile_cache\n"
        "compile_cache.prepare(); print(os.environ['TORCHINDUCTOR_CACHE_DIR'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip().startswith(str(root))
