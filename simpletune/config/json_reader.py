"""The text of strict JSON, read to its end: its value, the place of everything, and all that is wrong with it.

What the standard parser accepts is read the same. What it refuses is a problem here, but reading goes on wherever the
meaning is clear (a trailing comma, a comment, single quotes), so that one run of `validate` shows everything.
Stricter than it in six points, because each would be silent trouble later: duplicate keys, NaN and infinities, numbers
too large or too small to hold, half surrogate pairs, brackets deeper and values more than any settings have.
"""

from __future__ import annotations

import re
from typing import Any

from simpletune.config.json_cursor import GaveUpError, JsonPath, Position, cut
from simpletune.config.json_scalars import UNREAD, WORD, Scalars, Unread

MAXIMUM_DEPTH = 64
MAXIMUM_VALUES = 200_000  # each takes some hundred bytes for its place

_SPACE_AND_TEXT = r'\s*"(?:[^"\\\r\n]|\\.)*"'
_MEMBER = re.compile(rf"(?:{_SPACE_AND_TEXT}|\s*'[^'\r\n]*'|\s*[^\s,:\[\]{{}}\"'/#]+)\s*:")
_ITEM = re.compile(r'"(?:[^"\\\r\n]|\\.)*"|[\[{]|-?[0-9]|true|false|null')
_PLAIN_VALUE = re.compile(
    rf"(?:{_SPACE_AND_TEXT}|\s*-?[0-9][^\s,:\[\]{{}}\"'/#]*|\s*(?:true|false|null))[ \t]*(?:[,}}\]\r\n]|\Z)"
)
_BEHIND = re.compile(r"\s*(?:[,}\]#]|/[/*]|\Z)")
_BEHIND_ALL = re.compile(r"\s*(?:#|/[/*]|\Z)")
_BEFORE_COLON = re.compile(r"([^\s,:=\[\]{}\"']+)[ \t]*:")


