"""Finding and reading SimpleTuner's files: config.json, config.toml or config.env, the data sets, a list of prompts.

Whatever the format, a file becomes a `Source`: a plain value, and the place of each part for messages.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simpletune.config import jsonfile
from simpletune.config.document import Document, display
from simpletune.config.jsonfile import JsonFile, JsonPath, Position
from simpletune.config.problems import WARNING, Problem, quoted_path, tidy
from simpletune.config.schema import config_keys
from simpletune.config.simpletuner_keys import ENVIRONMENT, ENVIRONMENT_FAMILIES, RENAMED, why_dropped
from simpletune.config.simpletuner_values import is_off
from simpletune.errors import ConfigError, UsageError

CONFIG_NAMES = ("config.json", "config.toml", "config.env")
DATA_NAME = "multidatabackend.json"
# What the JSON reader reports and the meaning is clear of all the same.
_HARMLESS = ('a "," too many', "JSON has no comments")


@dataclass(frozen=True)
class Source:
    """A file that was read. `inside` is where its content begins: ("config",) in SimpleTuner's wrapper."""

    file: JsonFile
    value: Any
    inside: JsonPath = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def name(self) -> str:
        return self.path.name

    def problem(self, path: JsonPath, message: str, hint: str | None = None, *, on_key: bool = False) -> Problem:
        """An error at a place of the content."""
        return Document(self.file, None).problem((*self.inside, *path), message, hint, on_key=on_key)


def find(paths: Sequence[Path]) -> tuple[Source, list[Source]]:
    """The configuration among `paths`, and the other files that were named; a folder stands for the config in it.

    Raises UsageError when there is none or more than one, ConfigError when a file can't be read.
    """
    read_ones = [read(path) for path in _files(paths)]
    configs = [source for source in read_ones if is_config(source)]
    if not configs:
        names = " and ".join(display(source.path) for source in read_ones)
        message = (
            f"{names} {'is' if len(read_ones) == 1 else 'are'} no configuration: what model to train is said nowhere"
        )
        raise UsageError(message, "name SimpleTuner's config.json too, or the folder it is in")
    if len(configs) > 1:
        names = " and ".join(display(source.path) for source in configs)
        raise UsageError(f"{names} are two configurations", "import one at a time")
    return configs[0], [source for source in read_ones if source is not configs[0]]


def is_config(source: Source) -> bool:
    """Whether a file holds options rather than data sets or prompts."""
    if not isinstance(source.value, dict):
        return False
    return source.path.suffix in {".toml", ".env"} or not is_prompts(source)


def is_prompts(source: Source) -> bool:
    """Whether a file is a list of prompts: names with texts, none of which is an option."""
    value = source.value
    if not isinstance(value, dict) or not all(isinstance(prompt, str | dict) for prompt in value.values()):
        return False
    return bool(value) and not any(_is_option(name) for name in value)


def _is_option(name: str) -> bool:
    key = name.lstrip("-")
    return name.startswith("--") or key in config_keys() or key in RENAMED or why_dropped(key) is not None


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for named in paths:
        path = Path(os.path.expanduser(named))  # noqa: PTH111
        if not path.is_dir():
            yield path
            continue
        found = [where / name for where in (path, path / "config") for name in CONFIG_NAMES if (where / name).is_file()]
        if not found:
            inner = sorted(
                display(one)
                for name in CONFIG_NAMES
                for one in [*path.glob(f"*/{name}"), *path.glob(f"config/*/{name}")]
            )
            hint = f"name one: {', '.join(inner[:5])}" if inner else "name the file itself"
            raise UsageError(
                f"there is no {', '.join(CONFIG_NAMES[:-1])} or {CONFIG_NAMES[-1]} in {quoted_path(path)}", hint
            )
        yield found[0]


