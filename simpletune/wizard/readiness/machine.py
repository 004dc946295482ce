"""The machine: PyTorch, graphics cards, the kernels quantized layers run on, memory, and a real product with `deep`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

from simpletune.machine.devices import Device, compute_precision, kernels
from simpletune.wizard.measures import GIB, gib
from simpletune.wizard.readiness.check import FAILED, OK, SKIPPED, WARNING, Check
from simpletune.wizard.readiness.subject import Subject

_LITTLE_MEMORY = 4 * GIB
_DEEP_SECONDS = 180
_PRECISION_KEYS = (
    "base_model_precision",
    "text_encoder_1_precision",
    "text_encoder_2_precision",
    "text_encoder_3_precision",
)
_DEFAULT_PRECISION = "int8-quanto"


def machine_checks(subject: Subject) -> Iterator[Check]:
    yield _torch(subject)
    yield from _cards(subject)
    yield from _kernels(subject)
    yield _main_memory(subject)


def _torch(subject: Subject) -> Check:
    torch = subject.machine.torch
    if torch is None:
        return Check("pytorch", FAILED, "not installed", "pip install torch")
    built = f"for CUDA {torch.cuda}" if torch.cuda else f"for ROCm {torch.hip}" if torch.hip else ""
    apple = any(device.kind == "mps" for device in subject.devices)
    return Check("pytorch", OK, f"{torch.version}, {built or ('for Apple GPUs' if apple else 'for processors only')}")


def _cards(subject: Subject) -> Iterator[Check]:
    """A line a card. One that can't be used is a failure only where a run would have used it."""
    cards = [device for device in subject.devices if device.kind != "cpu"]
    needed = not subject.processor_is_meant and not any(card.usable for card in cards)
    for card in cards:
        if card.usable:
            yield Check("gpu", OK, describe(card))
        else:
            yield Check(
                "gpu", FAILED if needed else WARNING, f"{card.name} can't be used: {card.why_not}", card.next_step
            )
    if not cards:
        yield _no_card(subject)
    elif subject.device is None and any(card.usable for card in cards):
        detail = f'"device" is {subject.device_wanted}, and there is none here'
        yield Check("device", FAILED, detail, 'set "device" to "auto"')


def _no_card(subject: Subject) -> Check:
    processor = f"none was found; {subject.devices[-1].name}, {subject.machine.cpu_count} processors"
    if subject.settings is None:
        step = "train on a machine with a GPU, or try things out: simpletune configure --preset cpu"
        return Check("gpu", WARNING, f"{processor}, which is enough for the built-in tiny model only", step)
    if subject.flavour.hub_id is None and subject.processor_is_meant:
        return Check("gpu", OK, f"{processor}, which is enough for the tiny model")
    if subject.processor_is_meant:
        return Check("gpu", WARNING, f"{processor}: {subject.flavour.name} takes minutes a step on it")
    step = 'train on a machine with a GPU; "device": "cpu" trains here all the same, minutes a step'
    return Check("gpu", FAILED, "none was found", step)


def describe(card: Device) -> str:
    """`NVIDIA H100, 79.6 GiB (79.1 free), compute capability 9.0`"""
    parts = [card.name]
    if card.memory_bytes is None:
        parts.append("its driver doesn't say how much memory")
    else:
        free = "" if card.free_bytes is None else f" ({card.free_bytes / GIB:.1f} free)"
        parts.append(f"{gib(card.memory_bytes)}{' shared with the system' if card.kind == 'mps' else ''}{free}")
    if card.capability is not None:
        parts.append("compute capability {}.{}".format(*card.capability))
    return ", ".join(parts)


def _kernels(subject: Subject) -> Iterator[Check]:
    device, settings = subject.device, subject.settings
    if device is None:
        return
    compute = settings.mixed_precision if settings else None
    precisions = [getattr(settings, key) for key in _PRECISION_KEYS] if settings else [_DEFAULT_PRECISION]
    if device.kind == "mps" and "fp8-quanto" in precisions:
        key = _PRECISION_KEYS[precisions.index("fp8-quanto")]
        step = f'set "{key}" to "int8-quanto", which takes as much memory'
        yield Check("kernels", FAILED, f"{key}: Apple GPUs don't convert float8 values", step)
        return
    suited, reason = compute_precision(device)
    if compute == "bf16" and suited == "fp16":
        step = 'set "mixed_precision" to "fp16"'
        yield Check("kernels", WARNING, f'"mixed_precision" is bf16, which this card emulates: {reason}', step)
        return
    yield Check("kernels", OK, kernels(device, precisions[0], compute))


def _main_memory(subject: Subject) -> Check:
    total, available = subject.machine.memory_total, subject.machine.memory_available
    if total is None:
        return Check("main memory", SKIPPED, "the system doesn't say how much there is")
    detail = gib(total) + ("" if available is None else f" ({available / GIB:.1f} free)")
    if available is not None and available < _LITTLE_MEMORY:
        step = "close other programs"
        if subject.machine.wsl:
            step = f"{step}; WSL gets half of Windows's memory unless `memory=` in .wslconfig says more"
        return Check("main memory", WARNING, f"{detail}, which is little for PyTorch and the pictures it reads", step)
    return Check("main memory", OK, detail)


def deep_checks(subject: Subject) -> Iterator[Check]:
    """Run a product on the device, and a quantized layer of each precision: in a process of its own, which imports
    torch and may crash."""
    device = subject.device or subject.devices[-1]
    if not device.usable:
        yield Check("products", SKIPPED, f"{device.name} can't be used")
        return
    compute = subject.settings.mixed_precision if subject.settings else compute_precision(device)[0]
    command = [sys.executable, "-m", "simpletune.models.selftest", device.kind, compute]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_DEEP_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        yield Check("products", FAILED, f"no result within {_DEEP_SECONDS} s", "restart the machine and try again")
        return
    yield from _results(answer, device)


def _results(answer: subprocess.CompletedProcess[str], device: Device) -> Iterator[Check]:
    found = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
    for result in found:
        status = OK if result["ok"] else FAILED
        step = None if result["ok"] else f"report this with the output of `{_command(device)}`"
        yield Check("products", status, f"{result['name']}: {result['detail']}", step)
    if answer.returncode != 0 and all(result["ok"] for result in found):
        lines = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
        last = lines[-1] if lines else f"exit code {answer.returncode}"
        step = f"look at all of it: {_command(device)}"
        yield Check("products", FAILED, f"PyTorch fails on {device.name}: {last}", step)


def _command(device: Device) -> str:
    return f"python -m simpletune.models.selftest {device.kind} {compute_precision(device)[0]}"
