"""The prompts pictures are made from, and the names their files get."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from simpletune.config import jsonfile
from simpletune.config.problems import shown
from simpletune.config.schema import config_keys
from simpletune.data.captions.texts import decode_text, is_unicode
from simpletune.errors import UsageError
from simpletune.redact import looks_like_token

_LONGEST_NAME = 60
_LARGEST_FILE = 16 << 20
_PLAIN_NAME = re.compile(r"\w[\w .-]{0,79}")


def named_prompts(prompts: Sequence[str]) -> dict[str, str]:
    """name -> prompt, each different prompt once: "a red parrot" is called a-red-parrot.

    Where a name says less than its prompt (other characters, a long one) a few digits tell it from others that would
    be called the same. So a prompt's name never depends on what else is asked for. Raises UsageError for an empty one.
    """
    return {_name(prompt): prompt for prompt in (_stripped(prompt) for prompt in prompts)}


def read_prompts(path: Path) -> dict[str, str]:
    """The prompts of a file: {"name": "prompt"} as JSON, as for validation_prompts_file, or else a prompt a line.

    Lines are read as captions are, in whatever encoding. Raises UsageError, naming file and line, when the file can't
    be read or holds no prompts.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise UsageError(f"--prompts: {shown(str(path))} can't be read: {error.strerror}", "check the path") from error
    if len(data) > _LARGEST_FILE:
        raise UsageError(f"--prompts: {shown(str(path))} is larger than 16 MB", "name a file of prompts, one a line")
    text, _ = decode_text(data)
    if path.suffix.lower() == ".json" or text.lstrip().startswith("{"):
        prompts = _from_json(path, data)
    else:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        for number, line in lines:
            _check_length(line.strip(), f"{path}:{number}")
        prompts = named_prompts([line for _, line in lines])
    if not prompts:
        raise UsageError(f"--prompts: {shown(str(path))} holds no prompts", "write one a line")
    return prompts


def together(*groups: Mapping[str, str]) -> dict[str, str]:
    """All prompts by their names. Raises UsageError when a name stands for two different prompts."""
    prompts: dict[str, str] = {}
    for group in groups:
        for name, prompt in group.items():
            if prompts.setdefault(name, prompt) != prompt:
                raise UsageError(
                    f"two prompts are called {shown(name)}: {shown(prompts[name])!r} and {shown(prompt)!r}",
                    "give one in the prompts file another name",
                )
    return prompts


def _from_json(path: Path, data: bytes) -> dict[str, str]:
    file = jsonfile.parse(path, data)
    for problem in file.problems:
        where = f"{path}:{problem.position.line}" if problem.position.line else str(path)
        raise UsageError(f"--prompts: {shown(where)}: {problem.message}", problem.hint)
    value = file.value
    if not isinstance(value, Mapping) or not all(isinstance(text, str) and text.strip() for text in value.values()):
        raise UsageError(
            f"--prompts: {shown(str(path))} must hold an object of names and prompts",
            'write for instance {"cat": "a photo of a cat"}, or a prompt a line in a .txt file',
        )
    if len({name.casefold() for name in value}) < len(value):
        message = f"--prompts: {shown(str(path))}: two names differ in capital letters only"
        raise UsageError(message, "some disks take them for the same file: give one another name")
    for name, prompt in value.items():
        place = file.place((name,))
        _check_length(prompt, str(path) if place is None else f"{path}:{place.line}")
        _refuse_tokens(f"{name}: {prompt}")
        if not _PLAIN_NAME.fullmatch(name):
            raise UsageError(
                f"--prompts: {shown(str(path))}: the name {shown(name)!r} can't be part of a file's name",
                "use up to 80 letters, digits, spaces, dots, - and _, beginning with a letter or digit",
            )
    return dict(value)


def _check_length(prompt: str, where: str) -> None:
    longest = config_keys()["validation_prompt"]["maxLength"]
    if len(prompt) > longest:
        raise UsageError(
            f"--prompts: {shown(where)}: the prompt has {len(prompt):,} characters, more than the {longest:,} that are "
            "taken",
            "shorten it: text encoders read its beginning alone",
        )


def _refuse_tokens(text: str) -> None:
    if looks_like_token(text):
        message = "a prompt holds something that looks like an access token"
        raise UsageError(message, "take it out: prompts stand beside pictures and in their files")


def _stripped(prompt: str) -> str:
    text = prompt.strip()
    if not text:
        raise UsageError("--prompt: the prompt is empty", "say what the picture should show")
    _refuse_tokens(text)
    if not is_unicode(text):
        raise UsageError(f"--prompt: {shown(text)!r} holds bytes that are no text", "write it in UTF-8")
    return text


def _name(prompt: str) -> str:
    name = "-".join(re.findall(r"[a-z0-9]+", prompt.lower()))
    if name.replace("-", " ") == prompt and len(name) <= _LONGEST_NAME:
        return name
    digits = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{name[:_LONGEST_NAME].rstrip('-') or 'prompt'}-{digits}"
