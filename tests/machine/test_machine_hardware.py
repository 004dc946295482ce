import json
import subprocess
import sys
from pathlib import Path

import pytest

from simpletune.config import installed
from simpletune.config.installed import is_installed, torch_build
from simpletune.machine import gpus
from simpletune.machine.gpus import Found, nvidia_gpus, parse_gpus
from simpletune.machine.hardware import look


def test_this_machine(tmp_path):
    machine = look(tmp_path / "not" / "there" / "yet")
    assert machine.cpu_count >= 1
    assert machine.disk_free > 0
    if Path("/proc/meminfo").exists():
        assert 0 < machine.memory_available <= machine.memory_total


def test_gpus_of_a_driver_s_answer():
    lines = [
        "0, NVIDIA GeForce RTX 4090, 24564, 23000, 580.65, 8.9",
        "1, Odd, [N/A], 1, 580.65, 8.9",
        "2, Old, 8192, 8000, 470.1, [N/A]",
        "",
    ]
    first, odd, second = parse_gpus("\n".join(lines))
    assert (first.index, first.name, first.memory_total, first.compute_capability) == (
        0, "NVIDIA GeForce RTX 4090", 24564 << 20, (8, 9),
    )  # fmt: skip
    assert (odd.memory_total, odd.memory_free, odd.compute_capability) == (None, 1 << 20, (8, 9))
    assert (second.index, second.compute_capability) == (2, None)


@pytest.mark.parametrize("answer", [OSError("gone"), subprocess.TimeoutExpired("nvidia-smi", 1)])
def test_a_driver_that_fails_is_no_gpu(monkeypatch, answer):
    def fail(*args, **kwargs):
        raise answer

    monkeypatch.setattr(gpus.shutil, "which", lambda name: "/bin/nvidia-smi")
    monkeypatch.setattr(gpus.subprocess, "run", fail)
    found = nvidia_gpus()
    assert (found.gpus, "nvidia-smi" in found.problem) == ((), True)


def test_without_a_driver_there_is_nothing_to_say(monkeypatch):
    monkeypatch.setattr(gpus.shutil, "which", lambda name: None)
    assert nvidia_gpus() == Found()


def test_torch_is_known_without_importing_it():
    code = """
import json, sys
from simpletune.config.installed import torch_build
build = torch_build()
print(json.dumps([build.version, build.cuda, "torch" in sys.modules]))
"""
    found = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    torch = pytest.importorskip("torch")
    assert found == [torch.__version__, torch.version.cuda, False]


def test_without_torch(monkeypatch):
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    assert torch_build() is None
    assert not is_installed("torch")
