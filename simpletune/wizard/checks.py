"""Whether everything is there that a training run needs: what `simpletune doctor` prints and the wizard ends with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. status: "ok", "warning", "failed" or "skipped"; next_step: what to do about it."""

    name: str
    status: str
    detail: str
    next_step: str | None = None


def checks(config: Path | None, *, online: bool = True, deep: bool = False) -> Iterator[Check]:
    """Look at everything, one thing after the other."""
    del config, online, deep
    yield from ()


def ready(found: Iterable[Check]) -> bool:
    """Whether training can start: nothing failed."""
    return all(check.status != FAILED for check in found)


def left_to_do(found: Iterable[Check]) -> list[str]:
    """What is left before training can start, numbered: "1. hub: ... -> accept it at ..."."""
    failed = [check for check in found if check.status == FAILED]
    return [
        f"{number}. {check.name}: {check.detail}" + (f"\n   {check.next_step}" if check.next_step else "")
        for number, check in enumerate(failed, 1)
    ]
