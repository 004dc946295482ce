"""Whether everything is there that a training run needs: what `simpletune doctor` prints and the wizard ends with.

The checks themselves are in `wizard/readiness/`, a module for each subject. None imports torch, or asks the network
for longer than a few seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from simpletune.config.problems import shown
from simpletune.machine.hardware import Machine
from simpletune.redact import redact
from simpletune.wizard.readiness.check import FAILED, OK, SKIPPED, WARNING, Check
from simpletune.wizard.readiness.machine import deep_checks, machine_checks
from simpletune.wizard.readiness.model import model_checks
from simpletune.wizard.readiness.packages import package_checks
from simpletune.wizard.readiness.run import data_checks, disk_checks, file_checks, memory_checks
from simpletune.wizard.readiness.subject import Subject

__all__ = ["FAILED", "OK", "SKIPPED", "WARNING", "Check", "checks", "left_to_do", "ready"]


def checks(
    config: Path | None, *, online: bool = True, deep: bool = False, machine: Machine | None = None
) -> Iterator[Check]:
    """Look at everything, one thing after the other, each yielded when it is known.

    config: the config.json to check for, None for the machine alone. online: ask the hub and the package index, a few
    seconds each at most. deep: import torch in another process and compute something on the device. machine: what
    `hardware.look` found, if that was looked at already.

    Without files the hub's refusal is a warning: nobody has said yet that the model is to come from there.
    """
    for found in _all(Subject(config, online, machine), deep):
        step = None if found.next_step is None else _safe(found.next_step)
        yield replace(found, detail=_safe(found.detail), next_step=step)


def _all(subject: Subject, deep: bool) -> Iterator[Check]:
    yield from package_checks()
    yield from machine_checks(subject)
    if deep:
        yield from deep_checks(subject)
    yield from model_checks(subject)
    yield from file_checks(subject)
    yield from data_checks(subject)
    yield from memory_checks(subject)
    yield from disk_checks(subject)


def _safe(text: str) -> str:
    return shown(redact(text))


def ready(found: Iterable[Check]) -> bool:
    """Whether training can start: nothing failed."""
    return all(check.status != FAILED for check in found)


def left_to_do(found: Iterable[Check]) -> list[str]:
    """What is left before training can start, a numbered text for each thing, what to do on a line of its own."""
    failed = [check for check in found if check.status == FAILED]
    return [
        f"{number}. {check.name}: {check.detail}" + (f"\n   {check.next_step}" if check.next_step else "")
        for number, check in enumerate(failed, 1)
    ]
