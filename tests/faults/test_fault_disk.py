"""A disk that is full, forbidden, read-only or broken at any call: a sentence, and nothing is lost; or that is slow."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
from harness import (
    EVERY,
    Ended,
    Reference,
    Zygote,
    check_checkpoints,
    check_whole,
    most_lost,
    resumes_at,
    steps_done,
)
from points import FAILS, Point
from tallies import Tally

PARTS = 24
WORDS = {
    errno.ENOSPC: "disk is full",
    errno.EDQUOT: "quota",
    errno.EROFS: "read-only",
    errno.EACCES: "permission denied",
    errno.EIO: "error of its own",
}
"""What is said in place of the system's own words."""
PASSED_OVER = ("can't be written", "no model card was written")
"""What is said of pictures that are missing in the end: the run was not stopped for them."""


def faults(points: list[Point]) -> list[tuple[int, Point]]:
    """(error, where) for every call that may give it: one error a call, in turn, and none where a file was opened
    already. FAULT_ALL=1 injects all five at each."""
    found = []
    for number, point in enumerate(points):
        kind = point[0].partition(" ")[0]
        if kind in ("overwrite", "chmod") and not EVERY:
            continue
        possible = [error for error, kinds in FAILS.items() if kind in kinds]
        found += [(error, point) for error in (possible if EVERY else possible[number % len(possible) :][:1])]
    return found


def check_told(ended: Ended, error: int) -> None:
    """A sentence that names what the disk said, with an exit code of errors.py, and no traceback."""
    said = ended.said
    assert ended.code in (1, 2, 3), said
    assert "Traceback" not in said, said
    assert "this is a bug" not in said, said
    assert "error: " in said, said
    assert WORDS[error] in said or os.strerror(error) in said, said


@pytest.mark.fault
@pytest.mark.parametrize("part", range(PARTS))
def test_at_every_call_that_changes_a_file(
    hasty: Zygote, short: Reference, calls: list[Point], tmp_path: Path, tally: Tally, part: int
) -> None:
    wrong = []
    for number, (error, point) in enumerate(faults(calls)[part::PARTS]):
        folder = tmp_path / str(number)
        try:
            inject(hasty, short, folder, error, point)
        except AssertionError as problem:
            wrong.append(f"{errno.errorcode[error]} at {point}: {problem}")
        tally("faults injected", 1)
    assert not wrong, f"{len(wrong)} faults:\n" + "\n\n".join(wrong)


def inject(zygote: Zygote, reference: Reference, folder: Path, error: int, point: Point) -> None:
    project = reference.copy(folder, encoded="cache/" not in point[0])
    failed = zygote.run(project, points={"do": "fail", "at": point, "error": error})
    assert steps_done(project) - resumes_at(project) <= most_lost(reference.interval)
    check_checkpoints(project, reference)
    if failed.code != 0:
        check_told(failed, error)
    again = zygote.run(project)  # of a run that came through too: what the disk wouldn't let go goes now
    assert again.code == 0, again.said
    check_whole(project, reference, pictured=not any(words in failed.said for words in PASSED_OVER))


@pytest.mark.fault
@pytest.mark.parametrize("ended_by", ["nothing", "SIGTERM", "SIGKILL"])
def test_a_slow_disk_costs_time_and_nothing_else(
    hasty: Zygote, short: Reference, tmp_path: Path, tally: Tally, ended_by: str
) -> None:
    """Training goes on while a checkpoint is written, and waits for it before the next one."""
    project, slow = short.copy(tmp_path / "project"), {"do": "slow"}
    if ended_by == "SIGTERM":
        stopped = hasty.run(project, points=slow, stop={"step": 3, "signal": signal.SIGTERM})
        assert stopped.code == 143, stopped.said
        assert steps_done(project) == resumes_at(project) == 3
    elif ended_by == "SIGKILL":  # while the second checkpoint is written
        assert hasty.run(project, points=slow, stop={"step": 5, "signal": signal.SIGKILL}).code == -9
        assert steps_done(project) == 4
        assert resumes_at(project) >= 2, "the second was begun before the first was whole"
    ended = hasty.run(project, points=slow) if ended_by == "nothing" else hasty.run(project)
    assert ended.code == 0, ended.said
    check_whole(project, short)
    tally("faults injected", 1)
