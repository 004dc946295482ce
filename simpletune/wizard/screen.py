"""What a question looks like to whoever shows it: a terminal, a screen reader's line prompt, or a test's script.

The flow makes screens and reads answers; a `Prompter` shows the one and brings the other. Neither knows the other's
insides, so the same flow runs in all of them and writes the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

# A line of what is wrong with an answer, or None when nothing is.
Check = Callable[[str], str | None]


class Back(Exception):
    """Raised by a prompter when the question before is wanted."""


@dataclass(frozen=True)
class Option:
    """One answer of a choice.

    `note` is what choosing it means (its memory, its cost); it is shown beside or below. `disabled` says why it can't
    be chosen here; it is shown instead of the note.
    """

    value: Any
    label: str
    note: str = ""
    disabled: str | None = None


@dataclass(frozen=True)
class Screen:
    """One question. With `options` it is a choice; without, something typed, of which `default` is the first text.

    heading: "3 of 10 · Model". name: what the answer is called in a line ("Base model"). title: the question. about:
    one line on what it is. reason: why the recommended answer is; shown beside it. panel: lines of figures that move
    with the answers (memory, disk, time). problem: what was wrong with the last answer. path: "folder" or "file" to
    complete paths. check: says what is wrong with a typed answer; it never raises and is called when Enter is pressed
    only. With `options` it is there where a text may be answered in their place, as `Typed`.
    """

    id: str
    heading: str
    title: str
    about: str
    options: tuple[Option, ...] | None = None
    default: Any = None
    recommended: Any = None
    reason: str = ""
    panel: tuple[str, ...] = ()
    problem: str | None = None
    path: str | None = None
    check: Check | None = None
    can_go_back: bool = True
    name: str = ""


@dataclass(frozen=True)
class Typed:
    """A text that was answered in place of the options of a choice, and that its check accepts."""

    text: str


class Prompter(Protocol):
    """Shows screens. Ctrl-C is KeyboardInterrupt and a closed terminal EOFError, from any method."""

    def ask(self, screen: Screen) -> Any:
        """The value of the chosen option (never a disabled one), or the text that was typed; raises `Back`. A choice
        that has a check may be answered by `Typed` too."""
        ...

    def say(self, lines: Sequence[str]) -> None:
        """Lines that stay: a report, a diff, a result. They are text, never markup; long ones are wrapped."""
        ...

    def show_diff(self, lines: Iterable[str]) -> None:
        """A unified diff, coloured where colour is welcome; never wrapped in a way that hides its first column."""
        ...

    def busy(self, what: str) -> AbstractContextManager[None]:
        """While something takes a moment ("Looking at the pictures")."""
        ...
