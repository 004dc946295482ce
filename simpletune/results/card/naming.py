"""What a run is called where its folder's name goes out: in a card's title, and on the hub."""

from __future__ import annotations

import re
from pathlib import Path

_USUAL = "output"
_LONGEST = 96


def name_of(folder: Path) -> str:
    """A name that the hub takes: the run's folder's; where that is just "output", that of the folder it stands in.

    Nobody's home folder is named; "lora" is what is left then.
    """
    named = folder
    if folder.name == _USUAL:
        named = folder.parent
    if named == Path.home() or not named.name:
        return "lora"
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", named.name)
    plain = re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", plain))[:_LONGEST].strip("-.")
    plain = plain.removesuffix(".git").strip("-.")
    return plain or "lora"
