"""What is said when the device's memory has run out and nothing smaller gives the same result."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from simpletune.config.continuing import bound_settings, saved_settings
from simpletune.config.settings import Settings
from simpletune.data.forecast import plan_of
from simpletune.data.preflight import Preflight
from simpletune.errors import OutOfMemory
from simpletune.machine.devices import CUDA_CONTEXT
from simpletune.machine.estimate import GIB
from simpletune.machine.forecast import ENCODE_IMAGES, ENCODE_TEXT, TRAIN, VALIDATE, PhaseMemory, Plan, forecast
from simpletune.machine.ways_down import Change, ways_down
from simpletune.models.memory import ran_out
from simpletune.results.run_folder import list_checkpoints
from simpletune.trainer.endings import intact
from simpletune.trainer.phases import PhaseLog

_LOAD = "load"
_DOING = {
    ENCODE_TEXT: "encoding captions",
    ENCODE_IMAGES: "encoding pictures",
    _LOAD: "loading the model",
    TRAIN: "training",
    VALIDATE: "validating",
}
_PARTS = {
    "weights": "the model's weights",
    "activations": "activations",
    "adapter": "the adapter and its optimizer",
    "other": "working memory",
}
_MUCH = GIB  # what other processes hold is worth a word from here on
_UNFORESEEN = 0.9  # of the estimate is what is aimed at where the estimate itself said that it would fit
_ASKED = re.compile(r"[Tt]ried to allocate (\d+(?:\.\d+)? (?:[KMGT]iB|bytes))")


@dataclass(frozen=True)
class Shortage:
    """What is known of a device whose memory ran out. Sizes in bytes; None where nobody can tell.

    phase: of the run, as its PhaseLog names it. asked: what didn't fit any more, in torch's words. held: the most that
    the run had reserved in that phase. usable: what it could count on. others: what other processes hold. bound: the
    keys that this run can't change any more, because it has a checkpoint. saved: what it can go on from, in words.
    """

    phase: str
    asked: str | None = None
    held: int | None = None
    usable: int | None = None
    others: int = 0
    bound: frozenset[str] = frozenset()
    saved: str | None = None


@contextmanager
def explained(settings: Settings, preflight: Preflight, phases: PhaseLog, device: torch.device) -> Iterator[None]:
    """Whatever says in the block that the device's memory is full is raised as an OutOfMemory that says what to do."""
    try:
        yield
    except (RuntimeError, OutOfMemory) as error:
        full = error.__cause__ if isinstance(error, OutOfMemory) else error
        if not (isinstance(full, RuntimeError) and ran_out(full)):
            raise
        shortage = _observed(phases.failed or _LOAD, full, settings, phases, device)
        raise out_of_memory(shortage, *remedies(shortage, plan_of(settings, preflight))) from error


def out_of_memory(shortage: Shortage, need: PhaseMemory, changes: Sequence[Change]) -> OutOfMemory:
    """The error: where memory ran out, what takes most of it there, who else has some; and the cheapest way out.

    need: what the phase is estimated at. changes: those that make it fit, none where nothing does.
    """
    part, size = max(need.parts.items(), key=lambda item: item[1])
    said = [
        f"out of memory while {_DOING[shortage.phase]}{_beside(shortage)}",
        f"it takes {_gib(need.bytes)} by the estimate, the largest part for {_PARTS.get(part, part)} ({_gib(size)})",
    ]
    if shortage.others >= _MUCH:
        said.append(f"other processes hold {_gib(shortage.others)} of the device")
    return OutOfMemory("; ".join(said), _way_out(shortage, changes))


def remedies(shortage: Shortage, plan: Plan) -> tuple[PhaseMemory, Sequence[Change]]:
    """What the phase is estimated at, and the cheapest changes after which it fits by that; none where nothing does.

    Where the estimate had it fit as it is, it was wrong here: then the changes save a tenth at least.
    """
    # What is smaller has been tried by now: batches, and T5 block by block.
    plan = replace(plan, vae_batch_size=1, text_encoder_batch_size=1, device_bytes=0)
    need = forecast(plan).phase(TRAIN if shortage.phase == _LOAD else shortage.phase)
    limit = min(shortage.usable or need.bytes, int(need.bytes * _UNFORESEEN))
    return need, ways_down(plan, limit, (need.phase,)) or ()


def _beside(shortage: Shortage) -> str:
    if shortage.asked is None or not shortage.held:
        return ""
    return f": {shortage.asked} more didn't fit beside {_gib(shortage.held)}"


def _way_out(shortage: Shortage, changes: Sequence[Change]) -> str:
    steps = [_step(cost, list(same)) for cost, same in groupby(changes, key=lambda change: change.cost)]
    if not steps:
        steps = ['no key is enough: take a smaller "model_flavour" or a larger card, or set "device" to "cpu"']
    if any(change.key in shortage.bound for change in changes):
        steps.append('name another "output_dir", as the checkpoints of this run are bound to its settings')
    others = "end what else uses the device; or " if shortage.others >= _MUCH else ""
    return others + "; ".join([*steps, *([shortage.saved] if shortage.saved else [])])


def _step(cost: str, changes: Sequence[Change]) -> str:
    settings = " and ".join(f'"{change.key}" to {_value(change.value)}' for change in changes)
    return f"set {settings} ({cost})"


def _observed(phase: str, full: RuntimeError, settings: Settings, phases: PhaseLog, device: torch.device) -> Shortage:
    asked = _ASKED.search(str(full))
    usable, others = _usable_and_others(settings, device)
    return Shortage(
        phase=phase,
        asked=asked[1] if asked else None,
        held=next((int(row.reserved_gib * GIB) for row in phases.rows() if row.name == phase), None),
        usable=usable,
        others=others,
        bound=frozenset(bound_settings(settings)) if saved_settings(settings.output_dir) else frozenset(),
        saved=intact(settings) if list_checkpoints(settings.output_dir) else None,
    )


def _usable_and_others(settings: Settings, device: torch.device) -> tuple[int | None, int]:
    """What this process can have of a card, and what others hold of it, CUDA's own part for this process left out."""
    if device.type != "cuda":
        return None, 0
    free, total = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_reserved(device) + CUDA_CONTEXT
    others = max(0, total - free - own)
    usable = total - others - CUDA_CONTEXT
    if settings.device_memory_gb is None:
        return usable, others
    asked = int(settings.device_memory_gb * GIB)
    return (usable, others) if usable < asked else (asked, 0)  # others matter only where they take what was asked for


def _value(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB // 10 else f"{size / GIB:.2f} GiB"
