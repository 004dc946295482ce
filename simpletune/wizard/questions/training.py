"""How it is trained: how long, how many pictures a step, which optimizer, how fast it learns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from simpletune.config.installed import is_installed
from simpletune.config.rules_environment import OPTIMIZER_LIBRARIES
from simpletune.config.schema import config_keys
from simpletune.machine.forecast import ENCODE_IMAGES, ENCODE_TEXT, TRAIN, Plan
from simpletune.machine.ways_down import recomputing_cost
from simpletune.wizard import proposals
from simpletune.wizard.outlook import (
    card,
    fits,
    memory_note,
    outlook,
    pictures,
    plan,
    run_time,
    showings,
    steps,
    time_words,
)  # fmt: skip
from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import Question
from simpletune.wizard.questions.common import number, read_key, whole_number, within_schema, write_key
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State

SECTION = "Training"
_MOST_DIGITS = 10  # of a number that somebody types
_BATCHES = (1, 2, 4, 8)
_ROOM = 1.15  # times the estimate that must fit before more is spent than is needed: it may be wrong by that much
_SCHEDULES = {
    "polynomial": "goes down in a straight line, so that the end settles",
    "cosine": "stays high at first, then goes down in a curve",
    "linear": "goes down in a straight line to zero",
    "constant": "stays as it is: for runs whose end isn't known",
    "constant_with_warmup": "rises over the first steps, then stays",
    "cosine_with_restarts": "goes down and up again a few times",
}
_OPTIMIZERS = {
    "adamw": "the usual choice",
    "adamw_bf16": "its state in 16 bits: a third less memory for the LoRA",
    "adamw8bit": "its state in 8 bits",
    "adafactor": "keeps next to no state",
    "lion": "steps of one size; half of AdamW's state",
    "prodigy": "finds the learning rate itself",
}


def training(_state: State) -> Iterator[Question]:
    yield OPTIMIZER
    yield LEARNING_RATE
    yield BATCH
    yield CHECKPOINTING
    yield ENCODING_BATCH
    yield CAPTION_BATCH
    yield STEPS
    yield SCHEDULE
    yield CHECKPOINTS


# --- length


def _steps_options(state: State) -> tuple[Option, ...]:
    middle = _propose_steps(state).value
    lengths = dict.fromkeys((max(1, middle // 2), middle, middle * 2))
    options = [Option(count, f"{count:,} steps", _length_note(state, count)) for count in lengths]
    epochs = state.base.config.get("num_train_epochs")
    if isinstance(epochs, int):
        options.append(Option(_epochs(epochs), f"{epochs} epochs", "as the file has it"))
    return tuple(options)


def _length_note(state: State, count: int) -> str:
    shown = count * _per_step(state) / max(1, pictures(state))
    taken = time_words(run_time(state, replace(outlook(state), steps=count)), brief=True)
    return f"each picture about {max(1, round(shown)):,} times; {taken}"


def _per_step(state: State) -> int:
    return int(state.value("train_batch_size")) * int(state.value("gradient_accumulation_steps"))


def _propose_steps(state: State) -> Proposal[int]:
    count = pictures(state)
    return proposals.propose_steps(count, showings(state) / max(1, count) - 1, _per_step(state), state.flavour)


def _epochs(count: int) -> str:
    return f"{count} epochs"


def _parse_steps(text: str) -> int | str:
    words = text.strip().lower().split()
    if len(words) == 2 and words[1] in ("epoch", "epochs"):
        return _epochs(whole_number("num_train_epochs")(words[0]))
    return int(whole_number("max_train_steps")(text.strip().lower().removesuffix("steps")))


def _object_steps(state: State, value: Any) -> str | None:
    if isinstance(value, str):
        number, _, unit = value.partition(" ")
        known = unit == "epochs" and number.isdecimal() and number.isascii() and len(number) < _MOST_DIGITS
        return within_schema("num_train_epochs")(state, int(number)) if known else f'"{value}" is no length'
    return within_schema("max_train_steps")(state, value)


def _read_steps(state: State) -> Any:
    if state.config.get("num_train_epochs") is not None:
        return _epochs(state.config["num_train_epochs"])
    found = read_key("max_train_steps")(state)
    return found if found is not None else 1000 if state.base.exists else MISSING


def _write_steps(state: State, value: Any) -> None:
    by_epochs = isinstance(value, str)
    state.config.pop("max_train_steps" if by_epochs else "num_train_epochs", None)
    key = "num_train_epochs" if by_epochs else "max_train_steps"
    state.config[key] = int(value.partition(" ")[0]) if by_epochs else value


STEPS = Question(
    id="training.steps",
    section=SECTION,
    row="Length",
    title="How long does it train?",
    about='In steps, or as "12 epochs". Sample pictures are made on the way, and every checkpoint can be used.',
    options=_steps_options,
    other="another length",
    parse=_parse_steps,
    object=_object_steps,
    propose=_propose_steps,
    read=_read_steps,
    write=_write_steps,
    show=lambda value: value if isinstance(value, str) else f"{value:,} steps",
    fitted="model",
    figures=True,
    keys=("max_train_steps", "num_train_epochs"),
)


# --- what a step is


def _batches(state: State) -> tuple[Option, ...]:
    wanted = outlook(state)
    options = []
    for size in _BATCHES:
        changed = replace(wanted, train_batch_size=size)
        least = replace(changed, gradient_checkpointing=True, gradient_checkpointing_interval=1)
        note = memory_note(changed if fits(state, changed, TRAIN) else least, None, TRAIN)
        options.append(Option(size, str(size), note, None if fits(state, least, TRAIN) else f"too large: {note}"))
    return tuple(options)


def _fits_batch(state: State, size: int) -> bool:
    return fits(state, _least(state, size), TRAIN)


def _least(state: State, size: int) -> Plan:
    """A batch's plan with all that saves memory in a step."""
    batch = replace(plan(state), train_batch_size=size)
    return replace(batch, gradient_checkpointing=True, gradient_checkpointing_interval=1)


