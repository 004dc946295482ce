"""How people mistype a name: one slip each, drawn by a seed, never one of the names that exist."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

_ROWS = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEXT_TO = {
    key: [near for near in (*_ROWS[row][max(0, at - 1) : at], *_ROWS[row][at + 1 : at + 2]) if near]
    for row in range(len(_ROWS))
    for at, key in enumerate(_ROWS[row])
}


def transposed(name: str, draw: random.Random) -> str | None:
    places = [at for at in range(len(name) - 1) if name[at] != name[at + 1]]
    if not places:
        return None
    at = draw.choice(places)
    return name[:at] + name[at + 1] + name[at] + name[at + 2 :]


def dropped(name: str, draw: random.Random) -> str | None:
    letters = [at for at, letter in enumerate(name) if letter.isalnum()]
    at = draw.choice(letters)
    return name[:at] + name[at + 1 :] if len(name) > 2 else None


def doubled(name: str, draw: random.Random) -> str | None:
    letters = [at for at, letter in enumerate(name) if letter.isalpha()]
    at = draw.choice(letters)
    return name[:at] + name[at] + name[at:]


def neighbour(name: str, draw: random.Random) -> str | None:
    """The key beside the one that was meant."""
    letters = [at for at, letter in enumerate(name) if letter in _NEXT_TO]
    at = draw.choice(letters)
    return name[:at] + draw.choice(_NEXT_TO[name[at]]) + name[at + 1 :]


def joined(name: str, draw: random.Random) -> str | None:
    """An underscore is missing."""
    places = [at for at, letter in enumerate(name) if letter == "_"]
    if not places:
        return None
    at = draw.choice(places)
    return name[:at] + name[at + 1 :]


def plural(name: str, _draw: random.Random) -> str | None:
    """The last word in the plural, or in the singular where it was in the plural."""
    return name[:-1] if name.endswith("s") else name + "s"


def hyphens(name: str, _draw: random.Random) -> str | None:
    return name.replace("_", "-") if "_" in name else None


def camel_case(name: str, _draw: random.Random) -> str | None:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest) if rest else None


SLIPS: Mapping[str, Callable[[str, random.Random], str | None]] = {
    slip.__name__: slip for slip in (transposed, dropped, doubled, neighbour, joined, plural, hyphens, camel_case)
}
