"""The values of JSON that hold no others: text, numbers, true, false and null."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from simpletune.config.json_cursor import Cursor, JsonPath, cut

MAXIMUM_DIGITS = 4300  # of a whole number: reading them takes the square of their count, and Python stops here too


class Unread:
    """Stands for a value that could not be read."""


UNREAD = Unread()
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
WORD = re.compile(r"[^\s,:\[\]{}\"'/#]+")
_DECIMALS = re.compile(r",([0-9]+(?:[eE][+-]?[0-9]+)?)(?=[ \t]*(?:,?[ \t]*(?:[}\r\n#]|//|/\*|\Z)|,[ \t]*[\"']))")
_PLAIN_TEXT = re.compile(r"[^\"'\\\x00-\x1f]+")
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_END_OF_VALUE = re.compile(r"[ \t]*(?:[,}\]](?=[\s,}\]\"']|\Z)|[\r\n#]|//|/\*|\Z)")
_CUT_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{0,3})?\Z")
_HEX4 = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LITERALS: Mapping[str, Any] = {"true": True, "false": False, "null": None}
_OTHER_LITERALS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false", "None": "null", "Null": "null",
                   "NULL": "null", "undefined": "null"}  # fmt: skip
_NOT_NUMBERS = {"NaN", "nan", "Infinity", "-Infinity", "+Infinity", "inf", "-inf", "+inf"}


class Scalars(Cursor):
    """Reads one value at a time.

    `lost` after a broken one, when the next missing comma is its consequence; `doubtful` when what brackets and quotes
    mean is no longer sure; `broke_off` when the text ended, or was left, in the middle of something: the brackets that
    are still open are the consequence. `misread` after text with something wrong inside.
    """

    lost = False
    doubtful = False
    broke_off = False
    misread = False
    last_read: JsonPath = ()

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.unreadable: set[JsonPath] = set()

    def _doubt(self, index: int, message: str, hint: str | None = None) -> None:
        """Note a problem of brackets or quotes, unless it may be the consequence of an earlier one.

        What was read right before it isn't sure to be what was meant.
        """
        if not self.doubtful:
            self.problem(index, message, hint)
        self.unreadable |= {self.path, self.last_read} - {()}
        self.doubtful = True

    def _break(self, index: int, message: str | None = None, hint: str | None = None) -> None:
        """Note a problem behind which nothing can be relied on, and read no further."""
        if message is not None:
            self._doubt(index, message, hint)
        self.doubtful = self.broke_off = True
        self.at = len(self.text)

    def _word(self) -> Any:
        start = self.at
        word = WORD.match(self.text, start)
        if word is None:
            self._break(start, f'unexpected "{self._peek()}" where a value should be')
            return UNREAD
        self.at = word.end()
        name, brief = word[0], cut(word[0])
        if name in _LITERALS:
            return _LITERALS[name]
        if name in _OTHER_LITERALS:
            meant = _OTHER_LITERALS[name]
            self.problem(start, f"{name} is not JSON", f"write {meant}")
            return _LITERALS[meant]
        if name in _NOT_NUMBERS:
            self.problem(start, f"{name} is not a number", "write a number, or null where the key allows it")
            return UNREAD
        if name[0] in "-+.0123456789":
            return self._number(name, start)
        self._unclear(start, f"{brief} has no quotes", f'text stands in double quotes: "{brief}"')
        return UNREAD

    def _unclear(self, start: int, message: str, hint: str) -> None:
        """A word that is no value; what follows is clear when it ends as a value does."""
        if not _END_OF_VALUE.match(self.text, self.at):
            self._break(start, message, hint)
            return
        self.problem(start, message, hint)
        self.lost = True
        self.broke_off = self.at == len(self.text)

    def _number(self, name: str, start: int) -> Any:
        shape = _NUMBER.fullmatch(name)
        if shape is None:
            hint = "write for instance 5, -0.5 or 1e-4"
            self._unclear(start, f"{cut(name)} is not how JSON writes a number", hint)
            return UNREAD
        whole = not (shape[1] or shape[2])
        decimals = (
            _DECIMALS.match(self.text, self.at) if whole and self.path and isinstance(self.path[-1], str) else None
        )
        if decimals is not None:
            self.at = decimals.end()
            self._comma(name, decimals[1], start)
            return UNREAD
        if whole and len(name) <= MAXIMUM_DIGITS:
            return int(name)
        value = float(name) if shape[1] or shape[2] else math.inf
        if math.isinf(value):
            self.problem(start, "this number is too large")
            return UNREAD
        if value == 0 and any(digit in "123456789" for digit in re.split("[eE]", name)[0]):
            self.problem(start, "this number is too small to be told from 0", "write 0, or a number from 1e-300 on")
            return UNREAD
        return value

    def _comma(self, whole: str, decimals: str, start: int) -> None:
        """A number with a comma, as many languages write the decimals and English the thousands."""
        hint = f"write {cut(whole)}.{cut(decimals)}"
        if whole.lstrip("-") != "0" and len(decimals) == 3 and decimals.isdigit():
            hint = f"write {cut(whole)}{decimals}, or {cut(whole)}.{decimals} for a fraction"
        self.problem(start, f"{cut(whole)},{cut(decimals)} is not how JSON writes a number", hint)

    def _string(self) -> str | Unread:
        start, before = self.at, len(self.problems)
        quote = self.text[start]
        self.at += 1
        pieces: list[str] = []
        while True:
            character = self._peek()
            if character in ("", "\n", "\r"):
                self._doubt(start, "this text has no closing quote", "line breaks inside text are written \\n")
                self.lost = True
                self.broke_off = not character
                return UNREAD
            if character == quote:
                self.at += 1
                break
            if character == "\\":
                pieces.append(self._escape())
                continue
            if character < " ":
                shown = "a tab" if character == "\t" else f"the control character 0x{ord(character):02X}"
                escape = "\\t" if character == "\t" else f"\\u{ord(character):04x}"
                self.problem(self.at, f"{shown} inside text", f"write {escape}")
            plain = self._skip(_PLAIN_TEXT)
            if not plain:
                plain = character
                self.at += 1
            pieces.append(plain)
        value = "".join(pieces)
        if _HALF_PAIR.search(value):
            self.problem(start, "this text holds half of a surrogate pair", "write the character itself")
        self.misread = len(self.problems) > before
        if quote == "'":
            self.problem(start, "text stands in double quotes, not single ones", 'write "..."')
        return value

    def _escape(self) -> str:
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
        if not _CUT_ESCAPE.match(self.text, start):  # where the text ends, the quote that is missing is told
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
