"""What the answers so far will take, for the lines beside the questions: memory by phase, disk, and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from simpletune.data.survey import Survey
from simpletune.machine import forecast as machine
from simpletune.machine.adapters import LYCORIS, lycoris_text
from simpletune.machine.cards import TYPICAL
from simpletune.machine.devices import Device, usable_memory
from simpletune.machine.forecast import Forecast, Plan, with_room_of
from simpletune.machine.timing import TimeRange, run_seconds
from simpletune.machine.ways_down import Change, ways_down
from simpletune.wizard.measures import GIB, duration, gib, size
from simpletune.wizard.state import State

ROOM = 1.05  # times the estimate that must fit where nothing would make do with less if it turned out not to
_PICTURES_UNKNOWN = 20  # a set's size before there is one
_SHORT = {"encode text": "text", "encode images": "pictures", "train": "train", "validate": "validate"}


@lru_cache(maxsize=4096)
def forecast(wanted: Plan) -> Forecast:
    """What a run takes; asked for the same plans at every question."""
    return machine.forecast(wanted)


@dataclass(frozen=True)
class Card:
    """What is configured for: a device of this machine (`here`) or one described by hand, and the bytes of its memory
    that a run can count on; None where they aren't known."""

    device: Device
    usable: int | None
    here: bool

    @property
    def kind(self) -> str:
        return self.device.kind

    @property
    def name(self) -> str:
        return self.device.name


def card(state: State) -> Card:
    """The device of the answers: this machine's, or one described by hand."""
    kind, gigabytes = state.value("device"), state.value("device_memory_gb")
    found = next((one for one in state.facts.devices if one.usable and kind in ("auto", one.kind)), None)
    if found is None or gigabytes is not None:
        found = _by_hand(kind, gigabytes)
        return Card(found, _usable(found.memory_bytes, found.kind), here=False)
    memory = found.memory_bytes if found.kind != "cpu" else found.free_bytes
    return Card(found, _usable(memory, found.kind), here=True)


def _by_hand(kind: str, gigabytes: float | None) -> Device:
    kind = "cuda" if kind == "auto" else kind
    what = "card" if kind == "cuda" else "machine"
    name = f"{gigabytes:g} GB {what}" if gigabytes is not None else f"a {what} whose memory isn't known"
    return Device(kind, name, None if gigabytes is None else int(gigabytes * GIB), None, None)


def _usable(memory: int | None, kind: str) -> int | None:
    return None if memory is None else memory if kind == "cpu" else usable_memory(memory, kind)


def outlook(state: State) -> Plan:
    """What a run will be if all that is open is answered as proposed: the ground for figures that are compared."""
    return plan(state.ahead or state)


