"""What is said when a checkpoint can't be written: what is wrong with the disk, what is still there, what to do."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from safetensors import SafetensorError

from simpletune.config.document import display
from simpletune.disk_words import FREE_SPACE, wrong_with
from simpletune.errors import TrainingFailed
from simpletune.progress.words import byte_size

_CODE = re.compile(r"\(os error (\d+)\)")
_WINDOWS = {5: errno.EACCES, 19: errno.EROFS, 39: errno.ENOSPC, 112: errno.ENOSPC, 1295: errno.EDQUOT}


def disk_failure(error: OSError | SafetensorError, step: int, output_dir: Path, saved: int | None) -> TrainingFailed:
    """For checkpoint `step`, which isn't there now; `saved`: the step of the newest that is, None without any."""
    number = number_of(error)
    wrong, remedy = wrong_with(number) or (_words(error, number), "see to that")
    if remedy == FREE_SPACE:
        remedy += ", or set a lower checkpoints_total_limit"
    return TrainingFailed(
        f"checkpoint-{step} could not be saved in {display(output_dir)}: {wrong}", f"{remedy}; {going_on(saved)}"
    )


def no_room(need: int, free: int, step: int, output_dir: Path, saved: int | None) -> TrainingFailed:
    """For a checkpoint of `need` bytes that isn't begun, as only `free` are free."""
    return TrainingFailed(
        f"checkpoint-{step} takes {byte_size(need)}, and the disk of {display(output_dir)} has {byte_size(free)} free; "
        "it was not begun",
        f"free {byte_size(need - free)} or more; {going_on(saved)}",
    )


def going_on(saved: int | None) -> str:
    """What the same command will do afterwards."""
    if saved is None:
        return "then run again: nothing was saved so far, so the run begins anew"
    return f"then run again: the run continues from step {saved}, whose checkpoint is intact"


def number_of(error: OSError | SafetensorError) -> int | None:
    """The error's number, as Python's errno has it; safetensors has it in its text only."""
    if isinstance(error, OSError):
        return error.errno
    found = _CODE.search(str(error))
    if found is None:
        return None
    code = int(found[1])
    return _WINDOWS.get(code, code) if os.name == "nt" else code


def _words(error: OSError | SafetensorError, number: int | None) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return text or (os.strerror(number) if number else str(error))
