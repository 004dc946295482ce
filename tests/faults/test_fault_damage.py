"""A damaged checkpoint is passed over; the steps since the one before it are trained again, to the same result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import STEPS, Reference, Zygote, check_whole
from tallies import Tally

from simpletune.trainer.lock import run_lock


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 2)


DAMAGES: tuple[Callable[[Path], None], ...] = (flip, cut, Path.unlink)


@pytest.mark.fault
def test_the_one_before_is_taken(hasty: Zygote, reference: Reference, tmp_path: Path, tally: Tally) -> None:
    """A bit turned, bytes too few or a file gone, in each file of a stopped run's newest checkpoint."""
    stopped = reference.copy(tmp_path / "stopped")
    assert hasty.run(stopped, stop={"step": 8, "signal": 15}).code == 143
    newest = stopped.output / "checkpoint-8"
    names = sorted(path.name for path in newest.iterdir())
    for number, name in enumerate(names):
        project = reference.copy(tmp_path / name)
        shutil.copytree(stopped.output, project.output)
        DAMAGES[number % len(DAMAGES)](project.output / newest.name / name)
        ended = hasty.run(project)
        assert ended.code == 0, ended.said
        assert f"continuing from checkpoint-6: step 6 of {STEPS}" in ended.said
        assert "checkpoint-8" in ended.said, "nobody was told that it is damaged"
        check_whole(project, reference, aside=[f"abandoned-1-{newest.name}/"])
        tally("checkpoints damaged", 1)


@pytest.mark.fault
def test_a_second_run_on_a_folder_is_refused(hasty: Zygote, reference: Reference, tmp_path: Path) -> None:
    project = reference.copy(tmp_path / "project")
    project.output.mkdir()
    with run_lock(project.output):
        refused = hasty.run(project)
    assert refused.code == 2
    assert f"process {os.getpid()}" in refused.said
    assert "Traceback" not in refused.said
    assert hasty.run(project).code == 0
    check_whole(project, reference)
