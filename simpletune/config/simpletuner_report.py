"""What became of each key when a configuration of SimpleTuner was imported, and how that is told."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from simpletune.config.problems import quoted, shown
from simpletune.config.schema import config_keys, entry_keys
from simpletune.redact import redact

KEPT, RENAMED, CONVERTED = "kept", "renamed", "converted"
DEFAULT_THERE, DROPPED, UNKNOWN = "default there", "dropped", "unknown"
HEADINGS = {
    KEPT: "kept",
    RENAMED: "renamed",
    CONVERTED: "converted",
    DEFAULT_THERE: "SimpleTuner's own default, written down because ours differs",
    DROPPED: "dropped",
    UNKNOWN: "unknown, so dropped",
}
WIDTH = 80


@dataclass(frozen=True)
class Line:
    """What became of one key of the source.

    `where` is the file, and the data set where there is one; `key` is written as in the source, empty for a default of
    SimpleTuner that stands nowhere in it. `ours` is the key it became, None when it was dropped; `value` is its value,
    None when it goes into another key's.
    Values of dropped keys are never held here: they may be secrets.
    """

    where: str
    key: str
    action: str
    ours: str | None = None
    value: Any = None
    note: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: _clean(value) for name, value in asdict(self).items()}


def text(lines: Iterable[Line]) -> str:
    """The report: a section a file and data set, in it a group an action, a line a key; 80 columns if words allow."""
    out: list[str] = []
    lines = list(lines)
    for where in dict.fromkeys(line.where for line in lines):
        out += ["", shown(redact(where))]
        here = [line for line in lines if line.where == where]
        for action, heading in HEADINGS.items():
            group = [line for line in here if line.action == action]
            if group:
                out.append(f"  {heading} ({len(group)})")
                out += [row for line in group for row in _rows(line)]
    return "\n".join(out[1:])


def summary(lines: Sequence[Line]) -> str:
    """How many keys there were and what became of them, in one or two lines."""
    count = {action: sum(line.action == action for line in lines) for action in HEADINGS}
    total = sum(count.values()) - count[DEFAULT_THERE]
    parts = [f"{count[action]} {action}" for action in HEADINGS if action != DEFAULT_THERE and count[action]]
    sentence = f"{total} key{'s' * (total != 1)}: {', '.join(parts)}" if parts else "no keys"
    added = count[DEFAULT_THERE]
    return f"{sentence}\n{added} default{'s' * (added != 1)} of SimpleTuner written down" if added else sentence


def _rows(line: Line) -> Iterator[str]:
    head = line.key or line.ours or ""
    if line.ours is not None:
        head += f" -> {line.ours}" if line.key and line.ours != line.key.lstrip("-") else ""
        head += f": {_value(line.ours, line.value)}" if line.value is not None or line.action == KEPT else ""
    head = shown(redact(head))
    note = shown(redact(line.note)) if line.note else ""
    if note and len(head) + len(note) + 7 <= WIDTH:
        yield f"    {head} ({note})" if line.ours is not None else f"    {head}: {note}"
        return
    yield f"    {head}"
    yield from textwrap.wrap(
        note, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False
    )


def _value(ours: str, value: Any) -> str:
    """As JSON, cut when long; but a path whole, because a cut one can't be looked up."""
    if isinstance(value, str) and ours in _path_keys():
        return json.dumps(value, ensure_ascii=False)
    return quoted(value)


@cache
def _path_keys() -> frozenset[str]:
    every = (config_keys(), entry_keys("image"), entry_keys("text_embeds"))
    named = {key for keys in every for key, schema in keys.items() if "x-path" in schema}
    return frozenset(named | {"pretrained_model_name_or_path"})


def _clean(value: Any) -> Any:
    """A JSON value with everything that looks like a token replaced."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {redact(key): _clean(item) for key, item in value.items()}
    return value
