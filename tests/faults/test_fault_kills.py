"""Killed at any moment, and at every call that changes a file, a run loses at most the last interval."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import (
    ENVIRONMENT,
    EVERY,
    INTERVAL,
    Ended,
    Reference,
    Zygote,
    check_checkpoints,
    check_whole,
    most_lost,
    resumes_at,
    steps_done,
)
from points import Point
from project import Project
from tallies import Tally

SEED = int(os.environ.get("FAULT_SEED", "20261123"))
# Many short tests: at the end of `make fault-test` no process waits long for the other.
MOMENTS, PARTS = 50, 10
COLD = 5
EACH_POINT_PARTS = 20


def check_killed(project: Project, reference: Reference, tally: Tally, interval: int) -> int:
    """What is there after a kill; gives the step that the run will go on from."""
    done, resumes = steps_done(project), resumes_at(project)
    assert done - resumes <= most_lost(interval), (
        f"killed after step {done}, and the newest checkpoint is of step {resumes}"
    )
    check_checkpoints(project, reference)
    tally("kills tried", 1)
    tally("of them that lost more than the last interval", int(done - resumes > interval))
    tally.most("steps lost to a kill", done - resumes)
    return resumes


def check_resumed(ended: Ended, project: Project, reference: Reference, step: int) -> None:
    assert ended.code == 0, ended.said
    if step and "this run is finished" not in ended.said:
        assert f"continuing from checkpoint-{step}: step {step} of" in ended.said, ended.said
    check_whole(project, reference)


@pytest.mark.fault
@pytest.mark.parametrize("part", range(PARTS))
def test_at_random_moments(zygote: Zygote, pictured: Reference, tmp_path: Path, tally: Tally, part: int) -> None:
    """Some are killed again while they go on. FAULT_SEED=N chooses other moments."""
    seed = SEED + part
    print(f"FAULT_SEED={SEED}, part {part}: random.Random({seed})")
    moments, killed, number = random.Random(seed), 0, 0
    while killed < MOMENTS // PARTS:
        number += 1
        project = pictured.copy(tmp_path / str(number))
        step = 0
        for _ in range(min(moments.choice((1, 1, 1, 2, 3)), MOMENTS // PARTS - killed)):
            ended = zygote.run(project, kill_after=moments.uniform(0.0, 0.95) * pictured.seconds)
            killed += 1
            assert ended.code in (-9, 0), ended.said
            step = check_killed(project, pictured, tally, INTERVAL)
        check_resumed(zygote.run(project), project, pictured, step)


@pytest.mark.fault
@pytest.mark.parametrize("part", range(EACH_POINT_PARTS))
def test_at_every_call_that_changes_a_file(
    hasty: Zygote, short: Reference, calls: list[Point], tmp_path: Path, tally: Tally, part: int
) -> None:
    """Before each call; a write also in its middle."""
    missed, wrong = [], []
    chosen = kills(calls)[part::EACH_POINT_PARTS]
    for number, (do, point) in enumerate(chosen):
        project = short.copy(tmp_path / str(number), encoded="cache/" not in point[0])
        killed = hasty.run(project, points={"do": do, "at": point})
        missed += [point] if killed.code == 0 else []
        try:
            assert killed.code in (-9, 0), killed.said
            step = check_killed(project, short, tally, short.interval)
            check_resumed(hasty.run(project), project, short, step)
        except AssertionError as problem:
            wrong.append(f"{do} at {point}: {problem}")
    assert not wrong, f"{len(wrong)} of {len(chosen)} kills:\n" + "\n\n".join(wrong)
    assert len(missed) <= 1, missed  # threads come by in another order
    tally("of them before or in a named call", len(chosen) - len(missed))


def kills(points: list[Point]) -> list[tuple[str, Point]]:
    """(what to do, where). Calls that change no file's bytes or name are left out: a kill before them leaves what one
    before the next call leaves. FAULT_ALL=1 takes them too."""
    found: list[tuple[str, Point]] = []
    for name, count in points:
        kind = name.partition(" ")[0]
        if kind == "write" and "cache/" not in name:
            found.append(("half", (name, count)))
        if EVERY or kind not in ("overwrite", "chmod", "fsync"):
            found.append(("kill", (name, count)))
    return found


@pytest.mark.fault
@pytest.mark.parametrize("number", range(COLD))
def test_from_a_cold_start(zygote: Zygote, pictured: Reference, tmp_path: Path, tally: Tally, number: int) -> None:
    """A process of its own, as people start it, killed some time after its first or a later step."""
    project = pictured.copy(tmp_path / "project")
    process = subprocess.Popen(
        [sys.executable, "-m", "simpletune", "train", str(project.config)],
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | ENVIRONMENT,
    )
    began = time.monotonic()
    while steps_done(project) < 1 + 2 * number and process.poll() is None and time.monotonic() - began < 120:
        time.sleep(0.01)
    time.sleep(random.Random(SEED + number).uniform(0, 0.1))
    process.kill()
    assert process.wait() == -9
    step = check_killed(project, pictured, tally, INTERVAL)
    check_resumed(zygote.run(project), project, pictured, step)
    tally("of them from a cold start", 1)


@pytest.mark.fault
def test_recording_names_the_calls_of_a_save(calls: list[Point]) -> None:
    """If the recorder were blind, nothing would be killed and nothing would fail."""
    names = {name for name, _ in calls}
    for wanted in ("rename output/checkpoint-2", "write output/metrics.jsonl", "fsync output", "mkdir output/samples"):
        assert wanted in names, json.dumps(sorted(names), indent=1)
