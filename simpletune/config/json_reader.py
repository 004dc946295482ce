"""The text of strict JSON, read to its end: its value, the place of everything, and all that is wrong with it.

What the standard parser accepts is read the same. What it refuses is a problem here, but reading goes on wherever the
meaning is clear (a trailing comma, a comment, single quotes), so that one run of `validate` shows everything.
Stricter than it in four points, because each would be silent trouble later: duplicate keys, NaN and infinities,
numbers too large to hold, and half surrogate pairs.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

JsonPath = tuple[str | int, ...]

MAXIMUM_DEPTH = 64
MAXIMUM_PROBLEMS = 30  # a picture renamed to .json should not print a thousand lines


@dataclass(frozen=True)
class Position:
    """A place in a file; both count from 1, columns in characters."""

    line: int
    column: int


@dataclass(frozen=True)
class SyntaxProblem:
    position: Position
    message: str
    hint: str | None = None
    path: JsonPath = ()


class _TooManyError(Exception):
    pass


class _Unread:
    """Stands for a value that could not be read."""


_UNREAD = _Unread()
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORD = re.compile(r"[^\s,:\[\]{}\"'/#]+")
_LINE_END = re.compile(r"\r\n|\n|\r")
_HEX4 = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LITERALS: Mapping[str, Any] = {"true": True, "false": False, "null": None}
_OTHER_LITERALS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false", "None": "null", "Null": "null",
                   "NULL": "null", "undefined": "null"}  # fmt: skip
_NOT_NUMBERS = {"NaN", "nan", "Infinity", "-Infinity", "+Infinity", "inf", "-inf", "+inf"}


class Reader:
    """Reads one text. Where things stand is in `keys` and `values`, what is wrong in `problems`, in the text's order
    once `read` is done; `unreadable` are paths whose value could not be read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line_starts = [0, *(end.end() for end in _LINE_END.finditer(text))]
        self.problems: list[SyntaxProblem] = []
        self.keys: dict[JsonPath, Position] = {}
        self.values: dict[JsonPath, Position] = {}
        self.unreadable: set[JsonPath] = set()
        self.open: list[str] = []  # the closing brackets we are inside of
        self.path: JsonPath = ()
        self.lost = False  # after a broken string or word, the next missing comma is its consequence

    def read(self) -> Any:
        """The text's value; None when nothing could be read, and then the root is among `unreadable`."""
        try:
            value = self._document()
        except _TooManyError:
            value = _UNREAD
        self.problems.sort(key=lambda p: (p.position.line, p.position.column))
        if value is _UNREAD:
            self.unreadable.add(())
            return None
        return value

    @property
    def lines(self) -> tuple[str, ...]:
        """The text's lines, without their ends."""
        return tuple(_LINE_END.split(self.text))

    def position(self, index: int) -> Position:
        line = bisect.bisect_right(self.line_starts, index)
        return Position(line, index - self.line_starts[line - 1] + 1)

    def problem(self, index: int, message: str, hint: str | None = None) -> None:
        self.problems.append(SyntaxProblem(self.position(index), message, hint, self.path))
        if len(self.problems) >= MAXIMUM_PROBLEMS:
            raise _TooManyError

    def _document(self) -> Any:
        self._space()
        if self.at == len(self.text):
            self.problem(0, "the file is empty", "an empty settings file is {}, an empty list of data sets []")
            return _UNREAD
        value = self._value(())
        self._space()
        if self.at < len(self.text) and not self.lost:
            self.problem(self.at, "there is more text after the end", "remove it, or a closing bracket too many before")
        return value

    # --- space and comments

    def _space(self) -> None:
        """Skip white space; comments are skipped too, each with a problem."""
        while self.at < len(self.text):
            if self.text[self.at] in " \t\n\r":
                self.at += 1
            elif self.text[self.at] == "#" or self.text.startswith("//", self.at):
                self._comment(self._end_of_line())
            elif self.text.startswith("/*", self.at):
                end = self.text.find("*/", self.at + 2)
                self._comment(len(self.text) if end < 0 else end + 2)
            else:
                return

    def _comment(self, end: int) -> None:
        self.problem(self.at, "JSON has no comments", "remove it")
        self.at = end

    def _end_of_line(self) -> int:
        found = _LINE_END.search(self.text, self.at)
        return found.start() if found else len(self.text)

    def _peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    # --- values

    def _value(self, path: JsonPath) -> Any:
        self.path = path
        self.values[path] = self.position(self.at)
        start = self._peek()
        if start in ("{", "["):
            value = self._nested(path)
        elif start in ('"', "'"):
            value = self._string()
        else:
            value = self._word()
        if value is _UNREAD:
            self.unreadable.add(path)
        else:
            self.unreadable.discard(path)
        return value

    def _nested(self, path: JsonPath) -> Any:
        start = self.at
        if len(self.open) >= MAXIMUM_DEPTH:
            self.problem(start, f"more than {MAXIMUM_DEPTH} brackets inside each other", "no key here needs so many")
            self._skip_nested()
            return _UNREAD
        is_object = self.text[start] == "{"
        self.open.append("}" if is_object else "]")
        self.at += 1
        try:
            return self._object(path, start) if is_object else self._array(path, start)
        finally:
            self.open.pop()
            self.path = path

    def _skip_nested(self) -> None:
        """Move behind the bracket that closes the one at hand, without recursion."""
        depth = 0
        while self.at < len(self.text):
            character = self.text[self.at]
            if character == '"':
                self._string(quiet=True)
                continue
            depth += (character in "[{") - (character in "]}")
            self.at += 1
            if depth == 0:
                return

    def _object(self, path: JsonPath, start: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        after_one = False
        while self._more(start, after_one, "}"):
            after_one = True
            key_at = self.at
            key = self._key()
            if not isinstance(key, str):
                continue
            inner = (*path, key)
            self.path = inner
            if inner in self.keys:
                first = self.keys[inner].line
                self.problem(key_at, f'"{key}" is set twice, first on line {first}', "keep one of the two")
                self._forget(inner)
            self.keys[inner] = self.position(key_at)
            self._colon(key)
            self._space()
            if self._peek() in ("", ",", "}", "]"):
                self.problem(self.at, f'"{key}" has no value')
                self.values[inner] = self.keys[inner]
                self.unreadable.add(inner)
                members.pop(key, None)
                continue
            value = self._value(inner)
            members.pop(key, None)
            if value is not _UNREAD:
                members[key] = value
        return members

    def _forget(self, path: JsonPath) -> None:
        """Drop what was noted inside `path`, whose value is replaced by a later one."""
        size = len(path)
        for table in (self.keys, self.values):
            for inner in [inner for inner in table if len(inner) > size and inner[:size] == path]:
                del table[inner]

    def _array(self, path: JsonPath, start: int) -> list[Any]:
        items: list[Any] = []
        count = 0
        while self._more(start, count > 0, "]"):
            value = self._value((*path, count))
            # An unread item keeps its place, so that the paths of those after it stay true.
            items.append(None if value is _UNREAD else value)
            count += 1
        return items

    def _more(self, start: int, after_one: bool, closing: str) -> bool:
        """Move to the next member of an object or array; False behind its end."""
        lost, self.lost = self.lost, False
        before = self.at
        self._space()
        comma = -1
        if after_one:
            if self._peek() == ",":
                comma = self.at
                self.at += 1
                self._space()
            elif self._peek() not in ("", "}", "]") and not lost:
                self.problem(before, 'missing ","', "put a comma between two values")
        while self._peek() == ",":
            self.problem(self.at, 'a "," too many', "remove it")
            self.at += 1
            self._space()
        return not self._closed(start, comma, closing)

    def _closed(self, start: int, comma: int, closing: str) -> bool:
        character = self._peek()
        if character == "":
            opened = self.position(start)
            self.problem(
                start, f'the "{self.text[start]}" on line {opened.line} is never closed', f'a "{closing}" is missing'
            )
            return True
        if character not in "}]":
            return False
        if comma >= 0:
            self.problem(comma, f'a "," too many before the closing "{character}"', "remove the comma")
        if character == closing:
            self.at += 1
        elif character in self.open:
            self.problem(self.at, f'"{closing}" is missing before this "{character}"')
        else:
            self.problem(self.at, f'"{character}" does not match the "{self.text[start]}" before', f'write "{closing}"')
            self.at += 1
        return True

    def _key(self) -> str | _Unread:
        start = self.at
        character = self._peek()
        if character in ('"', "'"):
            return self._string()
        word = _WORD.match(self.text, start)
        if word:
            self.at = word.end()
            self.problem(start, f"the key {word[0]} has no quotes", f'write "{word[0]}"')
            return word[0]
        self.problem(start, f'unexpected "{character}" where a key should be')
        if character in "[{":
            self._skip_nested()
        else:
            self.at += 1
        self.lost = True
        return _UNREAD

    def _colon(self, key: str) -> None:
        self._space()
        if self._peek() == ":":
            self.at += 1
        elif not self.lost:
            self.problem(self.at, f'missing ":" after "{key}"')
            self.at += self._peek() == "="

    def _word(self) -> Any:
        start = self.at
        word = _WORD.match(self.text, start)
        if word is None:
            self.problem(start, f'unexpected "{self._peek()}" where a value should be')
            self.at += 1
            self.lost = True
            return _UNREAD
        self.at = word.end()
        name = word[0]
        if name in _LITERALS:
            return _LITERALS[name]
        if name in _OTHER_LITERALS:
            meant = _OTHER_LITERALS[name]
            self.problem(start, f"{name} is not JSON", f"write {meant}")
            return _LITERALS[meant]
        if name in _NOT_NUMBERS:
            self.problem(start, f"{name} is not a number", "write a number, or null where the key allows it")
            return _UNREAD
        if name[0] in "-+.0123456789":
            return self._number(name, start)
        self.problem(start, f"{name} has no quotes", f'text stands in double quotes: "{name}"')
        self.lost = True
        return _UNREAD

    def _number(self, name: str, start: int) -> Any:
        shape = _NUMBER.fullmatch(name)
        if shape is None:
            self.problem(start, f"{name} is not how JSON writes a number", "write for instance 5, -0.5 or 1e-4")
            return _UNREAD
        try:
            value = float(name) if shape[1] or shape[2] else int(name)
        except ValueError:  # Python refuses to read integers of thousands of digits
            value = float("inf")
        if value in (float("inf"), float("-inf")):
            self.problem(start, "this number is too large")
            return _UNREAD
        return value

    # --- strings

    def _string(self, quiet: bool = False) -> str | _Unread:
        """The string at hand; with `quiet`, only find its end."""
        start = self.at
        quote = self.text[start]
        if quote == "'" and not quiet:
            self.problem(start, "text stands in double quotes, not single ones", 'write "..."')
        self.at += 1
        pieces: list[str] = []
        while True:
            character = self._peek()
            if character in ("", "\n", "\r"):
                if not quiet:
                    self.problem(start, "this text has no closing quote", "line breaks inside text are written \\n")
                self.lost = True
                return _UNREAD
            if character == quote:
                self.at += 1
                break
            if character == "\\":
                pieces.append(self._escape(quiet))
                continue
            if character < " " and not quiet:
                shown = "a tab" if character == "\t" else f"the control character 0x{ord(character):02X}"
                escape = "\\t" if character == "\t" else f"\\u{ord(character):04x}"
                self.problem(self.at, f"{shown} inside text", f"write {escape}")
            pieces.append(character)
            self.at += 1
        value = "".join(pieces)
        if not quiet and any("\ud800" <= character <= "\udfff" for character in value):
            self.problem(start, "this text holds half of a surrogate pair", "write the character itself")
        return value

    def _escape(self, quiet: bool) -> str:
        """The character that the escape at hand stands for."""
        start = self.at
        letter = self.text[start + 1 : start + 2]
        if letter == "u":
            code = self._code_unit(start)
            if code is not None:
                low = self._code_unit(self.at) if 0xD800 <= code <= 0xDBFF else None
                if low is not None and 0xDC00 <= low <= 0xDFFF:
                    return chr(0x10000 + ((code - 0xD800) << 10 | (low - 0xDC00)))
                if low is not None:
                    self.at -= 6
                return chr(code)
        elif letter in _ESCAPES and letter:
            self.at += 2
            return _ESCAPES[letter]
        if not quiet:
            shown = f"\\{letter}" if letter and letter not in "\r\n" else "\\"
            self.problem(start, f"{shown} is not an escape JSON knows", "write \\\\ for a backslash, or / in paths")
        self.at += 1
        return "\\"

    def _code_unit(self, start: int) -> int | None:
        """Read \\uXXXX at `start` and move behind it, or None."""
        digits = self.text.startswith("\\u", start) and _HEX4.match(self.text, start + 2)
        if not digits:
            return None
        self.at = digits.end()
        return int(digits[0], 16)
