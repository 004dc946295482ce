"""Where each value of a JSON text begins and ends, so that a change can leave everything else as it is.

Reads what VS Code's settings may hold as well: comments, and a comma after the last item. Anything else that JSON
refuses is a ValueError; `jsonfile` is the reader that says what is wrong.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

MAXIMUM_DEPTH = 200
_GAP = re.compile(r"(?:[ \t\r\n]|//[^\r\n]*|/\*(?:[^*]|\*(?!/))*\*/)*")
_LINE_END = re.compile(r"\r\n|\n|\r")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Node:
    """A value and its place, text[start:end]; `comma` is the place behind a comma after the last member, if any."""

    start: int
    end: int
    value: Any
    members: tuple[Member, ...] = ()
    comma: int | None = None


@dataclass(frozen=True)
class Member:
    """What an object or a list holds: from the key, if there is one, to the end of the value."""

    start: int
    key: str | None
    node: Node

    @property
    def end(self) -> int:
        return self.node.end


def scan(text: str) -> Node:
    """The value of a whole text with the places of all its parts. Raises ValueError."""
    node = _value(text, _skip(text, 0), 0)
    if _skip(text, node.end) != len(text):
        raise ValueError(f"more text at {node.end}")
    return node


def line_end(text: str) -> str:
    """How the lines of a text end."""
    found = _LINE_END.search(text)
    return found[0] if found else "\n"


def indentation(text: str, index: int) -> str:
    """The white space at the beginning of the line that `index` is in."""
    start = max(text.rfind("\n", 0, index), text.rfind("\r", 0, index)) + 1
    return text[start : start + len(text[start:index]) - len(text[start:index].lstrip(" \t"))]


def unit(text: str, root: Node) -> str:
    """What one level of a text is indented by; two spaces where nothing shows it."""
    nodes = [root]
    while nodes:
        node = nodes.pop(0)
        for member in node.members[:1]:
            outer, inner = indentation(text, node.start), indentation(text, member.start)
            on_own_line = text[: member.start].rstrip(" \t").endswith(("\n", "\r"))
            if on_own_line and inner.startswith(outer) and inner != outer:
                return inner[len(outer) :]
        nodes += [member.node for member in node.members]
    return "  "


def _skip(text: str, at: int) -> int:
    found = _GAP.match(text, at)
    return found.end() if found else at


def _value(text: str, at: int, depth: int) -> Node:
    if depth > MAXIMUM_DEPTH:
        raise ValueError(f"more than {MAXIMUM_DEPTH} brackets inside each other")
    if text[at : at + 1] in ("{", "["):
        return _container(text, at, depth)
    value, end = _DECODER.raw_decode(text, at)
    return Node(at, end, value)


def _container(text: str, start: int, depth: int) -> Node:
    is_object = text[start] == "{"
    closing = "}" if is_object else "]"
    members: list[Member] = []
    comma: int | None = None
    at = _skip(text, start + 1)
    while text[at : at + 1] != closing:
        if members and comma is None:
            raise ValueError(f"no comma at {at}")
        members.append(_member(text, at, is_object, depth))
        at, comma = _skip(text, members[-1].end), None
        if text[at : at + 1] == ",":
            comma = at + 1
            at = _skip(text, comma)
    value: Any = {m.key: m.node.value for m in members} if is_object else [m.node.value for m in members]
    return Node(start, at + 1, value, tuple(members), comma)


def _member(text: str, at: int, is_object: bool, depth: int) -> Member:
    if not is_object:
        return Member(at, None, _value(text, at, depth + 1))
    key, end = _DECODER.raw_decode(text, at)
    colon = _skip(text, end)
    if not isinstance(key, str) or text[colon : colon + 1] != ":":
        raise ValueError(f"no key at {at}")
    return Member(at, key, _value(text, _skip(text, colon + 1), depth + 1))
