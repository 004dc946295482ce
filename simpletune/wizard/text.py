"""Text for a terminal of some width: how wide it is, breaking it into lines, cutting it, making it safe to show."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from simpletune.config.problems import shown
from simpletune.redact import redact

# What the wizard writes beyond ASCII, and what stands for it where the terminal's encoding has no such characters.
_ASCII = str.maketrans(
    {"·": "-", "…": "...", "–": "-", "—": "-", "×": "x", "›": ">", "≤": "<=", "≥": ">=", "→": "->", "≈": "~"}
    | dict.fromkeys("█▉▊▋▌", "#")  # bars, to the nearest whole
    | dict.fromkeys("▍▎▏", " ")
)


@dataclass(frozen=True)
class Signs:
    """The wizard's own symbols in a terminal's encoding, and a way to say all else with what that has."""

    pointer: str
    dot: str
    ellipsis: str
    encoding: str

    def clean(self, text: str) -> str:
        """One line that is safe to show: no access token; control characters, line breaks too, as escapes."""
        safe = shown(redact(text).replace("\t", "    "))
        if self.encoding == "utf-8":
            return safe
        return safe.translate(_ASCII).encode(self.encoding, "replace").decode(self.encoding)


UNICODE = Signs(pointer="›", dot=" · ", ellipsis="…", encoding="utf-8")
ASCII = Signs(pointer=">", dot=" - ", ellipsis="...", encoding="ascii")


def signs_for(stream: TextIO | None) -> Signs:
    """The symbols that the terminal behind `stream` has the characters for."""
    try:
        encoding = codecs.lookup(getattr(stream, "encoding", None) or "ascii").name
    except LookupError:
        return ASCII
    return UNICODE if encoding == "utf-8" else replace(ASCII, encoding=encoding)


def width(text: str) -> int:
    """Terminal columns of `text`: East Asian wide characters and emoji take two, combining marks none."""
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if character.isascii():
        return 1
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, columns: int) -> str:
    return text + " " * max(0, columns - width(text))


def cut(text: str, columns: int, ellipsis: str) -> str:
    """`text` in at most `columns`, its end replaced by an ellipsis when it is longer."""
    if width(text) <= columns:
        return text
    return _head(text, columns - width(ellipsis)) + ellipsis


def cut_middle(text: str, columns: int, ellipsis: str) -> str:
    """`text` in at most `columns`, its middle left out: a path is told by its two ends."""
    if width(text) <= columns:
        return text
    room = columns - width(ellipsis)
    tail = _head(text[::-1], room * 2 // 3)[::-1]
    return _head(text, room - width(tail)) + ellipsis + tail


def _head(text: str, columns: int) -> str:
    """As many characters from the start as fit."""
    used = 0
    for at, character in enumerate(text):
        used += _character_width(character)
        if used > columns:
            return text[:at]
    return text


def wrap(text: str, columns: int, indent: str = "", hanging: str | None = None, break_words: bool = True) -> list[str]:
    """`text` in lines of at most `columns`, nothing lost but the spaces at the breaks.

    The first line starts with `indent`, the others with `hanging` (`indent` if not given). A word longer than a line is
    broken where the line ends, or kept whole with `break_words` false.
    """
    hanging = indent if hanging is None else hanging
    columns = max(columns, width(hanging) + 8)
    lines, line = [], indent
    start = True
    for token in re.findall(r"\s*\S+", text):
        if not start and width(line + token) > columns:
            lines.append(line)
            line, start, token = hanging, True, token.lstrip()
        while break_words and width(line + token) > columns:
            part = _head(token, columns - width(line))
            lines.append(line + part)
            line, token = hanging, token[len(part) :]
        line, start = line + token, False
    return [*lines, line]


def hanging_indent(text: str, columns: int) -> str:
    """Where the second line of `text` starts: below its value if it is "name   value", else below its first word."""
    lead = text[: len(text) - len(text.lstrip())]
    table = re.match(r"\s*\S+(?: \S+)*?\s{2,}(?=\S)", text)
    item = re.match(r"\s*(?:[-*]|\d+[.)]) ", text)
    for match in (item, table):
        if match and width(match[0]) * 3 <= columns:
            return " " * width(match[0])
    return lead + "  " if lead else ""


def paragraph(text: str, columns: int) -> list[str]:
    """`text` wrapped with the hanging indent that suits it."""
    return wrap(text, columns, "", hanging_indent(text, columns))


def wrapped_diff_line(line: str, columns: int) -> list[str]:
    """A line of a unified diff; every line it takes starts with its sign, so the first column tells what it is."""
    sign, body = line[:1], line[1:]
    if width(line) <= columns or not sign.strip():
        return wrap(line, columns, "", "     ") if line.strip() else [line]
    lead = body[: len(body) - len(body.lstrip())]
    return wrap(body.lstrip(), columns, sign + lead, sign + lead + "    ")


def unwrapped(lines: Sequence[str]) -> list[str]:
    """`lines`, those that hold line breaks split."""
    return [part for line in lines for part in (line.splitlines() or [""])]
