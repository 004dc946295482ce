"""One of the two files as rules see it: values with defaults filled in, what was given, and where it stands."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simpletune.config import jsonfile
from simpletune.config.jsonfile import JsonFile, JsonPath
from simpletune.config.problems import ERROR, WARNING, Problem, tidy
from simpletune.config.schema import types_of

Planned = Mapping[Path, bytes]
PLACEHOLDER = re.compile(r"\{([A-Za-z_]*)\}")


@dataclass
class Document:
    """A file with the overrides of the command line put over it.

    `value` is what the file and the overrides say together; `overridden` maps the paths that an override set to how the
    override is called in messages. `bad` collects the paths that have an error, so that no rule trips over them again.
    `planned` are contents of files that are about to be written: they count as if they were there.
    """

    file: JsonFile
    value: Any
    overridden: dict[JsonPath, str] = field(default_factory=dict)
    bad: set[JsonPath] = field(default_factory=set)
    planned: Planned = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, planned: Planned | None = None) -> Document:
        planned = planned or {}
        file = read_planned(path, planned)
        return cls(file, copy.deepcopy(file.value), bad=set(file.unreadable), planned=planned)

    @property
    def name(self) -> str:
        """The file as a person would name it from here."""
        return display(self.file.path)

    def syntax_problems(self) -> list[Problem]:
        return [
            Problem(self.name, p.position.line, p.position.column, dotted(p.path), p.message, p.hint)
            if not p.position.line
            else self._at(p.position, p.path, p.message, p.hint, ERROR, "config")
            for p in self.file.problems
        ]

    def problem(
        self,
        path: JsonPath,
        message: str,
        hint: str | None = None,
        *,
        on_key: bool = False,
        severity: str = ERROR,
        kind: str = "config",
    ) -> Problem:
        """A problem at `path`, placed at its value (or its key), or at the nearest thing around it that is there.

        What only this machine or a model lacks (`kind`) leaves the value good: rules and settings go on with it.
        """
        if severity == ERROR and kind == "config":
            self.bad.add(path)
        override = self.override_of(path)
        if override is not None:
            return tidy(Problem(override, 0, 0, dotted(path), message, hint, severity, kind))
        position = self.file.place(path, on_key)
        if position is None:
            return tidy(Problem(self.name, 0, 0, dotted(path), message, hint, severity, kind))
        return self._at(position, path, message, hint, severity, kind)

    def _at(
        self, position: jsonfile.Position, path: JsonPath, message: str, hint: str | None, severity: str, kind: str
    ) -> Problem:
        source = self.file.line(position.line)
        return tidy(
            Problem(self.name, position.line, position.column, dotted(path), message, hint, severity, kind, source)
        )

    def override_of(self, path: JsonPath) -> str | None:
        """What the override is called that set the value at `path`, or something around it."""
        found = (self.overridden.get(path[:length]) for length in range(len(path), 0, -1))
        return next((name for name in found if name is not None), None)

    def is_bad(self, path: JsonPath) -> bool:
        """Whether `path`, something around it or something in it has an error."""
        return any(path[: len(bad)] == bad or bad[: len(path)] == path for bad in self.bad)

    def origin(self, path: JsonPath) -> str:
        """Where the value at `path` comes from: "config.json:4" or "--set"."""
        if self.override_of(path) is not None:
            return "--set"
        position = self.file.place(path, on_key=True)
        return f"{self.file.path.name}:{position.line}" if position else self.file.path.name


def read_planned(path: Path, planned: Planned) -> JsonFile:
    """The file as it is on disk, or as it will be."""
    content = planned.get(Path(os.path.abspath(path)))  # noqa: PTH100
    return jsonfile.read(path) if content is None else jsonfile.parse(path, content)


class Keys:
    """An object of a document (the whole of config.json, one entry of the data file) read through its schema."""

    def __init__(self, document: Document, prefix: JsonPath, schema: Mapping[str, Any], values: Mapping[str, Any]):
        self.document = document
        self.prefix = prefix
        self.schema = schema
        self.values = values
        self.placeholders: dict[str, str] = {}

    def __getitem__(self, key: str) -> Any:
        """The value of a key; its default when it is not given, or wrong."""
        return self.values[key] if self.given(key) else self.schema[key].get("default")

    def given(self, key: str) -> bool:
        return key in self.values and self.fine(key)

    def fine(self, *keys: str) -> bool:
        """Whether none of the keys has an error."""
        return not any(self.document.is_bad((*self.prefix, key)) for key in keys)

    def error(
        self, key: str, message: str, hint: str | None = None, *, kind: str = "config", item: int | None = None
    ) -> Problem:
        """An error at a key's value, or at one item of its list."""
        path = (*self.prefix, key) if item is None else (*self.prefix, key, item)
        return self.document.problem(path, message, hint, kind=kind)

    def warning(self, key: str, message: str, hint: str | None = None) -> Problem:
        return self.document.problem((*self.prefix, key), message, hint, severity=WARNING)

    def first_given(self, *keys: str) -> str:
        """The first of several keys that is in the file, which is where a problem between them is shown."""
        return next((key for key in keys if self.given(key)), keys[0])

    def useless(self, key: str, why: str, hint: str = "remove it") -> Problem:
        """The warning that a key was given that does nothing here."""
        path = (*self.prefix, key)
        message = f'"{key}" has no effect {why}'
        return self.document.problem(path, message, hint, on_key=True, severity=WARNING)

    def origin(self, key: str) -> str:
        return self.document.origin((*self.prefix, key)) if self.given(key) else "default"

    def base(self, key: str) -> Path:
        """The folder a relative path is meant from: the file's own, or the current one for an override."""
        here = (*self.prefix, key) in self.document.overridden
        return Path.cwd() if here else Path(os.path.abspath(self.document.file.path)).parent  # noqa: PTH100

    def path(self, key: str) -> Path | None:
        """The key's value as an absolute path, with ~ and placeholders filled in; None for null."""
        return None if self[key] is None else self.resolve(key, self[key])

    def resolve(self, key: str, text: str) -> Path:
        filled = PLACEHOLDER.sub(lambda found: self.placeholders.get(found[1], found[0]), text)
        # normpath and not resolve(): links stay as they were named.
        return Path(os.path.normpath(self.base(key) / os.path.expanduser(filled)))  # noqa: PTH111

    def path_keys(self) -> Iterable[str]:
        return (key for key, schema in self.schema.items() if "x-path" in schema and isinstance(self[key], str))

    def is_number(self, key: str) -> bool:
        """Whether the key holds a real number rather than a whole one."""
        return "number" in types_of(self.schema[key])


def dotted(path: JsonPath) -> str:
    return ".".join(map(str, path))


def display(path: Path) -> str:
    """A path as a person would name it: relative when it is below the current folder."""
    absolute, here = os.path.abspath(path), Path.cwd()  # noqa: PTH100
    return os.path.relpath(absolute, here) if Path(absolute).is_relative_to(here) else str(absolute)