def _object_batch(state: State, value: Any) -> str | None:
    wrong = within_schema("train_batch_size")(state, value)
    if wrong or _fits_batch(state, value):
        return wrong
    return f"too large: {memory_note(_least(state, value), None, TRAIN)}"


BATCH = Question(
    id="training.batch",
    section=SECTION,
    row="Batch size",
    title="How many pictures does a step look at?",
    about="More make a step steadier, and slower; each step is worth more then.",
    options=_batches,
    other="another number",
    parse=whole_number("train_batch_size"),
    object=_object_batch,
    propose=lambda state: proposals.propose_batch(pictures(state), lambda size: _fits_batch(state, size)),
    read=read_key("train_batch_size"),
    write=write_key("train_batch_size"),
    fine=True,
    fitted="machine",
    figures=True,
    keys=("train_batch_size",),
)


def _propose_checkpointing(state: State) -> Proposal[bool]:
    free = replace(plan(state), gradient_checkpointing=False)
    if fits(state, free, TRAIN, room=_ROOM) and card(state).usable is not None:
        return Proposal(False, f"it fits without; with it {recomputing_cost(plan(state))}")
    return Proposal(True, f"without it, {memory_note(free, None, TRAIN)} would be needed")


CHECKPOINTING = Question(
    id="training.checkpointing",
    section=SECTION,
    row="Recalculation",
    title="Save memory by calculating parts twice?",
    about="Gradient checkpointing: far less memory, and longer steps.",
    options=lambda state: (_checkpointing(state, True, "yes"), _checkpointing(state, False, "no")),
    propose=_propose_checkpointing,
    read=read_key("gradient_checkpointing"),
    write=write_key("gradient_checkpointing", leave_default=True),
    fine=True,
    fitted="machine",
    figures=True,
    keys=("gradient_checkpointing",),
)


def _checkpointing(state: State, value: bool, label: str) -> Option:
    wanted = replace(outlook(state), gradient_checkpointing=value)
    cost = f"; {recomputing_cost(wanted)}" if value else ""
    return Option(value, label, memory_note(wanted, card(state).usable, TRAIN) + cost)


def _largest_that_fits(state: State, key: str, phase: str) -> Proposal[int]:
    """The key's default, halved until the phase fits."""
    default = value = int(config_keys()[key]["default"])
    while value > 1 and not fits(state, replace(plan(state), **{key: value}), phase):  # type: ignore[arg-type]
        value //= 2
    return Proposal(value, "as usual" if value == default else "the most that fits into the memory")


def _encoding_question(key: str, row: str, title: str, phase: str) -> Question:
    return Question(
        id=f"training.{key}",
        section=SECTION,
        row=row,
        title=title,
        about="Only while encoding, before training; it is halved by itself when memory runs out.",
        options=lambda state: tuple(
            Option(size, str(size), memory_note(replace(outlook(state), **{key: size}), card(state).usable, phase))  # type: ignore[arg-type]
            for size in (1, 2, 4, 8)
        ),
        other="another number",
        parse=whole_number(key),
        object=within_schema(key),
        propose=lambda state: _largest_that_fits(state, key, phase),
        read=read_key(key),
        write=write_key(key, leave_default=True),
        fine=True,
        fitted="machine",
        figures=True,
        keys=(key,),
    )


