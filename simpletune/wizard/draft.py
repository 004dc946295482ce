"""Answers kept while they are given, so that Ctrl-C, a lost terminal or a crash loses none.

A draft stands in the user's own state folder (mode 0600), one for each config.json, so that a project's folder holds
nothing unfinished and need not exist yet. It holds answers only; an access token is never accepted as one.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simpletune import files, outside
from simpletune.redact import looks_like_token
from simpletune.wizard.state import Answer

_FORMAT = 1


@dataclass(frozen=True)
class Draft:
    """Answers, and `how` they began: from the files that were there, or afresh (a word of the session's)."""

    answers: Mapping[str, Answer]
    saved: float  # seconds since 1970
    how: str


def state_folder() -> Path:
    """Where this user's drafts are: SIMPLETUNE_STATE, else the platform's folder for such."""
    if named := os.environ.get("SIMPLETUNE_STATE"):
        return Path(named)
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "simpletune"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "simpletune"


def draft_path(config_path: Path) -> Path:
    whole = os.path.realpath(config_path)
    name = hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return state_folder() / "drafts" / f"{name}.json"


def save(config_path: Path, answers: Mapping[str, Answer], how: str) -> bool:
    """Keep the answers; False when the folder can't be written, which must not stop anybody from answering."""
    kept = {
        name: {"value": answer.value, "followed": answer.followed}
        for name, answer in answers.items()
        if not looks_like_token(json.dumps(answer.value))
    }
    path = draft_path(config_path)
    described = {
        "format": _FORMAT,
        "config": os.path.realpath(config_path),
        "saved": time.time(),
        "how": how,
        "answers": kept,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write_private(path, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    except (OSError, ValueError):
        return False
    return True


def load(config_path: Path) -> Draft | None:
    """The draft for a config.json; None without one, or when it can't be read."""
    try:
        described: dict[str, Any] = outside.read_json(draft_path(config_path))
        if described["format"] != _FORMAT or described["config"] != os.path.realpath(config_path):
            return None
        answers = {name: Answer(one["value"], bool(one["followed"])) for name, one in described["answers"].items()}
        return Draft(answers, float(described["saved"]), str(described["how"])) if answers else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def drop(config_path: Path) -> None:
    with suppress(OSError):
        draft_path(config_path).unlink(missing_ok=True)
