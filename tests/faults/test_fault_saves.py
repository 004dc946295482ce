"""A save that is killed or refused at any of its calls leaves the checkpoints before it, or the new one, whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tallies import Tally

SAVES = Path(__file__).with_name("saves.py")


@pytest.fixture(scope="module")
def tries(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if sys.platform != "linux":
        pytest.skip("forks, and looks into /proc")
    said = subprocess.run(
        [sys.executable, str(SAVES), str(tmp_path_factory.mktemp("saves"))],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert said.returncode == 0, said.stderr
    return [json.loads(line) for line in said.stdout.splitlines()]


def test_a_save_killed_at_any_call_leaves_the_old_checkpoint_or_the_new_one(
    tries: list[dict[str, Any]], tally: Tally
) -> None:
    killed = [one for one in tries if one["do"] != "fail"]
    assert {one["code"] for one in killed} == {-9}
    assert len(killed) > 30
    assert {one["newest"] for one in killed} == {"checkpoint-2", "checkpoint-3"}
    assert [one for one in killed if one["damaged"] or one["others"]] == []
    tally("kills tried", len(killed))


def test_a_save_that_the_disk_refuses_leaves_the_old_checkpoint_or_the_new_one(
    tries: list[dict[str, Any]], tally: Tally
) -> None:
    refused = [one for one in tries if one["do"] == "fail"]
    assert len(refused) > 100
    assert {one["newest"] for one in refused} == {"checkpoint-2", "checkpoint-3"}
    assert [one for one in refused if one["damaged"] or one["others"]] == []
    assert [one for one in refused if one["code"] == 0 and one["newest"] != "checkpoint-3"] == []
    tally("faults injected", len(refused))


def test_what_a_killed_writer_left_is_removed_by_the_next_run_and_nothing_else(tmp_path: Path) -> None:
    from simpletune.trainer.retention import remove_leftovers

    half = [".run.json.0123abcd.tmp.json", "samples/base/.a.png.0123abcd.tmp.png", "ema/.b.safetensors.01234567.tmp"]
    others = [".report.html.0123abcd.tmp.html", "generated/.a.png.0123abcd.tmp.png", ".mine.tmp", "x.0123abcd.tmp"]
    for name in (*half, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert left == sorted(others)
