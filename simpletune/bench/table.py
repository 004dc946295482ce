"""A report as lines of at most 80 characters: what was measured, and a block for each phase. Imports no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from simpletune.bench.report import Failure, Memory, Rate, Report, RunTime, Sampling, Timing, Training

BLOCKS = ("encode text", "encode images", "train", "eager loop", "sample", "the whole run")
NAMES = 16  # columns of the blocks' names
_WIDTH = 80
_SHORT = {"no_change": "not quantized", "no": "fp32"}


def lines(report: Report) -> Iterator[str]:
    """The whole report. A block's name, one of BLOCKS, stands in the first NAMES columns of its first line."""
    yield from _wrapped("", _subject(report))
    yield from _wrapped("", f"on {_machine(report)}; random weights")
    yield ""
    yield from _rate("encode text", "captions/s", report.text)
    yield from _rate("encode images", "images/s", report.images)
    yield from _training("train", report.train)
    yield from _training("eager loop", report.eager)
    if report.speed_up is not None:
        yield from _block("", [f"the step above is {report.speed_up:.2f} times as fast{_smaller(report)}"])
    yield from _sampling(report.sample)
    yield from _run(report.run)
    for note in report.notes:
        yield ""
        yield from _wrapped("", note)


def name_of(line: str) -> str | None:
    """The block that a line begins."""
    name = line[:NAMES].rstrip()
    return name if name in BLOCKS else None


def duration(seconds: float) -> str:
    """`4.2 s`, `52 s`, `25 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _subject(report: Report) -> str:
    said = report.settings
    base = _SHORT.get(said["base_model_precision"], said["base_model_precision"])
    kept = "all activations kept"
    if said["gradient_checkpointing"]:
        interval = said["gradient_checkpointing_interval"]
        kept = "checkpointed" if interval == 1 else f"1 block in {interval} checkpointed"
    batch = f"batch {said['train_batch_size']}"
    if said["gradient_accumulation_steps"] > 1:
        batch += f" x {said['gradient_accumulation_steps']}"
    return (
        f"{said['model_flavour']}, base {base}, {_SHORT.get(said['mixed_precision'], said['mixed_precision'])}, "
        f"LoRA rank {said['lora_rank']}, {said['optimizer']}, {_size(report.size)}, {batch}, {kept}"
    )


def _machine(report: Report) -> str:
    machine = report.machine
    memory = "" if machine.memory_gib is None else f", {machine.memory_gib:.0f} GiB"
    return f"{machine.name}{memory}, torch {machine.torch}"


def _rate(name: str, unit: str, found: Rate | Failure | None) -> Iterator[str]:
    if isinstance(found, Rate):
        said = [f"{found.per_second:.1f} {unit}, {found.batch} at a time", _memory(found.memory)]
        if found.loading_seconds is not None:
            said.append(f"after {duration(found.loading_seconds)} of loading: {found.way}")
        yield from _block(name, said)
    elif found is not None:
        yield from _block(name, [f"not measured: {found.reason}"])


def _training(name: str, found: Training | Failure | None) -> Iterator[str]:
    if isinstance(found, Failure):
        yield from _block(name, [f"not measured: {found.reason}"])
    if not isinstance(found, Training):
        return
    said = [_steps(found.timing)]
    rate = f"{found.samples_per_second:.2f} samples/s"
    if found.samples_per_second < 0.1:
        rate = f"{duration(1 / found.samples_per_second)}/sample"
    if found.tflops is not None:
        rate += f", {found.tflops:.3g} TFLOP/s"
        if found.share is not None:
            rate += f", {found.share:.0%} of a large matrix product's"
    said += [rate, _memory(found.memory)]
    if found.execution is not None:
        said.append(f"execution: {found.execution}")
    if found.ready_seconds is not None and not (found.execution or "").startswith("eager"):
        said.append(f"compiling, capturing, first steps: {duration(found.ready_seconds)}, not counted")
    yield from _block(name, said)


def _smaller(report: Report) -> str:
    ours, theirs = report.train, report.eager
    if isinstance(ours, Training) and isinstance(theirs, Training):
        a, b = ours.memory.reserved_gib, theirs.memory.reserved_gib
        if a is not None and b:
            return f" with {a / b:.2f} times the memory"
    return ""


def _sampling(found: Sampling | Failure | None) -> Iterator[str]:
    if isinstance(found, Sampling):
        said = f"{found.seconds:.2f} s/image, {_size(found.size)}, {found.steps} steps"
        yield from _block("sample", [said, _memory(found.memory)])
    elif found is not None:
        yield from _block("sample", [f"not measured: {found.reason}"])


def _run(run: RunTime | None) -> Iterator[str]:
    if run is None:
        return
    parts = [f"{name} {duration(seconds)}" for name, seconds in run.seconds.items() if seconds]
    said = [f"{duration(run.total)} for {run.steps:,} steps{': ' + ', '.join(parts) if len(parts) > 1 else ''}"]
    if run.pictures is not None:
        said.append(f"{run.pictures:,} pictures, {run.captions:,} captions")
    said.append(f"not counted: {', '.join(['starting', 'loading', *run.left_out])}")
    yield from _block("the whole run", said)


def _memory(memory: Memory) -> str:
    if memory.allocated_gib is None or memory.reserved_gib is None:
        return f"{memory.resident_gib or 0:.2f} GiB of main memory held by the process"
    return f"peak {memory.allocated_gib:.2f} GiB allocated, {memory.reserved_gib:.2f} reserved"


def _steps(timing: Timing) -> str:
    """`59.0 ms/step, 57.7 to 72.9 in 20 steps`; from ten seconds on in seconds."""
    unit, factor = ("s", 1) if timing.median >= 10 else ("ms", 1000)
    median, low, high = (
        f"{one * factor:.1f}" if one * factor < 1000 else f"{one * factor:,.0f}"
        for one in (timing.median, timing.low, timing.high)
    )
    return f"{median} {unit}/step, " + ("1 step" if timing.calls == 1 else f"{low} to {high} in {timing.calls} steps")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _block(name: str, said: Sequence[str]) -> Iterator[str]:
    for number, text in enumerate(said):
        yield from _wrapped(name if number == 0 else "", text, NAMES)


def _wrapped(name: str, text: str, indent: int = 0) -> list[str]:
    blank = " " * indent
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"{name:<{indent}}" if indent else "", subsequent_indent=blank,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
