"""Text from outside in Markdown: shown as it was written, and never taken for markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from simpletune.config.problems import shown
from simpletune.results.diffusers_code import without_secrets

_MARKUP = frozenset("\\`*_{}[]<>&#|~$@^")
"""What means something in Markdown, in HTML, or to what a hub makes of both (mathematics, mentions)."""
_BLOCK = re.compile(r"\A(\d*)([-+=.)])")
"""What begins a list or makes a heading of the line before, at the beginning of a line."""


def plain(text: str, longest: int = 400) -> str:
    """`text` as one line of Markdown that shows it, cut where it is longer than `longest` characters.

    Characters that could be markup become HTML references, which every renderer shows as the characters.
    """
    line = shown(" ".join(without_secrets(text).split()))
    if len(line) > longest:
        line = line[: longest - 1].rstrip() + "…"
    safe = "".join(f"&#{ord(c)};" if c in _MARKUP else c for c in line)
    safe = _BLOCK.sub(lambda found: f"{found[1]}&#{ord(found[2])};", safe)
    return safe.replace("://", "&#58;//").replace("www.", "www&#46;")  # no links that nobody made


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def number(value: float) -> str:
    """A number as short as it can be said exactly enough: 0.0001, 3, 2.5e-05."""
    return f"{value:.6g}"


def counted(count: int, noun: str) -> str:
    """ "1 picture", "1,200 pictures"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
