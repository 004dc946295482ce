"""What torch.compile would miss on machines of every kind."""

import sys

import pytest

from simpletune.machine import toolchain as subject
from simpletune.machine.toolchain import gap


@pytest.fixture(autouse=True)
def complete(monkeypatch, tmp_path):
    """A Linux machine with all that is needed; returns what each test may take away."""
    (tmp_path / "Python.h").touch()
    there = {"gcc", "g++", "triton"}
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(subject, "is_installed", lambda package: package in there)
    monkeypatch.setattr(subject.shutil, "which", lambda name: f"/usr/bin/{name}" if name in there else None)
    monkeypatch.setattr(subject.sysconfig, "get_path", lambda _name, _scheme="": str(tmp_path))
    for name in (
        "CC",
        "CXX",
        "CPATH",
        "C_INCLUDE_PATH",
        "CPLUS_INCLUDE_PATH",
        "TORCH_COMPILE_DISABLE",
        "TORCHDYNAMO_DISABLE",
    ):
        monkeypatch.delenv(name, raising=False)
    return there


def test_nothing_is_missing():
    assert gap("cuda") is None
    assert gap("cpu") is None


@pytest.mark.parametrize(
    ("missing", "device", "what"),
    [
        ("triton", "cuda", "Triton is not installed"),
        ("gcc", "cuda", "no C compiler is found for torch.compile"),
        ("g++", "cpu", "no C++ compiler is found for torch.compile"),
    ],
)
def test_a_missing_part_is_named(complete, missing, device, what):
    complete.remove(missing)
    other = {"cuda": "cpu", "cpu": "cuda"}[device]
    found = gap(device)
    assert found is not None
    assert found.what == what
    assert missing in found.remedy
    assert gap(other) is None


def test_the_compiler_that_the_user_names_counts(complete, monkeypatch):
    monkeypatch.setenv("CC", "/opt/my/cc")
    assert gap("cuda") is not None
    complete.add("/opt/my/cc")
    assert gap("cuda") is None


def test_missing_headers_are_named(tmp_path, monkeypatch):
    (tmp_path / "Python.h").unlink()
    assert "Python.h" in gap("cuda").what
    assert "-dev on Debian and Ubuntu" in gap("cuda").remedy
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "Python.h").touch()
    monkeypatch.setenv("CPATH", str(tmp_path / "mine"))
    assert gap("cuda") is None


@pytest.mark.parametrize(("value", "off"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_turned_off_by_a_variable(monkeypatch, value, off):
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", value)
    assert (gap("cpu") is not None) == off


def test_other_systems(complete, monkeypatch):
    assert "Apple" in gap("mps").what
    complete.difference_update({"gcc", "g++"})
    monkeypatch.setattr(sys, "platform", "darwin")
    assert gap("cpu").remedy == "xcode-select --install"
    complete.add("clang++")
    assert gap("cpu") is None
    monkeypatch.setattr(sys, "platform", "win32")
    assert "Visual Studio" in gap("cpu").remedy
    assert gap("cuda") is None  # Triton for Windows brings its compiler
