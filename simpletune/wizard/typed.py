"""What somebody typed or pasted, as it was meant, and what is wrong with it."""

from __future__ import annotations

import os
import re
import unicodedata

from simpletune.wizard.screen import Screen


def judged(screen: Screen, typed: str) -> tuple[str, str | None]:
    """The answer to `screen` that `typed` means, and what is wrong with it.

    It is one line without blanks around it. Control characters, and bytes that are no text in the terminal's encoding
    (Python reads them as half surrogates), are refused before the screen's own check sees them.
    """
    text = " ".join(typed.splitlines()).strip()
    text = dragged(text) if screen.path else text
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        return text, "it holds a character that is not text"
    return text, screen.check(text) if screen.check else None


def dragged(path: str) -> str:
    """A path as it was meant: file managers put quotes around one, terminals a backslash before each special character.

    A backslash before a letter or digit stays, because Windows has them between folders.
    """
    if len(path) >= 2 and path[0] == path[-1] and path[0] in "\"'":
        return path[1:-1]
    return path if os.sep == "\\" else re.sub(r"\\([^\w\\])", r"\1", path)
