"""How a run ends that doesn't reach its end: what it was at, what is kept, and how to go on, in the error's words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from simpletune import files
from simpletune.config.problems import shown
from simpletune.config.settings import Settings
from simpletune.errors import OutOfMemory, SimpletuneError, TrainingFailed
from simpletune.machine.forecast import ENCODE_IMAGES, ENCODE_TEXT, TRAIN, VALIDATE
from simpletune.results.run_folder import list_checkpoints
from simpletune.trainer.interrupt import Stopped, StopRequest, ended
from simpletune.trainer.phases import PhaseLog

_ENCODED = "what is encoded is kept"
_DOING = {
    ENCODE_TEXT: ("encoding captions", _ENCODED),
    ENCODE_IMAGES: ("encoding pictures", _ENCODED),
    "load": ("loading the model", "nothing is lost"),
    TRAIN: ("training", "nothing is lost but the steps since the last checkpoint"),
    VALIDATE: ("validating", "nothing is lost"),
}
_GETTING_READY = ("getting ready", "nothing is lost")
_AGAIN = "run the same command again to continue"
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})


@contextmanager
def explained_endings(settings: Settings, phases: PhaseLog, stop: StopRequest) -> Iterator[None]:
    """A request to stop, a disk that takes no file, and a computer without memory are raised as errors for people."""
    try:
        yield
    except Stopped as stopped:
        if stop.saved:
            raise stopped_at_the_end(stopped.signal, settings) from None
        doing, kept = _DOING.get(phases.failed or "", _GETTING_READY)
        raise ended(stopped.signal, f"stopped while {doing}; {kept}", _AGAIN) from None
    except MemoryError as error:
        doing, _ = _DOING.get(phases.failed or "", _GETTING_READY)
        raise OutOfMemory(
            f"the computer's memory (not the graphics card's) ran out while {doing}",
            f"close other programs, then {_AGAIN}; {intact(settings)}",
        ) from error
    except OSError as error:
        if not (files.is_refused(error) or error.errno in _GONE):
            raise
        doing, _ = _DOING.get(phases.failed or "", _GETTING_READY)
        raise TrainingFailed(
            f"while {doing}: {refusal(error)}",
            f"see to that disk (is it there, full, read-only, over a quota?), then {_AGAIN}; {intact(settings)}",
        ) from error


def stopped_at_the_end(number: int, settings: Settings) -> SimpletuneError:
    steps = max((step for step, _ in list_checkpoints(settings.output_dir)), default=0)
    message = f"stopped after the last step; all {steps} steps are saved, and the results are not all written yet"
    return ended(number, message, "run the same command again: it writes what is missing")


def refusal(error: OSError) -> str:
    """Which file the system refused, and why."""
    named = shown(str(error.filename)) if error.filename is not None else "a file"
    return f"{named}: {error.strerror or error}"


def intact(settings: Settings) -> str:
    """What the run can go on from, in words."""
    steps = [step for step, _ in list_checkpoints(settings.output_dir)]
    return f"checkpoint-{steps[-1]} is intact" if steps else "there is no checkpoint yet"
