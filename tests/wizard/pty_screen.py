"""A command in a pseudo-terminal, and what a person would see on it. POSIX only: skips elsewhere.

with PtyScreen([sys.executable, "-m", "simpletune", "configure"], columns=80, rows=30) as terminal:
    terminal.wait_for("Which model")
    terminal.press("down", "enter")
    assert "? Model" in terminal.text()
"""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

pexpect = pytest.importorskip("pexpect")
pyte = pytest.importorskip("pyte")
if not hasattr(pexpect, "spawn"):
    pytest.skip("pseudo-terminals are POSIX only", allow_module_level=True)

KEYS = {
    "up": "\x1b[A",
    "down": "\x1b[B",
    "right": "\x1b[C",
    "left": "\x1b[D",
    "home": "\x1b[H",
    "end": "\x1b[F",
    "enter": "\r",
    "tab": "\t",
    "shift+tab": "\x1b[Z",
    "alt+enter": "\x1b\r",
    "escape": "\x1b",
    "backspace": "\x7f",
    "ctrl-a": "\x01",
    "ctrl-c": "\x03",
    "ctrl-d": "\x04",
    "ctrl-k": "\x0b",
    "ctrl-u": "\x15",
}
TIMEOUT = 30.0  # seconds; the machine that runs the tests may be busy
_SETTLED = 0.08  # seconds without output after which a screen counts as drawn
# What would change how a question looks; a test that wants one of them passes it.
_LOOKS = ("NO_COLOR", "ACCESSIBLE", "PROMPT_TOOLKIT_NO_CPR", "PROMPT_TOOLKIT_COLOR_DEPTH", "COLUMNS", "LINES")


class _Screen(pyte.Screen):
    """pyte's screen, answering what a program asks its terminal."""

    answer: Any = None

    def write_process_input(self, data: str) -> None:
        self.answer(data)


class PtyScreen:
    """A running command and its screen of `columns` x `rows`. Use it as a context: the command never outlives it.

    `environment` is put over the test's own (with a terminal that has colours); a value of None takes a variable away.
    """

    def __init__(
        self,
        command: Sequence[str],
        columns: int = 80,
        rows: int = 24,
        environment: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.columns, self.rows = columns, rows
        self._screen = _Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""  # everything the command wrote
        with warnings.catch_warnings():
            # From Python 3.12 on, forking while a test runner has threads warns; the child executes at once.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._child = pexpect.spawn(
                command[0],
                list(command[1:]),
                dimensions=(rows, columns),
                env=_environment(environment or {}),
                cwd=None if cwd is None else str(cwd),
                timeout=TIMEOUT,
            )
        self._child.delaybeforesend = None
        self._screen.answer = self._child.send

    def __enter__(self) -> PtyScreen:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child.closed:
            self._child.terminate(force=True)
        else:
            self._child.close(force=True)

    def press(self, *keys: str) -> None:
        """Press keys by name ("down", "shift+tab"); anything else is typed as it stands."""
        for key in keys:
            self._child.send(KEYS.get(key, key))
            self._read(0.02)

    def lines(self) -> list[str]:
        """The screen now, without the blanks at the ends of lines and the empty lines below."""
        self._read(0)
        lines = [line.rstrip() for line in self._screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def text(self) -> str:
        return "\n".join(self.lines())

    def style_at(self, text: str) -> Any:
        """The attributes (fg, bold, reverse) of the first character of `text` on the screen."""
        for row, line in enumerate(self._screen.display):
            if text in line:
                return self._screen.buffer[row][line.index(text)]
        raise AssertionError(f"{text!r} is not on the screen:\n{self.text()}")

    def wait_for(self, *texts: str, timeout: float = TIMEOUT) -> list[str]:
        """Wait until the screen shows all `texts` (a line break counts as a space) and is drawn; its lines.

        Raises AssertionError with the screen when that does not happen, or the command ends before.
        """
        deadline = time.monotonic() + timeout
        while not all(text in self.text() or text in self._joined() for text in texts):
            alive = self._read(0.1)
            missing = [text for text in texts if text not in self._joined()]
            if missing and (not alive or time.monotonic() > deadline):
                why = "the command ended" if not alive else f"{timeout:g} s passed"
                raise AssertionError(f"{why} before the screen showed {missing}:\n{self.text()}")
        self.settle()
        return self.lines()

    def settle(self) -> list[str]:
        """Wait until nothing has been drawn for a moment; the screen's lines."""
        before = -1
        while before != len(self.raw):
            before = len(self.raw)
            self._read(_SETTLED)
        return self.lines()

    def resize(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self._screen.resize(rows, columns)
        self._child.setwinsize(rows, columns)

    def hang_up(self, timeout: float = TIMEOUT) -> int:
        """Close the terminal under the command, as closing its window does; its exit code as of `end`."""
        self._child.ptyproc.fileobj.close()
        # Told to both, or the number is closed again when they are collected: it may be another's by then.
        self._child.closed = self._child.ptyproc.closed = True
        self._child.child_fd = self._child.ptyproc.fd = -1
        deadline = time.monotonic() + timeout
        while self._child.isalive():
            if time.monotonic() > deadline:
                raise AssertionError(f"the command did not end within {timeout:g} s of losing its terminal")
            time.sleep(0.02)
        return self._code()

    def kill(self, number: int = signal.SIGKILL) -> None:
        self._child.kill(number)

    def end(self, timeout: float = TIMEOUT) -> int:
        """Wait for the command to end; its exit code, or minus the signal's number."""
        deadline = time.monotonic() + timeout
        while self._read(0.1):
            if time.monotonic() > deadline:
                raise AssertionError(f"the command did not end within {timeout:g} s:\n{self.text()}")
        self._child.wait()
        return self._code()

    def _code(self) -> int:
        return int(-self._child.signalstatus if self._child.exitstatus is None else self._child.exitstatus)

    def _joined(self) -> str:
        return " ".join(line.strip() for line in self.lines())

    def _read(self, wait: float) -> bool:
        """Draw what the command writes until it is silent for `wait` seconds; whether it still runs."""
        while True:
            try:
                data = self._child.read_nonblocking(65536, timeout=wait)
            except pexpect.TIMEOUT:
                return True
            except pexpect.EOF:
                return False
            self.raw += data
            self._stream.feed(data)


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    base = {key: value for key, value in os.environ.items() if key not in _LOOKS}
    base |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"}
    return {key: value for key, value in {**base, **changes}.items() if value is not None}
