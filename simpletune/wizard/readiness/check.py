"""What a look at one thing found."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"

GIB = 1 << 30


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. status: "ok", "warning", "failed" or "skipped"; next_step: what to do about it."""

    name: str
    status: str
    detail: str
    next_step: str | None = None


def gib(size: int) -> str:
    """A size of memory: `6.6 GiB`."""
    return f"{size / GIB:.1f} GiB" if size >= GIB // 10 else f"{size / GIB:.2f} GiB"


def gb(size: int) -> str:
    """A size on a disk: `15.9 GB`, `420 MB`."""
    if size >= 10**9:
        return f"{size / 10**9:.1f} GB" if size < 10**11 else f"{size / 10**9:.0f} GB"
    return f"{-(-size // 10**6)} MB"
