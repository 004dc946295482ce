"""One object of SimpleTuner (its config, an entry of its data file) on the way to ours, key by key.

Every key of the source is taken once and leaves one line in the report; what is not taken by a rule of its own is
treated by `finish`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from simpletune.config import simpletuner_report as report
from simpletune.config.jsonfile import JsonPath
from simpletune.config.simpletuner_files import Source
from simpletune.config.simpletuner_keys import DATA_RENAMED, RENAMED, VALUES, why_dropped
from simpletune.config.simpletuner_paths import Paths
from simpletune.config.simpletuner_report import Line
from simpletune.config.simpletuner_values import fitted, is_not_set, is_off
from simpletune.redact import looks_like_token

NOT_SET = "not set there"
NO_TOKENS = "it holds what looks like an access token, and tokens never stand in these files"


@dataclass(frozen=True)
class Given:
    """A key of the source: as written, its name without dashes, its value, and where it stands."""

    written: str
    key: str
    value: Any
    path: JsonPath


class Conversion:
    """The keys of a source object, our object so far (`out`), and what was done (`lines`).

    `native` says that the object is one of ours already: then nothing is dropped for having no effect, and nothing is
    read in SimpleTuner's sense.
    """

    def __init__(
        self, where: str, source: Source, path: JsonPath, value: Mapping[str, Any], schema: Mapping[str, Any],
        paths: Paths, *, data: bool = False, native: bool = False,
    ) -> None:  # fmt: skip
        self.where, self.source, self.path, self.schema, self.paths = where, source, path, schema, paths
        self.data, self.native = data, native
        self.out: dict[str, Any] = {}
        self.places: dict[str, JsonPath] = {}
        self.given_id = value.get("id")
        self.caption_filter: list[str] = []  # of a text cache: for the data sets that use it
        self._open: dict[str, Given] = {}
        self._order = tuple(value)
        self._lines: dict[str, Line] = {}
        self._defaults: list[Line] = []
        for written, inner in value.items():
            self._open_key(Given(written, canonical(written), inner, (*path, written)))

    def _open_key(self, given: Given) -> None:
        earlier = self._open.pop(given.key, None)
        if earlier is not None:
            self._line(earlier, report.DROPPED, None, None, f"given again as {given.written}")
        if holds_token(given.value) or looks_like_token(f"{given.written}: {given.value}"):
            self._line(given, report.DROPPED, None, None, NO_TOKENS)
            return
        self._open[given.key] = given

    @property
    def lines(self) -> tuple[Line, ...]:
        return (*(self._lines[key] for key in self._order if key in self._lines), *self._defaults)

    # --- taking keys

    def take(self, key: str) -> Given | None:
        """A key that is given and was not taken yet, for a rule that will write its line."""
        return self._open.pop(key, None)

    def peek(self, key: str) -> Given | None:
        """A key that is given and was not taken yet, without taking it."""
        return self._open.get(key)

    def value(self, key: str) -> Any:
        """The value of a key that is not taken yet; None where SimpleTuner takes it for absent."""
        given = self._open.get(key)
        return None if given is None or is_not_set(given.value) else given.value

    def open_keys(self, *prefixes: str) -> list[str]:
        """The keys not taken yet that begin with one of `prefixes`."""
        return [key for key in self._open if key.startswith(prefixes)]

    def taken(self, *keys: str) -> Iterator[Given]:
        """Take those of `keys` that are given; those that are not set are dropped on the way."""
        for key in keys:
            given = self.take(key)
            if given is not None and is_not_set(given.value):
                self.drop(given, NOT_SET)
            elif given is not None:
                yield given

    # --- what becomes of one

    def put(
        self, given: Given, ours: str, value: Any, note: str | None = None, *, converted: bool = False,
        is_path: bool = True,
    ) -> None:  # fmt: skip
        """Set our key from a key of the source; what kind of line that is follows from both.

        A key that names a place gets the path that leads there from our files, unless `is_path` says it is done.
        """
        if ours in self.out:
            self.drop(given, f"{ours} is set already")
            return
        schema = self.schema.get(ours)
        if schema is not None:
            value, change = fitted(value, schema)
            note = note or change
            if is_path and "x-path" in schema and isinstance(value, str):
                value, missing = self.paths.rewritten(value)
                note = note or missing or self._absent(schema["x-path"], given.value)
        self.out[ours], self.places[ours] = value, given.path
        changed = converted or value != given.value or isinstance(value, bool) != isinstance(given.value, bool)
        action = report.CONVERTED if changed else report.KEPT if ours == given.key else report.RENAMED
        self._line(given, action, ours, value, note)

    def put_part(self, given: Given, ours: str, value: Any) -> None:
        """Set our key from a part of a key of the source, whose line tells of all its parts together."""
        value, _ = fitted(value, self.schema[ours])
        if "x-path" in self.schema[ours] and isinstance(value, str):
            value, _ = self.paths.rewritten(value)
        self.out[ours], self.places[ours] = value, given.path

    def _absent(self, kind: str, value: Any) -> str | None:
        if kind == "new folder" or "{" in str(value):
            return None
        try:
            return None if self.paths.place(str(value)).exists() else "which does not exist"
        except (OSError, ValueError):
            return "which can't be looked at"

    def move(self, given: Given, ours: str | None, value: Any, note: str) -> None:
        """A key whose meaning goes into another of ours that has a line of its own, or to another file."""
        self._line(given, report.CONVERTED, ours, value, note)

    def drop(self, given: Given, reason: str) -> None:
        self._line(given, report.DROPPED, None, None, reason)

    def default(self, ours: str, value: Any, note: str | None = None) -> None:
        """Set a key that the source doesn't give to what SimpleTuner takes then."""
        self.out[ours] = value
        self._defaults.append(Line(self.where, "", report.DEFAULT_THERE, ours, value, note))

    def without_effect(self, ours: str, reason: str) -> None:
        """Take a key of ours back that turned out to do nothing."""
        self.out.pop(ours, None)
        self._defaults = [line for line in self._defaults if line.ours != ours]
        for key, line in self._lines.items():
            if line.ours == ours:
                self._lines[key] = replace(line, action=report.DROPPED, ours=None, value=None, note=reason)

    def remark(self, ours: str, value: Any, note: str) -> None:
        """Replace the value and the note of a key of ours after all."""
        self.out[ours] = value
        for key, line in self._lines.items():
            if line.ours == ours:
                self._lines[key] = replace(line, action=report.CONVERTED, value=value, note=note)
        self._defaults = [
            replace(line, value=value, note=note) if line.ours == ours else line for line in self._defaults
        ]

    def finish(self) -> None:
        """Treat every key that no rule took: ours, renamed, dropped for a reason, or unknown."""
        renamed = DATA_RENAMED if self.data else RENAMED
        for given in list(self._open.values()):
            del self._open[given.key]
            reason = None if self.native and given.key in self.schema else why_dropped(given.key, data=self.data)
            if reason is not None:
                self.drop(given, NOT_SET if is_not_set(given.value) else "off there" if is_off(given.value) else reason)
            elif given.key in self.schema or given.key in renamed:
                self._plain(given, renamed.get(given.key, given.key))
            else:
                self._line(given, report.UNKNOWN, None, None, None)

    def _plain(self, given: Given, ours: str) -> None:
        types = self.schema[ours]["type"]
        if is_not_set(given.value) and "null" not in types and not (given.value == "" and self.native):
            self.drop(given, NOT_SET)
            return
        known = VALUES.get((ours, given.value.lower())) if isinstance(given.value, str) else None
        if known is not None:
            self.put(given, ours, known[0], known[1])
        else:
            self.put(given, ours, given.value)

    def _line(self, given: Given, action: str, ours: str | None, value: Any, note: str | None) -> None:
        self._lines[given.written] = Line(self.where, given.written, action, ours, value, note)


def canonical(name: str) -> str:
    """An option's name as it is looked up: without dashes before it, in small letters, with underscores."""
    return name.strip().lstrip("-").lower().replace("-", "_")


def holds_token(value: Any) -> bool:
    """Whether any text in a value looks like an access token."""
    if isinstance(value, str):
        return looks_like_token(value)
    if isinstance(value, dict):
        return any(looks_like_token(str(key)) or holds_token(inner) for key, inner in value.items())
    return isinstance(value, list) and any(map(holds_token, value))
