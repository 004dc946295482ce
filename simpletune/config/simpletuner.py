"""SimpleTuner's configuration as ours: config.json, multidatabackend.json and the prompts, with a report of every key.

    find the files -> refuse what can't be trained here -> convert key by key -> take back what has no effect
    -> check the result as `simpletune validate` would -> the bytes of our files

Nothing is written here; `cli/import_.py` does that. The facts about SimpleTuner stand in `simpletuner_keys.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simpletune.config import jsonfile
from simpletune.config.check import check_config, check_data
from simpletune.config.document import Document, display
from simpletune.config.editor_files import SCHEMA_KEY, schema_copies, schema_reference
from simpletune.config.jsonfile import JsonFile, JsonPath, Position
from simpletune.config.lycoris import faults
from simpletune.config.problems import ERROR, Problem, quoted_path
from simpletune.config.rules import config_problems
from simpletune.config.rules_adapter import LYCORIS, adapter_problems
from simpletune.config.rules_data import data_problems
from simpletune.config.rules_environment import environment_problems
from simpletune.config.rules_forward import forward_problems
from simpletune.config.rules_offload import offload_problems
from simpletune.config.rules_prompts import prompts_problems
from simpletune.config.schema import config_keys
from simpletune.config.simpletuner_config import convert_config
from simpletune.config.simpletuner_conversion import Conversion, holds_token
from simpletune.config.simpletuner_data import convert_sets
from simpletune.config.simpletuner_files import DATA_NAME, Source, find, is_prompts, read
from simpletune.config.simpletuner_paths import Paths, guessed_root
from simpletune.config.simpletuner_refusals import is_native, refusals
from simpletune.config.simpletuner_report import CONVERTED, DROPPED, KEPT, Line
from simpletune.config.simpletuner_values import is_off
from simpletune.config.view import View, view
from simpletune.errors import ConfigError, UsageError

CONFIG_FILE, DATA_FILE, PROMPTS_FILE = "config.json", "multidatabackend.json", "validation_prompts.json"
LYCORIS_FILE = "lycoris_config.json"
_NO_EFFECT = re.compile(r'^"[^"]*" has no effect (.*)$')
_WRITTEN_HERE = {"data_backend_config", "validation_prompts_file"}  # files of ours that aren't on the disk yet


@dataclass(frozen=True)
class Imported:
    """What an import makes: the files by their absolute paths, config.json first; a line a key; what is wrong.

    `problems` are those that `validate` will find in the result, warnings about the source before them. `root` is what
    relative paths were taken to mean, `why_root` for which reason; `sources` are the files that were read.
    """

    contents: Mapping[Path, bytes]
    lines: tuple[Line, ...]
    problems: tuple[Problem, ...]
    root: Path
    why_root: str
    sources: tuple[Path, ...]


def import_files(
    paths: Sequence[Path], output: Path, *, root: Path | None = None, lora_type: str | None = None
) -> Imported:  # fmt: skip
    """Convert the configuration that `paths` name (a folder, its config, its data file) for the folder `output`.

    Raises ConfigError with every problem of the source files, UsageError when one of them is missing.
    """
    config, others = find(paths)
    where, why = (_absolute(root), "--root") if root is not None else guessed_root(config.path)
    native = is_native(config.value)
    if native and root is None:
        where, why = _absolute(config.path).parent, "it is a configuration of simpletune already"
    to = Paths(where, _absolute(output), os.environ)
    conversion = Conversion(config.name, config, config.inside, config.value, config_keys(), to, native=native)
    refused = refusals(conversion, lora_type)
    if refused:
        raise ConfigError(
            f"{display(config.path)} can't be imported",
            problems=sorted(refused, key=lambda one: (one.line, one.column)),
        )
    data = _data_source(conversion, others)
    prompts = _prompts_source(conversion, others)
    lycoris = _lycoris_source(conversion, lora_type)
    for_sets = convert_config(conversion, lora_type)
    sets = convert_sets(data, to, for_sets, native=native)
    texts, prompt_lines = _prompts(prompts, conversion)
    planned = {} if lycoris is None else {to.output / LYCORIS_FILE: _bytes(lycoris.value)}
    whole = _Whole(conversion, sets.conversions, config, data, planned)
    whole.refuse_bad_values()
    if not native:
        whole.drop_what_has_no_effect()
    contents = {**whole.contents(texts), **planned}
    lines = (*conversion.lines, *sets.lines, *prompt_lines)
    read_ones = (config, data, *(source for source in (prompts, lycoris) if source is not None))
    warnings = [warning for source in read_ones for warning in source.warnings]
    return Imported(
        contents,
        lines,
        (*warnings, *whole.problems()),
        where,
        why,
        tuple(one.path for one in read_ones),
    )


# --- the other files that config.json names


def _data_source(c: Conversion, others: Sequence[Source]) -> Source:
    """The data file: the one given with config.json, else the one it names, else the one beside it."""
    lists = [source for source in others if isinstance(source.value, list)]
    given = c.take("data_backend_config")
    if len(lists) > 1:
        names = " and ".join(display(source.path) for source in lists)
        raise UsageError(f"{names} are two lists of data sets", "import one at a time")
    named = str(given.value) if given is not None and given.value else DATA_NAME
    found = lists[0] if lists else None
    if found is None:
        path = _existing(c, named)
        if path is None:
            hint = "name it too: simpletune import CONFIG DATA, or say with --root where SimpleTuner was started"
            raise UsageError(f"the data file {quoted_path(c.paths.place(named))} does not exist", hint)
        found = read(path)
    if not isinstance(found.value, list):
        raise UsageError(f"{display(found.path)} holds no list of data sets", "it begins with [ in SimpleTuner")
    if given is not None:
        c.put(given, "data_backend_config", DATA_FILE, f"written anew from {found.name}", is_path=False)
    return found


def _existing(c: Conversion, named: str) -> Path | None:
    """Where a file is that SimpleTuner finds from its working directory or from the folder of its config."""
    folder = c.source.path.parent
    candidates = (c.paths.place(named), folder / named, folder / Path(named).name)
    return next((path for path in candidates if path.is_file()), None)


def _lycoris_source(c: Conversion, lora_type: str | None) -> Source | None:
    """The file that says what a LyCORIS is, which is taken as it is.

    Raises ConfigError with everything in it that can't be trained, UsageError where it is missing.
    """
    kind = c.peek("lora_type")
    if kind is None or str(kind.value).lower() != LYCORIS or lora_type is not None:
        return None
    given = c.take("lycoris_config")
    if given is None:
        return None  # of a configuration of ours, which `validate` tells it of
    path = _existing(c, str(given.value))
    standard = "import with --lora-type standard to train a standard LoRA instead"
    if path is None:
        raise UsageError(f"the LyCORIS config {quoted_path(c.paths.place(str(given.value)))} does not exist", standard)
    source = read(path)
    wrong = [
        source.problem(fault.path, fault.message, fault.hint, on_key=fault.on_key)
        for fault in faults(source.value)
        if not fault.warning
    ]
    if wrong:
        raise ConfigError(f"{display(path)} can't be imported; {standard}", problems=wrong)
    c.put(given, "lycoris_config", LYCORIS_FILE, f"a copy of {source.name}", is_path=False)
    return source


def _prompts_source(c: Conversion, others: Sequence[Source]) -> Source | None:
    found = next((source for source in others if is_prompts(source)), None)
    for key in ("user_prompt_library", "validation_prompts_file"):
        given = c.peek(key)
        if given is None or not isinstance(given.value, str) or not given.value.strip():
            continue
        if not is_off(c.value("validation_disable")):
            continue
        c.take(key)
        path = found.path if found is not None else _existing(c, given.value)
        if path is None:
            c.drop(given, f"there is no file {c.paths.place(given.value)}")
            continue
        found = found or read(path)
        note = f"written anew from {found.name}"
        c.put(given, "validation_prompts_file", PROMPTS_FILE, note, is_path=False)
    if found is not None and "validation_prompts_file" not in c.out:
        c.default("validation_prompts_file", PROMPTS_FILE, f"{found.name} was given")
    return found


def _prompts(source: Source | None, c: Conversion) -> tuple[dict[str, str], tuple[Line, ...]]:
    """The prompts by names that can be part of a file's name, and a line for each."""
    if source is None or not isinstance(source.value, dict):
        return {}, ()
    prompts: dict[str, str] = {}
    lines: list[Line] = []
    for name, given in source.value.items():
        text = given.get("prompt") if isinstance(given, dict) else given
        if not isinstance(text, str) or not text.strip() or holds_token(text):
            lines.append(Line(source.name, name, DROPPED, note="it holds no prompt"))
            continue
        ours = _prompt_name(name, {*prompts, *(["prompt"] if c.out.get("validation_prompt") else [])})
        prompts[ours] = text
        action = KEPT if ours == name and text == given else CONVERTED
        note = "pictures are called by it, so it must be plain and its own" if ours != name else None
        lines.append(Line(source.name, name, action, ours, text, note))
    if not prompts:
        c.without_effect("validation_prompts_file", f"{source.name} holds no prompts")
    return prompts, tuple(lines)


