"""Text from outside in Markdown and Python: shown as it was written, and never taken for markup or code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from simpletune.config.problems import shown
from simpletune.redact import redact

_MARKUP = frozenset("\\`*_{}[]<>&#|~$@^")
"""What means something in Markdown, in HTML, or to what a hub makes of both (mathematics, mentions)."""
_BLOCK = re.compile(r"\A(\d*)([-+=.)])")
"""What begins a list or makes a heading of the line before, at the beginning of a line."""
_LITERAL_WIDTH = 88


def whole(text: str) -> str:
    """`text` without tokens and without half surrogates, which no file can hold."""
    return redact(text).encode("utf-8", "replace").decode("utf-8")


def plain(text: str, longest: int = 400) -> str:
    """`text` as one line of Markdown that shows it, cut where it is longer than `longest` characters.

    Characters that could be markup become HTML references, which every renderer shows as the characters.
    """
    line = shown(" ".join(whole(text).split()))
    if len(line) > longest:
        line = line[: longest - 1].rstrip() + "…"
    safe = "".join(f"&#{ord(c)};" if c in _MARKUP else c for c in line)
    safe = _BLOCK.sub(lambda found: f"{found[1]}&#{ord(found[2])};", safe)
    return safe.replace("://", "&#58;//").replace("www.", "www&#46;")  # no links that nobody made


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def literal(text: str, indent: int) -> str:
    """`text` as a Python expression; a long one in several lines, of which the later ones are indented."""
    text = whole(text)
    if len(text) <= _LITERAL_WIDTH:
        return quoted(text)
    inner, outer = " " * (indent + 4), " " * indent
    pieces = [text[start : start + _LITERAL_WIDTH] for start in range(0, len(text), _LITERAL_WIDTH)]
    return "(\n" + "".join(f"{inner}{quoted(piece)}\n" for piece in pieces) + f"{outer})"


def quoted(text: str) -> str:
    """`text` as Python writes it, in double quotes where they need no escape."""
    return '"' + repr("'" + text)[2:] if '"' not in text else repr(text)


def number(value: float) -> str:
    """A number as short as it can be said exactly enough: 0.0001, 3, 2.5e-05."""
    return f"{value:.6g}"


def counted(count: int, noun: str) -> str:
    """ "1 picture", "1,200 pictures"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
