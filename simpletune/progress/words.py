"""Numbers and text as progress shows them."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from simpletune.redact import redact

_PLURALS = {"entry": "entries"}


def plural(unit: str) -> str:
    return _PLURALS.get(unit, f"{unit}s")


def plain_text(text: Any) -> str:
    """One line of printable text without tokens; a control character in a file name must not steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in redact(str(text)).replace("\t", "    "))


def wrapped(line: str, width: int) -> list[str]:
    """Broken between words where it is too long; a path, and a command (four spaces in), stay whole to be copied."""
    if len(line) <= width or line.startswith("    "):
        return [line]
    return textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)


def duration(seconds: float) -> str:
    """0.42 s, 12 s, 3:05, 2:03:05, 1 d 2 h."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds >= 0.001 else "0 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"


def time_left(seconds: float) -> str:
    """As `duration`, in whole seconds."""
    return f"{seconds:.0f} s" if seconds < 10 else duration(seconds)


def byte_size(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def rate(per_second: float, unit: str) -> str:
    """2.5 images/s; below one a second: 3.2 s/image."""
    if per_second < 1:
        return f"{1 / per_second:.3g} s/{unit}"
    shown = f"{per_second:.0f}" if per_second >= 100 else f"{per_second:.3g}"
    return f"{shown} {plural(unit)}/s"


def number(value: float, decimals: int) -> str:
    """With so many decimals while that is short, else in three digits; for a column of fixed width."""
    if not math.isfinite(value) or 10 ** (1 - decimals) <= abs(value) < 1000 or value == 0:
        return f"{value:.{decimals}f}"
    return f"{value:.1e}"


def learning_rate(value: float) -> str:
    """1.0e-4, five or more characters."""
    return f"{value:.1e}".replace("e-0", "e-").replace("e+00", "")
