"""Sizes and times as people read them."""

from __future__ import annotations

GIB = 1 << 30


def duration(seconds: float) -> str:
    """`40 s`, `25 min`, `3 h`, `2 days`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if minutes < 100:
        return f"{minutes} min"
    hours = round(minutes / 60)
    return f"{hours} h" if hours < 48 else f"{round(hours / 24)} days"


def gib(count: int) -> str:
    """A size of memory: `6.6 GiB`."""
    return f"{count / GIB:.1f} GiB" if count >= GIB // 10 else f"{count / GIB:.2f} GiB"


def size(count: int) -> str:
    """Bytes as people count them on a disk: `420 MB`, `15.9 GB`."""
    if count >= 10**9:
        return f"{count / 10**9:.1f} GB" if count < 10**11 else f"{count / 10**9:.0f} GB"
    return f"{max(1, -(-count // 10**6))} MB"