def _prompt_name(name: str, used: set[str]) -> str:
    plain = re.sub(r"[^\w .-]+", "-", name).strip()[:70]
    plain = plain if re.match(r"\w", plain) else f"p{plain}"
    ours, number = plain, 2
    while ours in used:
        ours, number = f"{plain}-{number}", number + 1
    return ours


# --- the result as a whole


@dataclass
class _Whole:
    """All of ours together, checked before a byte is written."""

    config: Conversion
    sets: list[Conversion]
    config_source: Source
    data_source: Source
    planned: Mapping[Path, bytes]  # what is written beside config.json and the data sets

    def refuse_bad_values(self) -> None:
        """Raise ConfigError for values that are no values of their keys, at their places in the source."""
        config, data = check_config(self._from_source()), check_data(self._data_from_source())
        found = [one for part in (config, data) for one in sorted(part, key=lambda one: (one.line, one.column))]
        if found:
            count = f"{len(found)} value{'s' * (len(found) != 1)}"
            hint = "correct them in a copy of SimpleTuner's files and import that"
            raise ConfigError(f"{count} can't be imported", hint, found)

    def _from_source(self) -> Document:
        """Our config.json with the places of SimpleTuner's."""
        file = self.config_source.file
        return _with_places(file, self.config.out, {(key,): path for key, path in self.config.places.items()})

    def _data_from_source(self) -> Document:
        places: dict[JsonPath, JsonPath] = {}
        for index, one in enumerate(self.sets):
            places[(index,)] = one.path
            places.update({(index, key): path for key, path in one.places.items()})
        return _with_places(self.data_source.file, self._entries(), places)

    def drop_what_has_no_effect(self) -> None:
        """Take keys back that the rules call useless: SimpleTuner's files spell out much that is switched off."""
        while True:
            found = [(one, m[1]) for one in self._check() if (m := _NO_EFFECT.match(one.message))]
            for problem, reason in found:
                index, _, key = problem.path.rpartition(".")
                (self.sets[int(index)] if index else self.config).without_effect(key, f"no effect {reason}")
            if not found:
                return

    def problems(self) -> list[Problem]:
        """What `validate` will say of the result."""
        return self._check()

    def _check(self) -> list[Problem]:
        whole = self._view()
        found = [
            *check_config(whole.config.document),
            *config_problems(whole),
            *prompts_problems(whole),
            *adapter_problems(whole),
            *forward_problems(whole),
            *offload_problems(whole),
            *environment_problems(whole),
        ]
        if whole.data is not None:
            found += check_data(whole.data)
        found += data_problems(whole)
        left = [one for one in found if one.path not in _WRITTEN_HERE]
        unique = dict.fromkeys(sorted(left, key=lambda one: (one.file != display(self._path), one.line, one.column)))
        return sorted(unique, key=lambda one: one.severity != ERROR)

    @property
    def _path(self) -> Path:
        return self.config.paths.output / CONFIG_FILE

    def _view(self) -> View:
        config = _document(self._path, self._config_value(), self.planned)
        data = _document(self._path.with_name(DATA_FILE), self._entries(), self.planned)
        return view(config, data)

    def _config_value(self) -> dict[str, Any]:
        """Our config.json in the order of its reference, with the schema for editors first."""
        given = {**self.config.out, SCHEMA_KEY: schema_reference(), "data_backend_config": DATA_FILE}
        return {key: given[key] for key in config_keys() if key in given}

    def _entries(self) -> list[dict[str, Any]]:
        return [{key: one.out[key] for key in one.schema if key in one.out} for one in self.sets]

    def contents(self, prompts: Mapping[str, str]) -> dict[Path, bytes]:
        folder = self.config.paths.output
        contents = {
            self._path: _bytes(self._config_value()),
            folder / DATA_FILE: _bytes(self._entries()),
        }
        if "validation_prompts_file" in self.config.out and prompts:
            contents[folder / PROMPTS_FILE] = _bytes(dict(prompts))
        return {**contents, **schema_copies(folder)}


def _with_places(file: JsonFile, value: Any, places: Mapping[JsonPath, JsonPath]) -> Document:
    """A document of ours whose parts stand where the source has them."""

    def table(source: Mapping[JsonPath, Position]) -> dict[JsonPath, Position]:
        return {ours: source[theirs] for ours, theirs in {(): (), **places}.items() if theirs in source}

    values = table(file.values)
    return Document(replace(file, value=value, keys=table(file.keys), values=values), value)


def _document(path: Path, value: Any, planned: Mapping[Path, bytes]) -> Document:
    file = jsonfile.parse(path, _bytes(value))
    return Document(file, file.value, planned=planned)


def _bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111
