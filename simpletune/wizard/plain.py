"""Questions as plain lines, for screen readers (ACCESSIBLE=1) and terminals that can't move their cursor (TERM=dumb).

Everything is said in words and in order, nothing is redrawn, and every answer is a line.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from simpletune.wizard.looks import name_of, recommended_text, same, start_of, tidied, unavailable
from simpletune.wizard.screen import Back, Option, Screen, Typed
from simpletune.wizard.streams import hangup_is_end_of_file, lost_is_end_of_file
from simpletune.wizard.text import paragraph, signs_for, unwrapped, wrap, wrapped_diff_line
from simpletune.wizard.typed import judged

_BACK = {"b", "back"}
_REPEAT = "?"
_NOTHING = '""'
_RESERVED = {*_BACK, _REPEAT, _NOTHING}
_ESCAPES = 'To answer one of the words b, back or ? itself, put a backslash before it: \\back. To answer nothing: "".'
_FALLBACK_SIZE = (80, 24)


class PlainPrompter:
    """A `Prompter` that reads lines from `stdin` and writes lines to `stdout` (the process's own if not given)."""

    def __init__(self, stdin: TextIO | None = None, stdout: TextIO | None = None) -> None:
        self._stdin = stdin or sys.stdin
        self._stdout = stdout or sys.stdout
        self._signs = signs_for(self._stdout)
        self._told_escapes = False

    def ask(self, screen: Screen) -> Any:
        """The value of the chosen option, or the typed text that its check accepts; see `Prompter.ask`."""
        screen = tidied(screen, self._signs)
        self._show(screen)
        return self._typed(screen) if screen.options is None else self._chosen(screen, screen.options)

    def say(self, lines: Sequence[str]) -> None:
        for line in unwrapped(lines):
            self._write(paragraph(self._signs.clean(line), self._columns))

    def show_diff(self, lines: Iterable[str]) -> None:
        for line in unwrapped(list(lines)):
            self._write(wrapped_diff_line(self._signs.clean(line), self._columns))

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        self.say([f"{what} ..."])
        with hangup_is_end_of_file():
            yield

    @property
    def _columns(self) -> int:
        return shutil.get_terminal_size(_FALLBACK_SIZE).columns

    def _chosen(self, screen: Screen, options: Sequence[Option]) -> Any:
        start = start_of(screen)
        while True:
            answer = self._answer(screen, _choice_prompt(screen, start))
            at = start if answer == "" else _named(options, answer)
            if at == len(options):
                raise Back
            if at is None and screen.check is not None and by_value(options):
                text, problem = judged(screen, _literal(answer))
                if problem is None:
                    return Typed(text)
                self._problem(problem)
            elif at is None:
                how = "type one of the values" if by_value(options) else f"type a number from 1 to {len(options)}"
                self._problem(f"there is no option {answer!r}; {how}")
            elif options[at].disabled:
                self._problem(f"{options[at].label} is unavailable: {options[at].disabled}")
            else:
                return options[at].value

    def _typed(self, screen: Screen) -> str:
        first = screen.recommended if screen.default is None else screen.default
        default = "" if first is None else str(first)
        while True:
            answer = self._answer(screen, _typed_prompt(screen, self._signs.clean(default)))
            meant = default if answer == "" else "" if answer == _NOTHING else _literal(answer)
            text, problem = judged(screen, meant)
            if problem is None:
                return text
            self._problem(problem)

    def _answer(self, screen: Screen, prompt: str) -> str:
        """The next line that is an answer: "b" goes back, "?" shows the question again."""
        while True:
            line = self._read(prompt)
            word = line.strip().lower()
            if word == _REPEAT:
                self._told_escapes = self._told_escapes and screen.options is not None
                self._show(screen)
            elif word in _BACK and screen.can_go_back:
                raise Back
            elif word in _BACK and screen.options is not None:
                self._problem("there is no question before this one")
            else:
                return line.strip()

    def _read(self, prompt: str) -> str:
        lines = wrap(prompt, self._columns - 1)
        with lost_is_end_of_file(), hangup_is_end_of_file():
            self._stdout.write("\n".join(lines) + " ")
            self._stdout.flush()
            line = self._line()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")

    def _line(self) -> str:
        try:
            return self._stdin.readline()
        except UnicodeDecodeError as error:
            return f"{error.object.decode(error.encoding, 'surrogateescape')}\n"  # refused as an answer, not fatal

    def _show(self, screen: Screen) -> None:
        lines = ["", screen.heading, screen.title]
        lines += [screen.about] if screen.about else []
        lines += ["", *screen.panel] if screen.panel else []
        lines += ["", f"Problem: {screen.problem}"] if screen.problem else []
        self.say([*lines, *(self._hints(screen) if screen.options is None else [])])
        self._write([""])
        for at, option in enumerate(screen.options or ()):
            mark = "-" if by_value(screen.options or ()) else f"{at + 1}."
            self._write(paragraph(f"{mark} {_described(screen, option)}", self._columns))

    def _hints(self, screen: Screen) -> list[str]:
        """What is recommended as a typed answer; how to type the words that mean something else, said once."""
        recommended = recommended_text(screen)
        lines = [recommended[0].upper() + recommended[1:]] if recommended else []
        lines += [] if self._told_escapes else [_ESCAPES]
        self._told_escapes = True
        return lines

    def _problem(self, text: str) -> None:
        self.say([f"Problem: {text}"])

    def _write(self, lines: Iterable[str]) -> None:
        with lost_is_end_of_file():
            for line in lines:
                self._stdout.write(line + "\n")
            self._stdout.flush()


def _described(screen: Screen, option: Option) -> str:
    """`int8 (recommended): 9.8 GiB; saves 2.0 GB`, or why it can't be chosen."""
    if option.disabled:
        return f"{option.label} ({unavailable(option)})"
    marked = screen.recommended is not None and same(option.value, screen.recommended)
    remarks = "; ".join(part for part in (option.note, screen.reason if marked else "") if part)
    return f"{option.label}{' (recommended)' if marked else ''}{': ' if remarks else ''}{remarks}"


def by_value(options: Sequence[Option]) -> bool:
    """Whether the answers are numbers themselves: numbering them would leave open which number is meant."""
    return any(option.label[:1].isdigit() for option in options)


def _choice_prompt(screen: Screen, start: int) -> str:
    options = screen.options or ()
    if by_value(options):
        enter = "go back" if start == len(options) else options[start].label
        return f"Value, Enter for {enter}, {_commands(screen)}:"
    enter = "go back" if start == len(options) else str(start + 1)
    return f"Number, Enter for {enter}, {_commands(screen)}:"


def _typed_prompt(screen: Screen, default: str) -> str:
    enter = f'Enter for "{default}", ' if default else ""
    return f"{name_of(screen)}, {enter}{_commands(screen)}:"


def _commands(screen: Screen) -> str:
    return "b to go back, ? to repeat" if screen.can_go_back else "? to repeat"


def _named(options: Sequence[Option], answer: str) -> int | None:
    """The option of that number, else of that label in any case; where labels are values, of the label's first word."""
    if by_value(options):
        labels = [option.label.lower().replace(",", "") for option in options]
        wanted = answer.lower().replace(",", "")
        found = [at for at, label in enumerate(labels) if wanted in (label, label.partition(" ")[0])]
        return found[0] if len(found) == 1 else None
    if answer.isascii() and answer.isdigit():
        at = int(answer[:9]) - 1
        return at if 0 <= at < len(options) else None
    labels = [option.label.lower() for option in options]
    return labels.index(answer.lower()) if answer.lower() in labels else None


def _literal(answer: str) -> str:
    """The answer, without the backslash that keeps a reserved word from its meaning."""
    rest = answer.removeprefix("\\")
    return rest if rest != answer and rest.lower() in _RESERVED else answer