class Reader(Scalars):
    """Reads one text. Where things stand is in `keys` and `values`, what is wrong in `problems`, in the text's order
    once `read` is done; `unreadable` are paths whose value could not be read, or isn't sure to be what was meant;
    `partial` are objects and lists whose end could not be read."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.keys: dict[JsonPath, Position] = {}
        self.values: dict[JsonPath, Position] = {}
        self.partial: set[JsonPath] = set()
        self.open: list[str] = []  # the closing brackets we are inside of

    def read(self) -> Any:
        """The text's value; None when nothing could be read, and then the root is among `unreadable`."""
        try:
            value = self._document()
        except GaveUpError:
            value = UNREAD
        self.problems.sort(key=lambda p: (p.position.line, p.position.column))
        if value is UNREAD:
            self.unreadable.add(())
            return None
        return value

    def _document(self) -> Any:
        self._space()
        if self.at == len(self.text):
            self.problem(0, "the file is empty", "an empty settings file is {}, an empty list of data sets []")
            return UNREAD
        value = self._value(())
        self._space()
        if self.at < len(self.text):
            self.partial.add(())
            self._doubt(self.at, "there is more text after the end", "remove it, or a closing bracket too many before")
        return value

    def _value(self, path: JsonPath) -> Any:
        self.path = path
        if len(self.values) >= MAXIMUM_VALUES:
            self.problem(self.at, f"more than {MAXIMUM_VALUES:,} values", "no settings file has so many")
            raise GaveUpError
        self.values[path] = self.position(self.at)
        start = self._peek()
        if start in ("{", "["):
            value = self._nested(path)
        elif start in ('"', "'"):
            value = self._string()
        else:
            value = self._word()
        if value is UNREAD or (start in ('"', "'") and self.misread):
            self.unreadable.add(path)
        return value

    def _nested(self, path: JsonPath) -> Any:
        start = self.at
        if len(self.open) >= MAXIMUM_DEPTH:
            self.problem(start, f"more than {MAXIMUM_DEPTH} brackets inside each other", "no key here needs so many")
            raise GaveUpError
        is_object = self.text[start] == "{"
        self.open.append("}" if is_object else "]")
        self.at += 1
        try:
            return self._object(path, start) if is_object else self._array(path, start)
        finally:
            self.open.pop()
            self.path = path

    def _object(self, path: JsonPath, start: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        after_one = False
        while self._more(path, start, after_one):
            after_one = True
            key_at = self.at
            key = self._key()
            if not isinstance(key, str):
                continue
            inner = (*path, key)
            self.path = inner
            if inner in self.keys:
                first = self.keys[inner].line
                self.problem(key_at, f'"{cut(key)}" is set twice, first on line {first}', "keep one of the two")
                self._forget(inner)
                self.unreadable.discard(inner)
            self.keys[inner] = self.position(key_at)
            if self.misread and self.text[key_at] in "\"'":
                self.unreadable.add(inner)
            self._colon(key)
            members.pop(key, None)
            value = self._member_value(inner, key)
            if value is not UNREAD:
                members[key] = value
            self.last_read = inner
        return members

    def _member_value(self, path: JsonPath, key: str) -> Any:
        self._space()
        if self._peek() not in ("", ",", "}", "]"):
            return self._value(path)
        self.values[path] = self.keys[path]
        self.unreadable.add(path)
        message = f'"{cut(key)}" has no value'
        if (self._peek() == "," and not _MEMBER.match(self.text, self.at + 1)) or not self._may_close():
            self._break(self.at, message)
        elif self._peek():
            self.problem(self.at, message)
        return UNREAD

    def _forget(self, path: JsonPath) -> None:
        """Drop what was noted inside `path`, whose value is replaced by a later one."""
        size = len(path)
        for table in (self.keys, self.values):
            for inner in [inner for inner in table if len(inner) > size and inner[:size] == path]:
                del table[inner]

    def _array(self, path: JsonPath, start: int) -> list[Any]:
        items: list[Any] = []
        count = 0
        while self._more(path, start, count > 0):
            value = self._value((*path, count))
            # An unread item keeps its place, so that the paths of those after it stay true.
            items.append(None if value is UNREAD else value)
            self.last_read = (*path, count)
            count += 1
        return items

    def _more(self, path: JsonPath, start: int, after_one: bool) -> bool:
        """Move to the next member of an object or array; False behind its end."""
        before = self.at
        self._space()
        comma = -1
        if after_one:
            if self._peek() == ",":
                comma = self.at
                self.at += 1
                self._space()
            elif self._peek() not in ("", "}", "]"):
                self._no_comma(start, before)
        while self._peek() == ",":
            self.problem(self.at, 'a "," too many', "remove it")
            self.at += 1
            self._space()
        self.lost = False
        return not self._closed(path, start, comma)

    def _no_comma(self, start: int, before: int) -> None:
        """What stands where a comma should: another member, or a sign that brackets or quotes are wrong."""
        if self.lost:
            return
        line = self.position(start).line
        member = _MEMBER.match(self.text, self.at)
        if self.text[start] == "[" and (self._peek() == ":" or member):
            self._break(self.at, f'"]" is missing before this: the list that begins on line {line} is still open')
        elif member if self.text[start] == "{" else self._is_item(before):
            self.problem(before, 'missing ","', "put a comma between two values")
        else:
            self._break(before, 'missing ","', 'if this is inside of text: a quote in text is written \\"')

    def _is_item(self, before: int) -> bool:
        """Whether what stands behind an item of a list is another one; a bracket is, behind a bracket."""
        found = _ITEM.match(self.text, self.at)
        return found is not None and (found[0] not in "[{" or self.text[before - 1] in "]}")

    def _closed(self, path: JsonPath, start: int, comma: int) -> bool:
        character, closing = self._peek(), self.open[-1]
        if character == "":
            self.partial.add(path)
            self._never_closed(start)
            return True
        if character not in "}]":
            return False
        if comma >= 0 and not self._may_close():
            message = f'unexpected "{character}"'
            self._break(self.at, message, "a bracket too many, or more was to stand before it")
        elif comma >= 0:
            self.problem(comma, f'a "," too many before the closing "{character}"', "remove the comma")
        if self.broke_off:
            self.partial.add(path)
        elif character == closing:
            self.at += 1
        elif character in self.open:
            self._doubt(self.at, f'"{closing}" is missing before this "{character}"')
        else:
            message = f'"{character}" does not match the "{self.text[start]}" before'
            self._break(self.at, message, f'write "{closing}"')
            self.partial.add(path)
        return True

    def _may_close(self) -> bool:
        """Whether what stands behind a closing bracket at hand is what may stand there."""
        behind = _BEHIND_ALL if len(self.open) == 1 else _BEHIND
        return self._peek() not in ("}", "]") or behind.match(self.text, self.at + 1) is not None

    def _never_closed(self, start: int) -> None:
        """The text ends inside of brackets: told once, of the innermost."""
        if not self.broke_off:
            missing = "".join(reversed(self.open))
            hint = f'a "{missing}" is missing' if len(missing) == 1 else f'the file ends without "{missing}"'
            self._doubt(start, f'the "{self.text[start]}" on line {self.position(start).line} is never closed', hint)
        self.broke_off = True

    def _key(self) -> str | Unread:
        start = self.at
        character = self._peek()
        if character in ('"', "'"):
            key = self._string()
            if key is UNREAD:
                self._break(start)
            return key
        word = WORD.match(self.text, start)
        if word is None:
            self._break(start, f'unexpected "{character}" where a key should be')
            return UNREAD
        self.at = word.end()
        clear = _MEMBER.match(self.text, start) or not self.text[self.at :].strip()
        say = self.problem if clear else self._break
        say(start, f"the key {cut(word[0])} has no quotes", f'write "{cut(word[0])}"')
        return word[0] if clear else UNREAD

    def _colon(self, key: str) -> None:
        self._space()
        if self._peek() == ":":
            self.at += 1
        elif stray := _BEFORE_COLON.match(self.text, self.at):
            self.problem(self.at, f'unexpected "{cut(stray[1])}" between "{cut(key)}" and its ":"', "remove it")
            self.at = stray.end()
        elif self._peek() == "=" or _PLAIN_VALUE.match(self.text, self.at):
            self.problem(self.at, f'missing ":" after "{cut(key)}"')
            self.at += self._peek() == "="
        elif self._peek():
            self._break(self.at, f'missing ":" after "{cut(key)}"')
