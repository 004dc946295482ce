"""What must hold of the file of prompts that sample pictures are made from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from simpletune.config.document import read_planned
from simpletune.config.jsonfile import JsonFile
from simpletune.config.problems import Problem, quoted, quoted_path
from simpletune.config.view import View
from simpletune.redact import looks_like_token

_PLAIN_NAME = re.compile(r"\w[\w .-]{0,79}")


def prompts_problems(whole: View) -> Iterator[Problem]:
    """The prompts file must be {"name": "prompt"}; what is wrong in it is told with the file's own lines."""
    path = whole.config.path("validation_prompts_file") if whole.config.fine("validation_prompts_file") else None
    if path is not None and (path in whole.config.document.planned or path.is_file()):
        yield from _problems(whole, path)


def _problems(whole: View, path: Path) -> Iterator[Problem]:
    file = read_planned(path, whole.config.document.planned)
    for problem in file.problems:
        where = f"{path.name}:{problem.position.line}:{problem.position.column}"
        yield whole.config.error("validation_prompts_file", f"{where}: {problem.message}", problem.hint)
    wrong = not isinstance(file.value, dict) or not all(
        isinstance(prompt, str) and prompt.strip() and name.strip() for name, prompt in file.value.items()
    )
    if not file.problems and (wrong or not file.value):
        message = f"{quoted_path(path)} must hold an object of names and prompts"
        yield whole.config.error("validation_prompts_file", message, 'write for instance {"cat": "a photo of a cat"}')
    elif not file.problems:
        yield from _prompt_problems(whole, path, file)


def _prompt_problems(whole: View, path: Path, file: JsonFile) -> Iterator[Problem]:
    """Pictures are called by the prompts' names, so these must be plain file names, and none may stand twice."""
    longest = whole.config.schema["validation_prompt"]["maxLength"]
    for name, prompt in file.value.items():
        place = file.place((name,))
        where = f"{path.name}:{place.line}:{place.column}" if place is not None else path.name
        if len(prompt) > longest:
            message = f"{where}: the prompt has {len(prompt):,} characters, more than the {longest:,} that are taken"
            yield whole.config.error(
                "validation_prompts_file", message, "shorten it: text encoders read its beginning alone"
            )
        elif looks_like_token(name) or looks_like_token(prompt):
            message = f"{where}: a prompt holds something that looks like an access token"
            yield whole.config.error("validation_prompts_file", message, "take it out: prompts stand beside pictures")
        elif not _PLAIN_NAME.fullmatch(name):
            message = f"{where}: the name {quoted(name)} can't be part of a file's name"
            hint = "use up to 80 letters, digits, spaces, dots, - and _, beginning with a letter or digit"
            yield whole.config.error("validation_prompts_file", message, hint)
        elif name == "prompt" and whole.config["validation_prompt"] is not None:
            message = f'{where}: the name "prompt" is that of "validation_prompt"'
            yield whole.config.error("validation_prompts_file", message, "give it another name")
