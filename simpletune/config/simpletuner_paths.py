"""Paths of SimpleTuner's files, which mean its working directory, as paths that mean the same place in ours."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from simpletune.redact import looks_like_token

_VARIABLE = re.compile(r"\{env:([^{}]*)\}")


def guessed_root(config_path: Path) -> tuple[Path, str]:
    """The folder SimpleTuner was started in, as far as its file tells, and why this one: it looks into ./config/."""
    folder = Path(os.path.abspath(config_path)).parent  # noqa: PTH100
    for above in (folder, *folder.parents):
        if above.name == "config":
            return above.parent, f"the folder that holds {above.name}/"
    return folder, f"the folder of {config_path.name}"


@dataclass(frozen=True)
class Paths:
    """`root` is what relative paths meant there, `output` the folder of our files; both absolute."""

    root: Path
    output: Path
    environment: Mapping[str, str]

    def rewritten(self, text: str) -> tuple[str, str | None]:
        """A path for our files that leads where `text` led, and a word on what can't be filled in."""
        filled, missing = self._filled(text.strip())
        note = f"{{env:{missing}}} is not set here" if missing else None
        if filled.startswith(("~", "{output_dir}", "{env:")) or _is_absolute(filled):
            return filled, note
        target = self.place(filled)
        if self.output.is_relative_to(self.root):
            return Path(os.path.relpath(target, self.output)).as_posix(), note
        return str(target), note

    def place(self, text: str) -> Path:
        """Where a path led, as an absolute path."""
        filled = os.path.expanduser(self._filled(text.strip())[0])  # noqa: PTH111
        return Path(os.path.normpath(self.root / filled))

    def _filled(self, text: str) -> tuple[str, str | None]:
        """`text` with {env:NAME} filled in, but for those that are not set or hold a token; the last such."""
        missing: str | None = None

        def value(found: re.Match[str]) -> str:
            nonlocal missing
            given = self.environment.get(found[1], "")
            if not given or looks_like_token(given):
                missing = found[1]
                return found[0]
            return given

        return _VARIABLE.sub(value, text), missing


def _is_absolute(text: str) -> bool:
    return Path(text).is_absolute() or PureWindowsPath(text).is_absolute()
