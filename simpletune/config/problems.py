"""What is wrong with the two files, and how it is shown: one line with the place, the source line, a caret, a hint."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from simpletune.redact import REDACTED, redact

ERROR, WARNING = "error", "warning"
EXCERPT_WIDTH = 100
_SECRET_VALUE = re.compile(
    r"""(["'](?:[^"']*(?:secret|password|access_key)[^"']*|(?:[^"']*_)?token)["']\s*:\s*)"""
    r"""(?:"(?:[^"\\]|\\.)*"?|'[^']*'?)""",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    `file` is as a person would name it ("config.json", or "--set lora_rank" for an override); `line` and `column`
    count from 1, 0 when there is no place. `path` is the key, with dots ("0.repeats"). `kind` decides the exit code:
    config 2, environment and model 3. `excerpt` is the source line; `render` redacts it.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    hint: str | None = None
    severity: str = ERROR
    kind: str = "config"
    excerpt: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `validate --json`: file, line, column, path, message, hint, severity."""
        return {key: value for key, value in asdict(self).items() if key not in {"kind", "excerpt"}}


def tidy(problem: Problem) -> Problem:
    """`problem` with access tokens and characters that would disturb a terminal replaced everywhere."""
    return replace(
        problem,
        file=shown(redact(problem.file)),
        path=shown(redact(problem.path)),
        message=shown(redact(problem.message)),
        hint=None if problem.hint is None else shown(redact(problem.hint)),
    )


def quoted_path(path: Path) -> str:
    """A path as it stands in a message: whole, because a cut one can't be looked up."""
    return f'"{path}"'


def _marked(line: str, column: int) -> list[str]:
    """The part of a source line around `column` without secrets, and a caret below it; nothing for a blank line."""
    before, whole = _without_secrets(line[: column - 1]), _without_secrets(line)
    clean = "".join(c if c.isprintable() else " " for c in whole).rstrip()
    if not clean.strip():
        return []
    caret = len(before)
    start = 0
    if len(clean) > EXCERPT_WIDTH:
        start = max(0, min(caret - EXCERPT_WIDTH // 2, len(clean) - EXCERPT_WIDTH))
    part = clean[start : start + EXCERPT_WIDTH]
    return [f"  {part}", f"  {' ' * _width(clean[start:caret])}^"]


def _without_secrets(line: str) -> str:
    """A source line without tokens, and without the values of keys that are called secrets."""
    return redact(_SECRET_VALUE.sub(rf'\1"{REDACTED}"', line))


def render(problem: Problem) -> str:
    """The problem as compilers print theirs:

    config.json:4:3: error: unknown key "lora_rnk"; did you mean "lora_rank"?
        "lora_rnk": 16,
        ^
    hint: ...
    """
    place = f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file
    lines = [f"{place}: {problem.severity}: {problem.message}"]
    lines += _marked(problem.excerpt, problem.column)
    if problem.hint:
        lines.append(f"hint: {problem.hint}")
    return "\n".join(lines)


def render_all(problems: Iterable[Problem]) -> str:
    return "\n".join(render(problem) for problem in problems)


def errors(problems: Iterable[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.severity == ERROR]


def shown(text: str) -> str:
    """`text` with control characters and half surrogates as escapes; line breaks too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def quoted(value: Any) -> str:
    """A JSON value as it stands in a message: as JSON, cut when long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _width(text: str) -> int:
    """Terminal columns of `text`: East Asian wide characters and emoji take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
