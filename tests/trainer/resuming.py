"""Starts in a folder that holds a run: what they say, what they propose, and what may have happened to the folder."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from project import Project

from simpletune import files
from simpletune.errors import SimpletuneError
from simpletune.progress import SilentReporter
from simpletune.trainer.launch import launch


class Said(SilentReporter):
    """Keeps what a start says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(f"warning: {text}")

    def has(self, *parts: str) -> bool:
        return any(all(part in line for part in parts) for line in self.lines)


def train(project: Project, *overrides: str, **flags: Any) -> Said:
    said = Said()
    launch(project.config, overrides, said, **flags)
    return said


def refused(project: Project, *overrides: str, **flags: Any) -> SimpletuneError:
    """The error of a start that must change nothing in the project but its lock."""
    before = contents(project.folder)
    with pytest.raises(SimpletuneError) as caught:
        train(project, *overrides, **flags)
    assert contents(project.folder) == before
    return caught.value


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts}


def commands(error: SimpletuneError) -> list[str]:
    """The lines that are there to be copied."""
    return [line.strip() for line in (error.hint or "").splitlines() if line.startswith("    ")]


def run_command(line: str) -> Said:
    """What a proposed command does, its `mv` in a shell and its training in this process."""
    moved, _, rest = line.rpartition(" && ")
    if moved:
        subprocess.run(moved, shell=True, check=True)
    words = shlex.split(rest)
    assert words[:2] == ["simpletune", "train"]
    overrides = [value for word, value in pairwise(words) if word == "--set"]
    said = Said()
    flags: dict[str, Any] = {
        flag: f"--{flag.replace('_', '-')}" in words for flag in ("new_folder", "accept_data_change")
    }
    launch(Path(words[2]), overrides, said, **flags)
    return said


def at_checkpoint(project: Project, step: int) -> None:
    """As if the run had been killed right after that checkpoint."""
    for path in project.output.glob("checkpoint-*"):
        if int(path.name.partition("-")[2]) > step:
            shutil.rmtree(path)
    (project.output / "finished.json").unlink()


def damage(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


def only_adapter(checkpoint: Path) -> None:
    from simpletune.trainer.retention import keep_adapter

    keep_adapter(checkpoint)


def newer(checkpoint: Path) -> None:
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    (checkpoint / "manifest.json").write_text(json.dumps(manifest | {"format": 1000}))


def empty(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def change_state(checkpoint: Path, **values: object) -> None:
    """Other values in what a checkpoint keeps of its run, and the checkpoint is intact."""
    state = json.loads((checkpoint / "state.json").read_text())
    state["run"] |= values
    (checkpoint / "state.json").write_text(json.dumps(state))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    path = checkpoint / "state.json"
    manifest["files"]["state.json"] = {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
