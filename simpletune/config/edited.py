"""A changed value as JSON text that keeps what its author wrote wherever the value is the same.

Number spelling (1e-4), lists on one line, blank lines, key order, indentation, line ends and the final newline stay;
new keys come last; removed ones vanish with their lines. A diff shows what changed and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from simpletune.config import layout
from simpletune.config.jsonfile import JsonFile
from simpletune.config.layout import Node

WIDTH = 100  # columns: a list of plain values, or an object written on one line, that is longer gets a line for each


def edited(file: JsonFile | None, value: Any) -> str:
    """`value` as JSON text in the way `file` is written; with None, as this program writes a new file.

    A file with syntax problems can't be kept piece by piece: its text is then laid out anew. A byte order mark isn't
    kept. Raises ValueError for NaN and infinities, TypeError for what JSON has not.
    """
    text = file.text if file is not None else ""
    if file is None or file.problems:
        return _Writer(text, layout.line_end(text), "  ").fresh(value, "") + layout.line_end(text)
    root = layout.scan(text)
    writer = _Writer(text, layout.line_end(text), layout.unit(text, root))
    return text[: root.start] + writer.kept(root, value, "") + text[root.end :]


@dataclass(frozen=True)
class _Piece:
    """A member of the new container: which member of the old one it was, if any, its key, its value."""

    old: int | None
    key: str | None
    value: Any


class _Writer:
    def __init__(self, text: str, line_end: str, unit: str) -> None:
        self.text = text
        self.line_end = line_end
        self.unit = unit

    # --- values without a source

    def fresh(self, value: Any, indent: str) -> str:
        """`value` laid out anew; lines after the first are indented by at least `indent`."""
        plain = isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value)
        if not value or not isinstance(value, (dict, list)) or (plain and len(indent + _inline(value)) <= WIDTH):
            return _inline(value)
        inner = indent + self.unit
        if isinstance(value, dict):
            lines = [f"{_inline(key)}: {self.fresh(item, inner)}" for key, item in value.items()]
        else:
            lines = [self.fresh(item, inner) for item in value]
        return self._block(lines, indent, isinstance(value, dict))

    def _block(self, members: Iterable[str], indent: str, is_object: bool) -> str:
        opening, closing = "{}" if is_object else "[]"
        inner = self.line_end + indent + self.unit
        return opening + inner + f",{inner}".join(members) + self.line_end + indent + closing

    # --- values that stand in the file

    def kept(self, node: Node, value: Any, indent: str) -> str:
        """`value` as a change of what stands at `node`."""
        if _same(node.value, value):
            return self.text[node.start : node.end]
        if value and isinstance(value, dict) and isinstance(node.value, dict) and node.members:
            return self._container(node, _pair_keys(node, value), indent)
        if value and isinstance(value, list) and isinstance(node.value, list) and node.members:
            return self._container(node, _pair_items(node, value), indent)
        if "\n" not in self.text and "\r" not in self.text:
            return _inline(value)
        return self.fresh(value, indent)

    def _container(self, node: Node, pieces: Sequence[_Piece], indent: str) -> str:
        gaps = self._gaps(node)
        source = self.text[node.start : node.end]
        inner = next((_last_line(gap) for gap in gaps[:-1] if _breaks(gap)), None)
        members = [self._member(node, piece, indent if inner is None else inner) for piece in pieces]
        separator = ", " if inner is None else f",{self.line_end}{inner}"
        if inner is None and len(gaps) > 2:
            separator = gaps[1]
        joined = members[0]
        for before, piece, member in zip(pieces, pieces[1:], members[1:], strict=False):
            joined += self._between(gaps, before, piece, separator) + member
        result = source[0] + gaps[0] + joined + gaps[-1] + source[-1]
        if _breaks(source) or _breaks(result) or len(indent + result) <= WIDTH:
            return result
        inner = indent + self.unit
        return self._block((self._member(node, piece, inner) for piece in pieces), indent, source[0] == "{")

    def _gaps(self, node: Node) -> list[str]:
        """What stands before, between and behind the members."""
        starts = [*(member.start for member in node.members), node.end - 1]
        ends = [node.start + 1, *(member.end for member in node.members)]
        return [self.text[end:start] for end, start in zip(ends, starts, strict=True)]

    def _between(self, gaps: Sequence[str], before: _Piece, piece: _Piece, separator: str) -> str:
        if before.old is None or piece.old is None or before.old >= piece.old:
            return separator
        # Where members between two were removed, the blank line of theirs that parted two groups stays.
        return max(gaps[before.old + 1 : piece.old + 1], key=lambda gap: gap.count("\n") + gap.count("\r"))

    def _member(self, node: Node, piece: _Piece, indent: str) -> str:
        if piece.old is None:
            name = "" if piece.key is None else _inline(piece.key) + self._colon(node)
            breaks = _breaks(self.text)
            return name + (self.fresh(piece.value, indent) if breaks else _inline(piece.value))
        member = node.members[piece.old]
        return self.text[member.start : member.node.start] + self.kept(member.node, piece.value, indent)

    def _colon(self, node: Node) -> str:
        """How this object's author writes the colon."""
        first = node.members[0]
        between = self.text[first.start : first.node.start]
        return ":" if between.endswith('":') else ": "


def _pair_keys(node: Node, value: dict[str, Any]) -> list[_Piece]:
    """The old keys that stay, in their order, then the new ones in the order of `value`."""
    here = {member.key: index for index, member in enumerate(node.members)}
    stay = [_Piece(index, key, value[key]) for key, index in here.items() if key in value]
    return stay + [_Piece(None, key, item) for key, item in value.items() if key not in here]


def _pair_items(node: Node, value: list[Any]) -> list[_Piece]:
    """Each item of the new list with the one it most likely was: the same, that of the same id, that of its place."""
    free = dict(enumerate(node.value))
    found: dict[int, int] = {}
    for marks in (lambda index, item: (index, _mark(item)), lambda _, item: _mark(item), _identity, _place):
        waiting: dict[Any, list[int]] = {}
        for index, item in free.items():
            waiting.setdefault(marks(index, item), []).append(index)
        for index, item in enumerate(value):
            mark = marks(index, item)
            if index not in found and mark is not None and waiting.get(mark):
                found[index] = waiting[mark].pop(0)
                del free[found[index]]
    return [_Piece(found.get(index), None, item) for index, item in enumerate(value)]


def _mark(item: Any) -> str:
    return json.dumps(item, sort_keys=True)


def _identity(_: int, item: Any) -> Any:
    name = item.get("id") if isinstance(item, dict) else None
    return name if isinstance(name, str) else None


def _place(index: int, item: Any) -> tuple[int, type]:
    return index, type(item)


def _same(old: Any, new: Any) -> bool:
    """Whether the text of `old` may stand for `new`. True is not 1; 16 is good enough for 16.0, but 16.0 not for 16."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_same(old[key], new[key]) for key in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same, old, new))
    whole_for_real = type(old) is int and type(new) is float
    return (type(old) is type(new) or whole_for_real) and bool(old == new)


def _inline(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _breaks(text: str) -> bool:
    return "\n" in text or "\r" in text


def _last_line(gap: str) -> str:
    """The indentation of the last line of a gap; the comma may stand behind it."""
    line = gap.replace("\r", "\n").rsplit("\n", 1)[-1]
    return line[: len(line) - len(line.lstrip(" \t"))]
