"""`simpletune train` with a stopwatch, for measure_start.py: `python tests/gpu/timed_train.py OUTFILE STEPS train ...`.

OUTFILE gets the seconds from the process's start to the ends of what is named in MOMENTS and to the ends of the first
STEPS steps, each waited for on the device; then the run is interrupted, as by Ctrl-C.
"""

from __future__ import annotations

import sys
import time

BEGAN = float(sys.argv[1])  # the clock when the process was started, by whoever started it
ENTERED = time.time()

import functools  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

# When the function that is named begins and ends: module, attribute, what it is called in the report.
MOMENTS = (
    ("simpletune.trainer.launch", "load", "check"),
    ("simpletune.trainer.launch", "preflight", "scan"),
    ("simpletune.trainer.launch", "_show_long_captions", "count tokens"),
)
RUN_MOMENTS = (
    ("simpletune.trainer.run", "quiet_libraries", "import libraries"),
    ("simpletune.trainer.run", "Processes", "find device"),
    ("simpletune.trainer.run", "check_start", "check start"),
    ("simpletune.trainer.run", "gather", "encode"),
    ("simpletune.trainer.session", "_attach", "attach LoRA"),
    ("simpletune.trainer.session", "assemble", "assemble"),
    ("simpletune.trainer.run", "open_session", "open session"),
)
seen: dict[str, tuple[float, float]] = {}
steps: list[float] = []


def main() -> int:
    outfile, count, *words = sys.argv[2:]
    from simpletune.cli.main import main as program

    seen["import program"] = (ENTERED - BEGAN, time.time() - BEGAN)
    for moment in MOMENTS:
        watch(*moment)
    launch = importlib.import_module("simpletune.trainer.launch")
    shown = launch._show

    def then_run(*given: Any) -> None:
        shown(*given)
        began = time.time()
        for moment in RUN_MOMENTS:
            watch(*moment)
        watch_steps(int(count))
        seen["import trainer"] = (began - BEGAN, time.time() - BEGAN)

    launch._show = then_run
    sys.argv = ["simpletune", *words]
    try:
        return int(program() or 0)
    finally:
        found = {"seen": seen, "steps": steps, "compiled": compiled()}
        Path(outfile).write_text(json.dumps(found))


def watch(module: str, attribute: str, name: str) -> None:
    owner = importlib.import_module(module)
    function = getattr(owner, attribute)

    @functools.wraps(function)
    def timed(*given: Any, **named: Any) -> Any:
        began = time.time()
        try:
            return function(*given, **named)
        finally:
            seen.setdefault(name, (began - BEGAN, time.time() - BEGAN))

    setattr(owner, attribute, timed)


def watch_steps(count: int) -> None:
    import torch

    from simpletune.trainer.session import Session

    advance: Callable[..., Any] = Session.advance

    def timed(session: Session, batch: Any) -> Any:
        result = advance(session, batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        steps.append(time.time() - BEGAN)
        if len(steps) == count:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    Session.advance = timed  # type: ignore[method-assign]


def compiled() -> dict[str, int]:
    """What torch.compile did: graphs, and whether their code came from its caches."""
    if "torch._dynamo" not in sys.modules:
        return {}
    from torch._dynamo.utils import counters

    kept = {
        f"{kind} {name}": number
        for kind in ("inductor", "aot_autograd")
        for name, number in counters[kind].items()
        if "cache" in name
    }
    return {"graphs": counters["stats"].get("unique_graphs", 0), **kept}


if __name__ == "__main__":
    sys.exit(main())
