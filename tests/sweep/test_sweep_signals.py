"""A sweep that is asked to stop: whichever signal it is and whenever it comes, its runs get it once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from simpletune.errors import SimpletuneError
from simpletune.progress import SilentReporter
from simpletune.sweep import run as subject
from simpletune.trainer.interrupt import CAUGHT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the console passes Ctrl-C on there")

_RUN = """
import pathlib, signal, sys, time
got = []
for number in {caught}:
    signal.signal(number, lambda number, _: got.append(number))
pathlib.Path({ready!r}).touch()
end = time.monotonic() + 4
while not got and time.monotonic() < end:
    time.sleep(0.01)
time.sleep(0.1)
sys.exit(128 + got[0] if len(got) == 1 else 99)
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A sweep of one run, whose process only waits for a signal; it takes the file `ready` when it can be stopped."""
    script = _RUN.format(caught=[int(number) for number in CAUGHT], ready=str(tmp_path / "ready"))
    monkeypatch.setattr(subject._Sweeping, "_command", lambda *_: [sys.executable, "-c", script])
    return SimpleNamespace(output_dir=tmp_path, evaluate=None)


def wait_for(path: Path) -> None:
    for _ in range(1000):
        if path.exists():
            return
        time.sleep(0.01)


class NoWarnings(SilentReporter):
    def warn(self, text: str) -> None:
        pytest.fail(text)  # a run that got no signal, or two, ends with 99


def stopped(sweep: Any) -> SimpletuneError:
    one = SimpleNamespace(name="one", digest="", folder=sweep.output_dir / "one", values={}, overrides=())
    with pytest.raises(SimpletuneError, match="stopped: 0 of 1 runs are done") as caught:
        subject.run_sweep(sweep, [one], subject.Places(), NoWarnings())  # type: ignore[list-item]
    return caught.value


@pytest.mark.parametrize("number", CAUGHT)
def test_each_signal_stops_the_runs(sweep: Any, number: int) -> None:
    def ask() -> None:
        wait_for(sweep.output_dir / "ready")
        os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    assert stopped(sweep).exit_code == 128 + number
    asking.join()


def test_a_signal_while_a_run_is_begun_reaches_it(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen

    def begun(*given: Any, **more: Any) -> Any:
        process = popen(*given, **more)
        wait_for(sweep.output_dir / "ready")
        os.kill(os.getpid(), signal.SIGINT)
        return process

    monkeypatch.setattr(subprocess, "Popen", begun)
    assert stopped(sweep).exit_code == 130
