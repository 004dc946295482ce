"""How many bits the frozen weights have: of the base model, and of each text encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from simpletune.machine.devices import compute_precision
from simpletune.machine.forecast import Plan
from simpletune.wizard.measures import gib
from simpletune.wizard.outlook import card, fits, forecast, memory_note, outlook, plan
from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import Question
from simpletune.wizard.questions.common import read_key, write_key
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State

SECTION = "Precision"
BASE_KEY = "base_model_precision"
ENCODER_KEYS = ("text_encoder_1_precision", "text_encoder_2_precision", "text_encoder_3_precision")
EACH = "each"
_PRECISIONS = ("no_change", "int8-quanto", "fp8-quanto", "int4-quanto", "int2-quanto")
_QUALITY = {
    "no_change": "as published",
    "int8-quanto": "next to no loss",
    "fp8-quanto": "the size of int8",
    "int4-quanto": "a little loss",
    "int2-quanto": "a clear loss, the last resort",
}
_LOSS = {"int8-quanto": "next to no loss", "int4-quanto": "a little loss", "int2-quanto": "a clear loss"}
_ROOMY = 20 << 30  # bytes: from here on there is nothing to save for
_ENCODERS = ("CLIP-L", "CLIP-G", "T5")

# The mixes on offer, by name: a precision each for CLIP-L, CLIP-G and T5, and whether T5 is there at all.
_FULL, _INT8, _INT4 = "no_change", "int8-quanto", "int4-quanto"
MIXES: Mapping[str, tuple[tuple[str, str, str], bool]] = {
    "16-bit": ((_FULL, _FULL, _FULL), True),
    "t5-int8": ((_FULL, _FULL, _INT8), True),
    "t5-int4": ((_FULL, _FULL, _INT4), True),
    "int4": ((_INT4, _INT4, _INT4), True),
    "no-t5": ((_FULL, _FULL, _FULL), False),
}
_MIX_WORDS = {
    "16-bit": "none packed",
    "t5-int8": "only T5, in int8",
    "t5-int4": "only T5, in int4",
    "int4": "all in int4",
    "no-t5": "without T5",
}


def precision(state: State) -> Iterator[Question]:
    small = state.flavour.hub_id is None  # all of it is small: nothing that has to be asked
    yield COMPUTE
    yield replace(BASE, fine=small)
    yield replace(ENCODERS, fine=small)
    if state.values[ENCODERS.id] == EACH:
        for index in range(3 if state.value("use_t5") else 2):
            yield _encoder(index)


# --- the format of the calculations


def _propose_compute(state: State) -> Proposal[Any]:
    return Proposal(*compute_precision(card(state).device))


COMPUTE = Question(
    id="precision.compute",
    section=SECTION,
    row="Calculations",
    title="In which format does it calculate?",
    about="bf16 suits every recent GPU, fp16 older ones; the LoRA's own weights always have 32 bits.",
    options=lambda _state: (
        Option("bf16", "bf16", "16 bits with the range of 32: NVIDIA from the RTX 30 series on"),
        Option("fp16", "fp16", "16 bits for older GPUs; overflows are caught and skipped"),
        Option("no", "32 bits", "the slowest on a GPU, the fastest on most processors"),
    ),
    propose=_propose_compute,
    read=read_key("mixed_precision"),
    write=write_key("mixed_precision", leave_default=True),
    fine=True,
    fitted="machine",
    figures=True,
    keys=("mixed_precision",),
)


# --- the base


def _base_options(state: State) -> tuple[Option, ...]:
    wanted = outlook(state)
    full = _bytes(replace(wanted, base_model_precision="no_change"), "train")
    return tuple(_base_option(state, replace(wanted, base_model_precision=name), name, full) for name in _PRECISIONS)


def _base_option(state: State, wanted: Any, name: str, full: int) -> Option:
    saved = full - _bytes(wanted, "train")
    saves = f", saves {gib(saved)}" if saved > 0 else ""
    note = f"{_QUALITY[name]}; {memory_note(wanted, card(state).usable, 'train')}{saves}"
    least = replace(wanted, train_batch_size=1, gradient_checkpointing=True, gradient_checkpointing_interval=1)
    label = "16 bits, as it is" if name == "no_change" and state.value("mixed_precision") != "no" else name
    label = "32 bits, as it is" if name == "no_change" and state.value("mixed_precision") == "no" else label
    return Option(
        name, label, note, None if fits(state, least, "train") else f"too large: {memory_note(least, None, 'train')}"
    )


def _bytes(wanted: Any, phase: str) -> int:
    return next(found.bytes for found in forecast(wanted).phases if found.phase == phase)


def _propose_base(state: State) -> Proposal[Any]:
    device, wanted = card(state), plan(state)
    full = replace(wanted, base_model_precision="no_change")
    if state.flavour.hub_id is None:
        return Proposal("no_change", "it is a small model already")
    if device.usable is None or (device.usable >= _ROOMY and fits(state, full, "train", "validate")):
        reason = "nothing is lost, and it fits with room to spare"
        return (
            Proposal("no_change", reason)
            if device.usable
            else Proposal("int8-quanto", "next to no loss, half the size")
        )
    for name in ("int8-quanto", "int4-quanto", "int2-quanto"):
        packed = replace(wanted, base_model_precision=name)
        if fits(state, packed, "train", "validate") or name == "int2-quanto":
            break
    saved = _bytes(full, "train") - _bytes(packed, "train")
    return Proposal(name, f"{name.partition('-')[0]}: {device.name}, saves {gib(saved)} at {_LOSS[name]}")


BASE = Question(
    id="precision.base",
    section=SECTION,
    row="Base model",
    title="In which precision is the base model kept?",
    about="It is frozen while the LoRA learns, so it can be packed tightly. The LoRA itself is not.",
    options=_base_options,
    propose=_propose_base,
    read=read_key(BASE_KEY),
    write=write_key(BASE_KEY),
    fitted="machine",
    figures=True,
    keys=(BASE_KEY,),
)


# --- the text encoders


def _mixed(wanted: Any, name: str) -> Any:
    precisions, use_t5 = MIXES[name]
    return replace(wanted, text_encoder_precisions=precisions, use_t5=use_t5)


def _mix_options(state: State) -> tuple[Option, ...]:
    wanted, limit = outlook(state), card(state).usable
    options = []
    for name in MIXES:
        mixed = _mixed(wanted, name)
        least = replace(mixed, text_encoder_batch_size=1)
        note = _text_note(mixed if fits(state, mixed, "encode text") else least, limit)
        note = f"{note}; long captions are understood less well" if name == "no-t5" else note
        refused = None if fits(state, least, "encode text") else f"too large: {memory_note(least, None, 'encode text')}"
        options.append(Option(name, _MIX_WORDS[name], note, refused))
    return (*options, Option(EACH, "choose for each of the three", "asked next"))


def _text_note(wanted: Plan, limit: int | None) -> str:
    """`text 5.1 GiB (first both CLIPs, then T5)`"""
    how = forecast(wanted).phase("encode text").how
    return memory_note(wanted, limit, "encode text") + (how and f" ({how})")


def _propose_mix(state: State) -> Proposal[Any]:
    device, wanted = card(state), plan(state)
    if state.flavour.hub_id is None:
        return Proposal("16-bit", "they are small already")
    if device.usable is not None and device.usable >= _ROOMY:
        return Proposal("16-bit", "nothing is lost, and they fit")
    for name in ("t5-int8", "t5-int4", "int4", "no-t5"):
        if fits(state, _mixed(wanted, name), "encode text"):  # if it didn't, T5 would come block by block
            break
    taken = _text_note(_mixed(wanted, name), None)
    return Proposal(name, f"{taken} while captions are encoded, before training; then they leave")


def _read_mix(state: State) -> Any:
    keys = (*ENCODER_KEYS, "use_t5")
    if not state.base.exists and not any(key in state.config for key in keys):
        return MISSING
    found = tuple(state.value(key) for key in ENCODER_KEYS)
    use_t5 = state.value("use_t5")
    if not use_t5:
        return "no-t5" if found[:2] == (_FULL, _FULL) else EACH
    return next((name for name, mix in MIXES.items() if mix == (found, True)), EACH)


def _write_mix(state: State, name: str) -> None:
    if name == EACH:
        if not state.value("use_t5"):
            state.config["use_t5"] = True
        return
    precisions, use_t5 = MIXES[name]
    for key, value in zip(ENCODER_KEYS, precisions, strict=True):
        if use_t5 or key != ENCODER_KEYS[2]:
            state.config[key] = value
    if not use_t5:
        state.config["use_t5"] = False
        state.config.pop(ENCODER_KEYS[2], None)
    elif "use_t5" in state.config:
        state.config["use_t5"] = True


ENCODERS = Question(
    id="precision.text",
    section=SECTION,
    row="Text encoders",
    title="In which precision are the text encoders kept?",
    about="Two CLIPs and T5, by far the largest, encode the captions once; then they leave.",
    options=_mix_options,
    propose=_propose_mix,
    read=_read_mix,
    write=_write_mix,
    fitted="machine",
    figures=True,
    keys=(*ENCODER_KEYS, "use_t5"),
)


def _encoder(index: int) -> Question:
    key = ENCODER_KEYS[index]

    def options(state: State) -> tuple[Option, ...]:
        return tuple(Option(name, name, _encoder_note(state, index, name)) for name in _PRECISIONS)

    return Question(
        id=f"precision.text.{index + 1}",
        section=SECTION,
        row=_ENCODERS[index],
        title=f"In which precision is {_ENCODERS[index]} kept?",
        about="Only while captions are encoded.",
        options=options,
        propose=lambda _state: Proposal("int8-quanto" if index == 2 else "no_change", "the default"),
        read=read_key(key),
        write=write_key(key),
        fitted="machine",
        figures=True,
        keys=(key,),
    )


def _encoder_note(state: State, index: int, name: str) -> str:
    wanted = outlook(state)
    first, second, third = (name if index == at else value for at, value in enumerate(wanted.text_encoder_precisions))
    return _text_note(replace(wanted, text_encoder_precisions=(first, second, third)), card(state).usable)