ENCODING_BATCH = _encoding_question(
    "vae_batch_size", "Encoding pictures", "How many pictures are encoded at once?", ENCODE_IMAGES
)
CAPTION_BATCH = _encoding_question(
    "text_encoder_batch_size", "Encoding captions", "How many captions are encoded at once?", ENCODE_TEXT
)


# --- the optimizer


def _optimizers(state: State) -> tuple[Option, ...]:
    wanted, device = outlook(state), card(state)
    return tuple(
        Option(
            name,
            name,
            f"{about}; {memory_note(replace(wanted, optimizer=name), device.usable, TRAIN)}",
            _unavailable(name, device.kind, device.here),
        )
        for name, about in _OPTIMIZERS.items()
    )


def _unavailable(name: str, kind: str, here: bool) -> str | None:
    if name == "adamw8bit" and kind != "cuda":
        return "it needs an NVIDIA GPU"
    module, package = OPTIMIZER_LIBRARIES.get(name, ("torch", "torch"))
    if not here or is_installed(module):
        return None
    return f"its package isn't installed: pip install {package}"


OPTIMIZER = Question(
    id="training.optimizer",
    section=SECTION,
    row="Optimizer",
    title="Which optimizer?",
    about="How the LoRA's weights are updated.",
    options=_optimizers,
    propose=lambda _state: Proposal("adamw", "the usual choice, and its state is small beside the model"),
    read=read_key("optimizer"),
    write=write_key("optimizer"),
    fine=True,
    figures=True,
    keys=("optimizer",),
)


def _rates(state: State) -> tuple[Option, ...]:
    middle = proposals.propose_learning_rate(state.value("optimizer"), state.flavour).value
    if state.value("optimizer") == "prodigy":
        return (Option(middle, f"{middle:g}", "leaves it to Prodigy"),)
    rates = {middle / 2: "more careful", middle: "", middle * 2: "bolder"}
    return tuple(Option(float(f"{rate:.6g}"), f"{rate:g}", note) for rate, note in rates.items())


LEARNING_RATE = Question(
    id="training.learning_rate",
    section=SECTION,
    row="Learning rate",
    title="Which learning rate?",
    about="How far each step moves the weights. Too high spoils the pictures, too low learns nothing.",
    options=_rates,
    other="another rate",
    parse=number(0, 1),
    object=within_schema("learning_rate"),
    propose=lambda state: proposals.propose_learning_rate(state.value("optimizer"), state.flavour),
    read=read_key("learning_rate"),
    write=write_key("learning_rate"),
    show=lambda value: f"{value:g}" if isinstance(value, int | float) else str(value),
    fine=True,
    fitted="model",
    keys=("learning_rate",),
)

SCHEDULE = Question(
    id="training.schedule",
    section=SECTION,
    row="Schedule",
    title="How does the learning rate change over the run?",
    about="It is measured in steps, over the run's whole length.",
    options=lambda _state: tuple(Option(name, name, about) for name, about in _SCHEDULES.items()),
    propose=lambda _state: Proposal("polynomial", _SCHEDULES["polynomial"]),
    read=read_key("lr_scheduler"),
    write=write_key("lr_scheduler"),
    fine=True,
    keys=("lr_scheduler",),
)


def _intervals(state: State) -> tuple[Option, ...]:
    value = _propose_interval(state).value
    choices = dict.fromkeys((max(1, value // 2), value, value * 2))
    return tuple(Option(count, f"every {count:,} steps") for count in choices)


def _propose_interval(state: State) -> Proposal[int]:
    return proposals.propose_checkpoint_interval(steps(state))


CHECKPOINTS = Question(
    id="training.checkpoints",
    section=SECTION,
    row="Checkpoints",
    title="How often is a checkpoint saved?",
    about="A run that stops goes on from the last one; Ctrl-C saves one too.",
    options=_intervals,
    other="another interval",
    parse=whole_number("checkpoint_step_interval"),
    object=within_schema("checkpoint_step_interval"),
    propose=_propose_interval,
    read=read_key("checkpoint_step_interval"),
    write=write_key("checkpoint_step_interval"),
    show=lambda value: f"every {value:,} steps",
    fine=True,
    fitted="model",
    keys=("checkpoint_step_interval",),
)
