"""A whole bench: the phases that were asked for one after another, each with the device to itself.

A phase that runs out of memory, or that this machine is too small for, says so in its place; the others go on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from simpletune import __version__
from simpletune.bench import phases
from simpletune.bench.clock import matmul_tflops
from simpletune.bench.duration import run_time
from simpletune.bench.flops import training_work
from simpletune.bench.phases import Bench
from simpletune.bench.report import PHASES, Failure, Machine, Report
from simpletune.bench.subject import Subject, find_device
from simpletune.bench.table import duration
from simpletune.machine.devices import GIB, Device
from simpletune.machine.estimate import text_tokens
from simpletune.machine.forecast import ENCODE_IMAGES, ENCODE_TEXT, TRAIN, VALIDATE, forecast
from simpletune.models.load import compute_dtype
from simpletune.models.memory import release
from simpletune.models.random_source import RandomFiles, random_files
from simpletune.models.registry import get_family
from simpletune.models.runtime import quiet_libraries
from simpletune.progress import Reporter
from simpletune.trainer.execution import check_wanted
from simpletune.trainer.processes import Processes

_ESTIMATED = {"text": ENCODE_TEXT, "images": ENCODE_IMAGES, "train": TRAIN, "sample": VALIDATE}
_TITLES = {"text": "encoding text", "images": "encoding images", "train": "training", "sample": "sampling"}
# The keys of config.json that decide what is measured, for the report.
_SHOWN = (
    "model_flavour", "mixed_precision", "base_model_precision", "text_encoder_1_precision", "text_encoder_2_precision",
    "text_encoder_3_precision", "use_t5", "lora_rank", "lora_target", "optimizer", "train_batch_size",
    "gradient_accumulation_steps", "gradient_checkpointing", "gradient_checkpointing_interval", "use_ema", "execution",
    "vae_batch_size", "text_encoder_batch_size", "validation_num_inference_steps", "device_memory_gb",
)  # fmt: skip


@dataclass(frozen=True)
class Order:
    """What to measure. None: what this machine can do in reasonable time, all phases and 20 steps if it can."""

    steps: int | None = None
    phases: Sequence[str] | None = None
    eager: bool = False


def measure(subject: Subject, order: Order, reporter: Reporter) -> Report:
    """Measure the phases. Raises EnvironmentNotReady when the device can't be used, ConfigError as a run would."""
    quiet_libraries()
    settings = subject.settings
    processes = Processes(settings)
    try:
        check_wanted(settings, processes.device)  # before phases are measured whose figures an error would lose
        subject = replace(subject, device=_seen(processes.device, subject.device))
        with tempfile.TemporaryDirectory(prefix="simpletune-bench-", ignore_cleanup_errors=True) as folder:
            model, dtype = Path(folder) / "model", compute_dtype(settings)
            files = random_files(model, settings.model_flavour, processes.device, dtype)
            return _measure(subject, order, processes, files, reporter)
    finally:
        processes.close()


def _measure(subject: Subject, order: Order, processes: Processes, files: RandomFiles, reporter: Reporter) -> Report:
    settings, device = subject.settings, processes.device
    slow = subject.device.kind == "cpu" and not subject.is_tiny  # minutes a step
    wanted = order.phases if order.phases is not None else ("train",) if slow else PHASES
    steps = order.steps or (2 if slow else 20)
    rate = matmul_tflops(device, compute_dtype(settings)) if "train" in wanted else None
    bench = Bench(
        settings=settings,
        family=get_family(settings.model_family),
        files=files,
        processes=processes,
        size=subject.size,
        text_tokens=text_tokens(settings.model_flavour, settings.tokenizer_max_length),
        steps=steps,
        run_steps=max(subject.extent.steps, steps),
        matmul_tflops=rate,
        say=reporter.note,
    )
    report = Report(
        machine=_machine(subject, rate),
        settings={key: getattr(settings, key) for key in _SHOWN},
        size=bench.size,
        text_tokens=bench.text_tokens,
        notes=tuple(_left_out(subject, order, rate)),
    )
    for phase in PHASES:
        if phase in wanted:
            # No live bar: it would draw while steps are timed.
            reporter.note(f"{_TITLES[phase]} ...{_patience(bench, phase, subject)}")
            report = replace(report, **{phase: _tried(bench, phase, subject)})
    bench.drop()
    if order.eager:
        reporter.note("training in the eager loop ...")
        report = replace(report, eager=_tried_eagerly(bench, subject))
    found = {phase: getattr(report, phase) for phase in PHASES}
    return replace(report, run=run_time(settings, subject.extent, **found))