def read(path: Path) -> Source:
    """Read a file by its kind. Raises ConfigError with every problem of its text."""
    if path.suffix == ".toml":
        return _toml(path)
    if path.suffix == ".env":
        return _env(path)
    file = jsonfile.read(path)
    found = Document(file, None).syntax_problems()
    harmless = [one.message.startswith(_HARMLESS) for one in file.problems]
    warnings = tuple(
        tidy(Problem(one.file, one.line, one.column, one.path, one.message, None, WARNING, excerpt=one.excerpt))
        for one, clear in zip(found, harmless, strict=True)
        if clear
    )
    broken = [one for one, clear in zip(found, harmless, strict=True) if not clear]
    if broken:
        raise ConfigError(f"{display(path)} can't be read", "correct it and import again", [*broken, *warnings])
    value, inside = _unwrapped(file.value)
    if not isinstance(value, dict | list):
        raise UsageError(f"{display(path)} holds neither options nor data sets", "name SimpleTuner's config.json")
    return Source(file, value, inside, warnings)


def _unwrapped(value: Any) -> tuple[Any, JsonPath]:
    """The content inside {"_metadata": ..., "config": {...}} or {"_metadata": ..., "datasets": [...]}."""
    if isinstance(value, dict):
        if isinstance(value.get("datasets"), list):
            return value["datasets"], ("datasets",)
        if isinstance(value.get("config"), dict) and set(value) <= {"_metadata", "config"}:
            return value["config"], ("config",)
    return value, ()


# --- config.toml


def _toml(path: Path) -> Source:
    text = _text(path)
    try:
        # Dates and NaN, which JSON has none of, become text.
        value = json.loads(json.dumps(tomllib.loads(text), default=str), parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{display(path)} can't be read: {error}", "correct it and import again") from error
    value, inside = _unwrapped(value)
    return Source(_placed(path, text, value, r'^\s*["\']?{}["\']?\s*='), value, inside)


# --- config.env


def _env(path: Path) -> Source:
    """Variables by the options they stand for; TRAINER_EXTRA_ARGS holds further ones as a command line."""
    text = _text(path)
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        found = re.fullmatch(r"\s*(?:export\s+)?([A-Za-z_]\w*)(\+?)=(.*)", line.rstrip("\r"))
        if found:
            name, more, raw = found.groups()
            filled = _filled(_shell_value(raw), values)
            values[name] = f"{values.get(name, '')} {filled}" if more else filled
            lines[name] = number
    options = _options(values)
    keys: dict[JsonPath, Position] = {(option,): Position(lines[name], 1) for option, (name, _) in options.items()}
    file = JsonFile(path, None, (), keys, keys, lines=tuple(text.split("\n")))
    return Source(file, {option: value for option, (_, value) in options.items()})


def _options(values: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Option -> (variable, value)."""
    options: dict[str, tuple[str, str]] = {}
    for variable, value in values.items():
        if variable in ENVIRONMENT_FAMILIES:
            if not is_off(value):
                options["model_family"] = variable, ENVIRONMENT_FAMILIES[variable]
        elif variable.endswith("_EXTRA_ARGS") and variable != "ACCELERATE_EXTRA_ARGS":
            for option, given in _arguments(value):
                options[option] = variable, given
        else:
            options[ENVIRONMENT.get(variable, variable.lower())] = variable, value
    return options


def _arguments(text: str) -> Iterator[tuple[str, str]]:
    """`--a=1 --b 2 --c` as pairs; a flag alone is true."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    for index, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            following = words[index + 1] if index + 1 < len(words) else "--"
            yield name, value if equals else "true" if following.startswith("--") else following


def _shell_value(raw: str) -> str:
    """What a shell would assign: quotes taken off, a comment behind it left out."""
    try:
        words = shlex.split(raw, comments=True)
    except ValueError:
        return raw.strip()
    return words[0] if words else ""


def _filled(value: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda found: known.get(found[1], ""), value)


def _text(path: Path) -> str:
    """A file's text. Raises UsageError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{display(path)} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{display(path)} is not UTF-8", "save it again with the encoding UTF-8") from error


def _placed(path: Path, text: str, value: Mapping[str, Any], shape: str) -> JsonFile:
    """A file of another format with the lines its keys stand on, found by `shape`."""
    lines = tuple(text.splitlines())
    keys: dict[JsonPath, Position] = {}
    for key in value:
        pattern = re.compile(shape.format(re.escape(key)))
        number = next((n for n, line in enumerate(lines, 1) if pattern.match(line)), None)
        if number is not None:
            keys[(key,)] = Position(number, len(lines[number - 1]) - len(lines[number - 1].lstrip()) + 1)
    return JsonFile(path, None, (), keys, keys, lines=lines)
