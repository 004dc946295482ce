"""Every error a person can cause or meet, and the exit code it ends the program with.

SimpletuneError                     1  the run failed
├── UsageError                      2  a command was called in a way it can't work
│   └── ConfigError                 2  the two JSON files, or the data they name, have problems
├── EnvironmentNotReady             3  something outside the files is missing: a driver, a package, a model
│   └── ModelUnavailable            3  gated, not downloaded, or not where the file says
├── DataError                       1  a picture or caption that was fine when scanned can't be used now
├── TrainingFailed                  1  non-finite loss, out of memory, a damaged checkpoint
│   └── OutOfMemory                 1
├── UploadFailed                    1  a finished run could not be uploaded; nothing of it is lost
├── HungUp                        129  SIGHUP (a closed terminal), after saving
├── Interrupted                   130  Ctrl-C, after saving
└── Terminated                    143  SIGTERM, after saving

A message says what is wrong and where; `hint` says what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simpletune.config.validate import Problem


class SimpletuneError(Exception):
    """An error with a message for people: no traceback is shown for it."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SimpletuneError):
    exit_code = 2


class ConfigError(UsageError):
    """The files have problems; all of them are in `problems`."""

    def __init__(self, message: str, hint: str | None = None, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message, hint)
        self.problems = tuple(problems)


class EnvironmentNotReady(SimpletuneError):
    exit_code = 3


class ModelUnavailable(EnvironmentNotReady):
    pass


class DataError(SimpletuneError):
    pass


class TrainingFailed(SimpletuneError):
    pass


class OutOfMemory(TrainingFailed):
    pass


class UploadFailed(SimpletuneError):
    pass


class HungUp(SimpletuneError):
    exit_code = 129


class Interrupted(SimpletuneError):
    exit_code = 130


class Terminated(SimpletuneError):
    exit_code = 143