def _patience(bench: Bench, phase: str, subject: Subject) -> str:
    """What to say of training that takes minutes: nothing is heard of it until its last step is done."""
    if phase != "train" or bench.matmul_tflops is None or _too_small(subject, phase) is not None:
        return ""
    step = phases.operations(bench) / 1e12 / bench.matmul_tflops
    steps = phases.WARM_UP[bench.device.type] + bench.steps
    return f" {steps} steps of at least {duration(step)} each" if step * steps > 60 else ""


def _seen(device: torch.device, found: Device) -> Device:
    """The device that is really used: torch's word counts where nvidia-smi, which `found` rests on, is silent."""
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        return Device("cuda", card.name, card.total_memory, None, (card.major, card.minor))
    return found if found.kind == device.type else find_device(device.type)


def _machine(subject: Subject, matmul: float | None) -> Machine:
    device = subject.device
    memory = None if device.memory_bytes is None else device.memory_bytes / GIB
    return Machine(device.kind, device.name, memory, torch.__version__, __version__, matmul)


def _left_out(subject: Subject, order: Order, matmul: float | None) -> list[str]:
    said = []
    if not subject.is_default and subject.extent.pictures is None:
        said.append(
            "Nothing is known of the pictures, so that of the run's time only the steps are counted: `simpletune "
            "validate` says what is wrong with the data sets."
        )
    if subject.device.kind == "cpu" and subject.is_tiny and subject.is_default:
        said.append(f"Sizes that real models need were not measured: {_why_not(matmul)}.")
    if subject.device.kind == "cpu" and not subject.is_tiny and order.phases is None:
        said.append("On a processor only training is measured; --phases asks for more.")
    return said


def _why_not(matmul: float | None) -> str:
    """Why no real model is measured on a processor."""
    if matmul is None:
        return "no GPU is used here"
    work = training_work("sd3-medium", (4096, 231), lora=("attention", 16), checkpoint_every=1).total / 1e12
    return (
        f"no GPU is used here, and a step of sd3-medium at 1024x1024 is {work:.0f} TFLOP, at least "
        f"{duration(work / matmul)} for this processor ({matmul:.2g} TFLOP/s)"
    )


def _tried(bench: Bench, phase: str, subject: Subject) -> Any:
    work: dict[str, Callable[[Bench], Any]] = {
        "text": phases.encode_text, "images": phases.encode_images, "train": phases.train, "sample": phases.sample,
    }  # fmt: skip
    if (too_small := _too_small(subject, phase)) is not None:
        return too_small
    try:
        return work[phase](bench)
    except torch.OutOfMemoryError as error:
        bench.drop()
        return _out_of_memory(error)
    finally:
        release(bench.device)


def _tried_eagerly(bench: Bench, subject: Subject) -> Any:
    """The yardstick is others' code: whatever it raises is its result."""
    if (too_small := _too_small(subject, "train")) is not None:
        return too_small
    torch.compiler.reset()  # what is compiled may hold on to the weights it was compiled for
    release(bench.device)
    try:
        return phases.train_eagerly(bench)
    except torch.OutOfMemoryError as error:
        return _out_of_memory(error)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {_first_line(error)}")
    finally:
        release(bench.device)


def _too_small(subject: Subject, phase: str) -> Failure | None:
    """Where memory is shared with the system, too much of it ends the process or stops the machine: ask before."""
    usable = subject.usable_bytes
    if usable is None:
        return None
    needed = forecast(subject.plan).phase(_ESTIMATED[phase]).bytes
    if needed <= usable:
        return None
    said = f"it needs about {needed / GIB:.1f} GiB of memory, and {usable / GIB:.1f} can be used here"
    return Failure(said, out_of_memory=True)


def _out_of_memory(error: Exception) -> Failure:
    return Failure(f"out of memory: {_first_line(error)}", out_of_memory=True)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
