"""What to train on: what this machine has, or another machine described by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simpletune.wizard.measures import gib
from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import Question
from simpletune.wizard.questions.common import number, within_schema
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State

SECTION = "Hardware"
OTHER_CARD, OTHER_MAC = "other-cuda", "other-mps"
ALL = 0  # no limit is written
_CARD_SIZES = (6, 8, 12, 16, 24, 32, 48, 80)  # GB
_WORDS = {"cuda": "NVIDIA GPU", "mps": "Apple GPU", "cpu": "processor"}


def hardware(state: State) -> Iterator[Question]:
    yield DEVICE
    if state.values[DEVICE.id] in (OTHER_CARD, OTHER_MAC):
        yield MEMORY


def _options(state: State) -> tuple[Option, ...]:
    here = [
        Option(device.kind, f"{device.name}, this machine", _about(device), _why_not(device))
        for device in _one_of_each(state)
    ]
    others = [
        Option(OTHER_CARD, "another machine, NVIDIA", "its memory is asked next; the files are for it"),
        Option(OTHER_MAC, "another machine, a Mac", "its memory is asked next; the files are for it"),
    ]
    processor = [option for option in here if option.value == "cpu"]
    return (*(option for option in here if option.value != "cpu"), *processor, *others)


def _one_of_each(state: State) -> list[Any]:
    """The first usable device of each kind, or the first that is there but can't be used."""
    best: dict[str, Any] = {}
    for device in state.facts.devices:
        if device.kind not in best or (device.usable and not best[device.kind].usable):
            best[device.kind] = device
    return list(best.values())


def _about(device: Any) -> str:
    if device.kind == "cpu":
        return "slow; made for the built-in tiny model"
    parts = [_WORDS[device.kind]]
    if device.memory_bytes:
        parts.append(gib(device.memory_bytes))
    if device.free_bytes is not None and device.memory_bytes and device.free_bytes < 0.8 * device.memory_bytes:
        parts.append(f"only {gib(device.free_bytes)} free now")
    if device.capability:
        parts.append("compute capability {}.{}".format(*device.capability))
    return ", ".join(parts)


def _why_not(device: Any) -> str | None:
    if device.usable:
        return None
    return f"{device.why_not}; {device.next_step}" if device.next_step else device.why_not


def _propose(state: State) -> Proposal[Any]:
    for kind in ("cuda", "mps"):
        device = state.facts.device(kind)
        if device is not None:
            return Proposal(
                kind, f"it is here, with {gib(device.memory_bytes)}" if device.memory_bytes else "it is here"
            )
    return Proposal("cpu", "no GPU that can be used was found here")


def _read(state: State) -> Any:
    given = "device" in state.config or "device_memory_gb" in state.config
    if not given and not state.base.exists:
        return MISSING
    kind, capped = state.value("device"), state.value("device_memory_gb") is not None
    if kind == "auto":
        kind = next((device.kind for device in state.facts.devices if device.usable), "cpu")
        elsewhere = (
            kind == "cpu" and state.base.exists and state.flavour.hub_id is not None
        )  # it trains on a GPU, not here
        kind = "cuda" if elsewhere or (capped and kind == "cpu") else kind
    if kind != "cpu" and (capped or state.facts.device(kind) is None):
        return OTHER_CARD if kind == "cuda" else OTHER_MAC
    return kind


def _write(state: State, value: str) -> None:
    state.config["device"] = value.removeprefix("other-")
    if value not in (OTHER_CARD, OTHER_MAC):
        state.config.pop("device_memory_gb", None)


DEVICE = Question(
    id="hardware",
    section=SECTION,
    row="Train on",
    title="What do you want to train on?",
    about="The files are made to fit it. Choose another machine to write them for one that you are not at.",
    options=_options,
    propose=_propose,
    read=_read,
    write=_write,
    keys=("device",),
)


def _memory_options(_state: State) -> tuple[Option, ...]:
    return (
        *(Option(size, f"{size} GB") for size in _CARD_SIZES),
        Option(ALL, "I don't know", "nothing is fitted to it"),
    )


def _read_memory(state: State) -> Any:
    if state.config.get("device_memory_gb") is not None:
        return state.config["device_memory_gb"]
    return ALL if state.base.exists else MISSING


def _write_memory(state: State, value: float) -> None:
    if value == ALL:
        state.config.pop("device_memory_gb", None)
    else:
        state.config["device_memory_gb"] = value


MEMORY = Question(
    id="hardware.memory",
    section=SECTION,
    row="Its memory",
    title="How much memory does it have?",
    about="In GB. Training never uses more than this, so the files also keep within it on a larger card.",
    options=_memory_options,
    other="another size",
    parse=number(0, 10000),
    object=within_schema("device_memory_gb"),
    propose=lambda _state: Proposal(12, "a common size; the exact one is on the card's box, or from nvidia-smi there"),
    read=_read_memory,
    write=_write_memory,
    show=lambda value: f"{value:g} GB" if value else "not known",
    keys=("device_memory_gb",),
)
