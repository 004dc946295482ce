"""What a look at one thing found."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. status: "ok", "warning", "failed" or "skipped"; next_step: what to do about it."""

    name: str
    status: str
    detail: str
    next_step: str | None = None
