"""Everything that is wrong with the two files, at once, before anything heavy is loaded.

    read both -> put --set over them -> schema -> rules across keys -> what this machine lacks

Pictures themselves are looked at by data/preflight.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simpletune.config.check import check_config, check_data, label
from simpletune.config.document import Document, Planned
from simpletune.config.jsonfile import JsonPath
from simpletune.config.overrides import apply_to_config, apply_to_data, is_for_data
from simpletune.config.problems import ERROR, Problem, errors, render, render_all
from simpletune.config.rules import config_problems
from simpletune.config.rules_adapter import adapter_problems
from simpletune.config.rules_data import data_problems
from simpletune.config.rules_environment import environment_problems
from simpletune.config.rules_forward import forward_problems
from simpletune.config.rules_offload import offload_problems
from simpletune.config.rules_prompts import prompts_problems
from simpletune.config.view import View, view
from simpletune.redact import holds_password, looks_like_token

__all__ = ["Checked", "Problem", "check", "errors", "exit_code", "render", "render_all", "validate_files"]


_JUDGED_ELSEWHERE = frozenset({"s3_url", "s3_endpoint"})
"""Keys for addresses of which a rule of their own says what is to be done instead."""
_ADDRESS = "no secret stands in these files: set HF_ENDPOINT in the environment, or leave the name and password out"


@dataclass(frozen=True)
class Checked:
    """Both files with what is wrong with them; `view` is whole when there is no error."""

    view: View
    problems: tuple[Problem, ...]


def validate_files(config_path: Path, overrides: Sequence[str] = ()) -> list[Problem]:
    """Every problem of config.json and the data file it names, in the order they stand."""
    return list(check(config_path, overrides).problems)


def check(config_path: Path, overrides: Sequence[str] = (), planned: Planned | None = None) -> Checked:
    """Read and check both files; `overrides` are `key=value` and `dataset.0.key=value`. Raises nothing.

    `planned` are contents, by absolute path, that are checked in place of what is on disk.
    """
    config = Document.open(Path(config_path), planned)
    problems = config.syntax_problems()
    problems += apply_to_config(config, [text for text in overrides if not is_for_data(text)])
    problems += _tokens(config)
    problems += check_config(config)
    data, found = _open_data(view(config, None), [text for text in overrides if is_for_data(text)])
    problems += found
    whole = view(config, data)
    if isinstance(config.value, dict) and not config.file.partial:
        problems += [*config_problems(whole), *prompts_problems(whole)]
        problems += [*adapter_problems(whole), *forward_problems(whole), *offload_problems(whole)]
        problems += environment_problems(whole)
    if not config.file.partial and (data is None or not data.file.partial):
        problems += data_problems(whole)
    return Checked(whole, _in_order(problems, config.name))


def exit_code(problems: Sequence[Problem]) -> int:
    """0 without errors, 2 when a file must be changed, 3 when only this machine or a model is not ready."""
    kinds = {problem.kind for problem in errors(problems)}
    return 2 if "config" in kinds else 3 if kinds else 0


def _open_data(alone: View, overrides: Sequence[str]) -> tuple[Document | None, list[Problem]]:
    config = alone.config
    path = config.path("data_backend_config")
    unknown = config.document.file.partial and not config.given("data_backend_config")
    if path is None or unknown or not config.fine("data_backend_config") or () in config.document.bad:
        return None, []
    planned = config.document.planned
    if path not in planned and not _is_file(path):
        return None, []  # named_paths_exist says so
    data = Document.open(path, planned)
    problems = data.syntax_problems()
    problems += apply_to_data(data, overrides)
    problems += _tokens(data)
    problems += check_data(data)
    return data, problems


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _tokens(document: Document) -> Iterator[Problem]:
    """Values and names that look like an access token; the messages hold no part of them."""
    hint = "tokens never stand in these files: run `hf auth login`, or set HF_TOKEN; revoke one that was shared"
    for path, text, is_key in _texts(document.value, ()):
        what = "this key" if is_key else label(path) if any(isinstance(part, str) for part in path) else "this item"
        name = next((part for part in reversed(path) if isinstance(part, str)), "")
        if holds_password(text):
            if name not in _JUDGED_ELSEWHERE:
                message = f"{what} holds an address with a name or password"
                yield document.problem(path, message, _ADDRESS, on_key=is_key)
        elif looks_like_token(text) or (not is_key and looks_like_token(f"{name}: {text}")):
            message = f"{what} holds something that looks like an access token"
            yield document.problem(path, message, hint, on_key=is_key)


def _texts(value: Any, path: JsonPath) -> Iterator[tuple[JsonPath, str, bool]]:
    """Every text in a value with its path, and whether it is a key."""
    if isinstance(value, str):
        yield path, value, False
    elif isinstance(value, dict):
        for key, inner in value.items():
            if looks_like_token(key):
                yield (*path, key), key, True
            yield from _texts(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*path, index))


def _in_order(problems: Sequence[Problem], first: str) -> tuple[Problem, ...]:
    """By file (config.json first, --set last) and place, each once."""

    def place(problem: Problem) -> tuple[int, str, int, int]:
        rank = 2 if problem.file.startswith("--set") else int(problem.file != first)
        return rank, problem.file, problem.line, problem.column

    unique = dict.fromkeys(sorted(problems, key=place))
    return tuple(sorted(unique, key=lambda problem: (*place(problem), problem.severity != ERROR)))