def plan(state: State) -> Plan:
    """The answers so far, with defaults for what is still open, as the estimate reads them."""
    value, device = state.value, card(state)
    return Plan(
        flavour=value("model_flavour"),
        base_model_precision=value("base_model_precision"),
        text_encoder_precisions=(
            value("text_encoder_1_precision"),
            value("text_encoder_2_precision"),
            value("text_encoder_3_precision"),
        ),
        use_t5=value("use_t5"),
        mixed_precision=value("mixed_precision"),
        tokenizer_max_length=value("tokenizer_max_length") or state.flavour.t5_tokens,
        lora_rank=value("lora_rank"),
        lora_target=_target(value("lora_target")),
        use_dora=value("use_dora") and value("lora_type") != LYCORIS,
        lycoris=lycoris_text(state.lycoris) if value("lora_type") == LYCORIS else None,
        optimizer=value("optimizer"),
        use_ema=value("use_ema"),
        train_batch_size=value("train_batch_size"),
        gradient_accumulation_steps=value("gradient_accumulation_steps"),
        gradient_checkpointing=value("gradient_checkpointing"),
        gradient_checkpointing_interval=value("gradient_checkpointing_interval"),
        base_model_offload=value("base_model_offload"),
        activation_offload=value("activation_offload"),
        vae_batch_size=value("vae_batch_size"),
        text_encoder_batch_size=value("text_encoder_batch_size"),
        bucket=(largest_edge(state), largest_edge(state)),
        validation_sizes=validation_sizes(state),
        validation_prompts=prompts_count(state),
        num_validation_images=value("num_validation_images"),
        validation_num_inference_steps=value("validation_num_inference_steps"),
        validation_step_interval=value("validation_step_interval"),
        pictures=pictures(state) or _PICTURES_UNKNOWN,
        captions=captions(state) or _PICTURES_UNKNOWN,
        steps=steps(state),
        checkpoints=value("checkpoints_total_limit"),
        saves=-(-steps(state) // value("checkpoint_step_interval")),
        lora_dropout=value("lora_dropout"),
        base_model_matmul=value("base_model_matmul"),
        execution=value("execution"),
        deterministic=value("deterministic"),
        device=device.kind,
        capability=device.device.capability,
        can_compile=state.facts.machine.can_compile or not device.here,
        device_bytes=device.usable,
    )


def _target(value: Any) -> str | tuple[str, ...]:
    return tuple(value) if isinstance(value, list) else str(value)


def largest_edge(state: State) -> int:
    """The edge, in pixels, of the square with as many pixels as the largest bucket (about: `pixel` sets vary)."""
    default = state.value("resolution") or state.flavour.resolution
    edges = [_edge(entry, default) for entry in state.images]
    return int(max(edges, default=default))


def _edge(entry: dict[str, Any], default: int) -> int:
    resolution = entry.get("resolution") or default
    if entry.get("resolution_type") == "area":
        return int((resolution * 1_000_000) ** 0.5)
    return int(resolution)


def validation_sizes(state: State) -> tuple[tuple[int, int], ...]:
    """The sizes of the validation pictures, (width, height) in pixels."""
    value = state.value("validation_resolution") or state.value("resolution") or state.flavour.resolution
    if isinstance(value, int):
        return ((value, value),)
    pairs = (size.lower().split("x") for size in str(value).replace(" ", "").split(",") if size)
    return tuple((int(pair[0]), int(pair[-1])) for pair in pairs if pair[0].isdecimal() and pair[-1].isdecimal())


def prompts_count(state: State) -> int:
    named = state.value("validation_prompts_file") is not None
    listed = len(state.prompts) if state.prompts is not None else len(state.base.prompts) if named else 0
    return listed + int(state.value("validation_prompt") is not None)


def pictures(state: State) -> int:
    """Pictures that are trained on, of all data sets that have been looked at."""
    return sum(_trained_on(entry, found) for entry, found in _trained(state))


def files(state: State) -> int:
    """Picture files that are trained on, each once: a folder may be in several data sets."""
    most: dict[Path, int] = {}
    for entry, found in _trained(state):
        most[found.folder] = max(most.get(found.folder, 0), _trained_on(entry, found))
    return sum(most.values())


def captions(state: State) -> int:
    """Captions to encode, at most: one a picture unless a set shares one."""
    return sum(
        1
        if entry.get("caption_strategy") == "instanceprompt"
        else _trained_on(entry, found) * max(1, int(entry.get("caption_shuffle_count") or 1))
        for entry, found in _looked_at(state)
    )


def _trained_on(entry: dict[str, Any], found: Survey) -> int:
    """Pictures of a set that are used: with captions from text files, those that have one."""
    usable = found.usable
    if entry.get("caption_strategy", "textfile") == "textfile" and found.readable:
        usable = round(usable * found.with_text / found.readable)
    return min(usable, entry.get("max_num_samples") or usable)


def surveys(state: State) -> list[Survey]:
    """What was seen of each data set, as far as it was looked at."""
    return [found for _, found in _looked_at(state)]


def _looked_at(state: State) -> list[tuple[dict[str, Any], Survey]]:
    places = [(entry, state.place(index)) for index, entry in enumerate(state.images)]
    return [(entry, state.facts.survey(place)) for entry, place in places if state.facts.is_surveyed(place)]


def _trained(state: State) -> list[tuple[dict[str, Any], Survey]]:
    """The sets that aren't only measured on."""
    return [(entry, found) for entry, found in _looked_at(state) if entry.get("dataset_type") != "eval"]


def showings(state: State) -> int:
    """Pictures shown in an epoch, repeats counted."""
    return sum(_trained_on(entry, found) * (1 + int(entry.get("repeats", 0))) for entry, found in _trained(state))


def steps(state: State) -> int:
    """Steps of the run."""
    if state.value("max_train_steps") is not None:
        return int(state.value("max_train_steps"))
    if state.value("num_train_epochs") is not None:
        batch = state.value("train_batch_size") * state.value("gradient_accumulation_steps")
        epochs = int(state.value("num_train_epochs"))
        return max(1, -(-(showings(state) or _PICTURES_UNKNOWN) // int(batch)) * epochs)
    return 1000


def fits(state: State, wanted: Plan, *phases: str, room: float = 1.0) -> bool:
    """Whether the phases (all, when none is named) fit the card, times `room`; yes when its memory is unknown."""
    limit = card(state).usable
    if limit is None:
        return True
    return all(room * phase.bytes <= limit for phase in forecast(wanted).phases if not phases or phase.phase in phases)


def memory_note(wanted: Plan, limit: int | None, *phases: str) -> str:
    """`train 2.9 GiB, text 6.6 GiB`, with `too much` where it is."""
    found = [phase for phase in forecast(wanted).phases if phase.phase in phases]
    return ", ".join(
        f"{_SHORT[phase.phase]} {gib(phase.bytes)}{' (too much)' if limit is not None and phase.bytes > limit else ''}"
        for phase in found
    )


def run_time(state: State, wanted: Plan) -> TimeRange:
    device = card(state)
    wanted = with_room_of(wanted, device.usable)
    typical = TYPICAL.get(round(device.device.memory_bytes / GIB)) if device.device.memory_bytes else None
    if typical and device.kind == "cuda" and not device.here:
        spans = [run_seconds(wanted, "cuda", name, None, 1) for name in typical]
        basis = f"reckoned for cards like {typical[0]} and {typical[-1]}; none was measured"
        return TimeRange(min(one.low for one in spans), max(one.high for one in spans), False, basis)
    name = device.name if device.here and device.kind == "cuda" else None
    return run_seconds(wanted, device.kind, name, device.device.capability, state.facts.machine.cpu_count)


def panel(state: State) -> tuple[str, ...]:
    """The lines that stand beside a question: memory by phase against the card, disk, time, and what to do if over."""
    device, wanted = card(state), plan(state)
    expected = forecast(wanted)
    return (*_memory_lines(device, wanted, expected), _rest_line(state, wanted, expected))


def _memory_lines(device: Card, wanted: Plan, expected: Forecast) -> Sequence[str]:
    if device.usable is None:
        return [f"Memory: {memory_note(wanted, None, *_SHORT)}"]
    of = "GPU memory" if device.kind == "cuda" else "Memory"
    lines = [f"{of}, of {gib(device.usable)} usable: {memory_note(wanted, device.usable, *_SHORT)}"]
    over = [phase for phase in expected.phases if phase.bytes > device.usable]
    if over:
        lines.append(_way_down(wanted, device.usable))
    return lines


def _way_down(wanted: Plan, limit: int) -> str:
    changes = ways_down(wanted, limit)
    if not changes:
        return "Too much for this card, whatever is changed: choose a smaller model."
    return f"Too much. Cheapest way down: {'; '.join(_change(change) for change in changes)}"


def _change(change: Change) -> str:
    return f"{change.key} {change.value} ({change.cost})" if change.cost else f"{change.key} {change.value}"


def _rest_line(state: State, wanted: Plan, expected: Forecast) -> str:
    disk = sum(expected.disk.values())
    free = state.facts.machine.disk_free
    room = "" if free is None else f" (of {size(free)} free)" if disk < free else f": too much, only {size(free)} free"
    return f"Disk: {size(disk)} for caches and checkpoints{room}. Time: {time_words(run_time(state, wanted))}"


def time_words(taken: TimeRange, *, brief: bool = False) -> str:
    """`about 25 min` where measured, `40 min to 2 h (this card was not measured)` else; without the reason if brief."""
    if taken.measured:
        return f"about {duration((taken.low + taken.high) / 2)}"
    span = f"{duration(taken.low)} to {duration(taken.high)}"
    return span if brief else f"{span} ({taken.basis})"
