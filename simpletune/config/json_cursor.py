"""A place in a text that moves on, and what was found to be wrong up to there."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass

JsonPath = tuple[str | int, ...]

MAXIMUM_PROBLEMS = 30  # a picture renamed to .json should not print a thousand lines
_SPACE = re.compile(r"[ \t\n\r]*")
_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
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


class GaveUpError(Exception):
    """There is too much wrong, or too much of it, to go on."""


class Cursor:
    """Reads a text from its beginning to its end; `path` is the value that is being read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line_starts = [0, *(end.end() for end in _LINE_END.finditer(text))]
        self.problems: list[SyntaxProblem] = []
        self.path: JsonPath = ()

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
            raise GaveUpError

    def _space(self) -> None:
        """Skip white space; comments are skipped too, each with a problem."""
        while self.at < len(self.text):
            self._skip(_SPACE)
            if self._peek() == "#" or self.text.startswith("//", self.at):
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

    def _skip(self, what: re.Pattern[str]) -> str:
        """Move behind what a pattern matches here, and give it."""
        found = what.match(self.text, self.at)
        if found is None:
            return ""
        self.at = found.end()
        return found[0]

    def _peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""


def cut(word: str) -> str:
    """A word as it stands in a message: a file's worth of letters is not shown."""
    return word if len(word) <= 60 else f"{word[:57]}..."
