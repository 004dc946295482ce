"""A process that has imported everything and trained once; its forks run `simpletune` at once instead of after 8 s.

A program: it reads a request a line from stdin, forks, and answers with a line when that child has ended. It has no
thread when it forks, and neither torch nor the tests' own process are ever forked with one.

    request   {"arguments": ["train", "config.json"], "folder": "/where", "output": "/log", ...what `prepare` takes}
    answer    {"code": 0, "seconds": 1.4}, the code negative for a signal
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

TOO_LONG = 3600.0
APART = 2.5
"""Seconds between two signals, so that they are two wishes."""


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    warm_up(Path(sys.argv[1]))
    assert threading.active_count() == 1, threading.enumerate()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            run(request)
        code = waited(child, began, request.get("kill_after"))
        print(json.dumps({"code": code, "seconds": time.monotonic() - began}), file=answers, flush=True)


def warm_up(config: Path) -> None:
    """A short run, so that its forks have everything imported and all that is made at first use."""
    import torch

    from simpletune.cli.main import main as command

    torch.set_num_threads(1)
    os.dup2(2, 1)
    try:
        command(["train", str(config), "--quiet"])
    except SystemExit as end:
        if end.code:
            raise RuntimeError("the run that warms up failed") from end


def settle_threads() -> None:
    """torch makes a fork a new pool of threads at its first call of any thread, without a lock: where two threads make
    that call at once, one of them finds none ("Invalid thread pool!"). So the only thread there is makes it."""
    import torch

    torch.set_num_threads(torch.get_num_threads())


def run(request: dict[str, Any]) -> None:
    """The child: never returns."""
    code = 99
    try:
        os.setsid()
        log = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(request["folder"])
        random.seed()
        settle_threads()
        after = prepare(request)
        from simpletune.cli.main import main as command

        try:
            command(request["arguments"])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        after()
        sys.stdout.flush()
    finally:
        os._exit(code)


def prepare(request: dict[str, Any]) -> Any:
    """Set up what shall happen to the child; gives what is to be done at its end.

    points: {"do", "at", "error"} of points.Points; "record" writes what it saw into the file "to".
    stop: {"step", "signal", "times"}: the signal comes while that step is computed.
    soak: where soaking.watch writes its samples.
    hasty: whether what takes long and bears on no fault is left out.
    """
    import points
    import soaking

    if request.get("hasty"):
        hasten()
    ends = []
    if wanted := request.get("points"):
        at = wanted.get("at")
        watched = points.Points(
            Path(request["folder"]), wanted["do"], tuple(at) if at else None, wanted.get("error", 0)
        )
        points.watch(watched)
        if "to" in wanted:
            ends.append(lambda: Path(wanted["to"]).write_text(json.dumps([watched.seen, watched.reached])))
    if stop := request.get("stop"):
        signal_at(stop["step"], stop["signal"], stop.get("times", 1))
    if "soak" in request:
        soaking.watch(Path(request["soak"]))
    return lambda: [end() for end in ends]


def hasten() -> None:
    """A third of a short run goes into charts, and into the same loss at eight noise levels: one level, and a file
    that holds no chart."""
    from matplotlib.figure import Figure

    from simpletune.trainer import validation

    validation.EVALUATION_SIGMAS = 1
    Figure.savefig = lambda self, to, **about: Path(to).write_bytes(bytes(4096))  # type: ignore[assignment, misc]


def signal_at(step: int, number: int, times: int) -> None:
    from simpletune.trainer.session import Session

    advance = Session.advance

    def signalled(self: Any, batch: Any) -> Any:
        if self.step + 1 == step:
            for again in range(times):
                time.sleep(APART if again else 0)
                os.kill(os.getpid(), number)
        return advance(self, batch)

    Session.advance = signalled  # type: ignore[method-assign]


def waited(child: int, began: float, kill_after: float | None) -> int:
    """The child's exit code; it is killed `kill_after` seconds after `began`."""
    limit = TOO_LONG if kill_after is None else kill_after
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() - began >= limit:
            os.kill(child, signal.SIGKILL)
            limit = TOO_LONG
        time.sleep(0.002)


if __name__ == "__main__":
    main()
