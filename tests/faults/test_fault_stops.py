"""Stopped at any step and continued in a new process, a run gives to the bit what one that was left alone gives."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from harness import INTERVAL, STEPS, Reference, Zygote, check_checkpoints, check_whole, resumes_at, steps_done
from tallies import Tally

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def stop_and_go_on(hasty: Zygote, reference: Reference, folder: Path, step: int, number: int) -> None:
    project = reference.copy(folder)
    stopped = hasty.run(project, stop={"step": step, "signal": number})
    assert stopped.code == CODES[number] or (step == STEPS and stopped.code == 0), stopped.said
    assert steps_done(project) == resumes_at(project) == step
    check_checkpoints(project, reference)
    ended = hasty.run(project)
    assert ended.code == 0, ended.said
    check_whole(project, reference)


@pytest.mark.fault
@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_every_step(hasty: Zygote, reference: Reference, tmp_path: Path, tally: Tally, step: int, number: int) -> None:
    stop_and_go_on(hasty, reference, tmp_path / "project", step, number)
    tally("steps resumed after a stop", 1)


@pytest.mark.fault
def test_a_stop_at_every_step_of_one_run(hasty: Zygote, reference: Reference, tmp_path: Path, tally: Tally) -> None:
    """Eleven processes share the twelve steps."""
    project = reference.copy(tmp_path / "project")
    for step in range(1, STEPS):
        stopped = hasty.run(project, stop={"step": step, "signal": signal.SIGTERM})
        assert stopped.code == 143, stopped.said
        assert steps_done(project) == step
        tally("steps resumed after a stop", 1)
    assert hasty.run(project).code == 0
    check_whole(project, reference)


@pytest.mark.fault
def test_a_second_ctrl_c_ends_at_once(hasty: Zygote, reference: Reference, tmp_path: Path, tally: Tally) -> None:
    project = reference.copy(tmp_path / "project")
    stopped = hasty.run(project, stop={"step": 5, "signal": signal.SIGINT, "times": 2})
    assert stopped.code == 130, stopped.said
    assert "Traceback" not in stopped.said
    assert "ended at once" in stopped.said
    assert 5 - resumes_at(project) <= INTERVAL
    assert hasty.run(project).code == 0
    check_whole(project, reference)
    tally("kills tried", 1)
