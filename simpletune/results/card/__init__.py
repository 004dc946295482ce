"""The model card of a finished run: README.md in the run's folder, as the hub shows it.

    facts      what is known, read from the run's folder        licence    whose terms go with it
    gallery    the pictures, copied small into card/            metadata   the YAML at the top
    usage      the program that uses the adapter                tables, scores, body: the text

A card is made of the final adapter alone. One that somebody has changed is theirs, and is left as it is.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from simpletune import files
from simpletune.redact import redact
from simpletune.results.card.body import body
from simpletune.results.card.facts import Facts, gather_facts
from simpletune.results.card.gallery import Shown, make_pictures
from simpletune.results.card.licence import licence_of
from simpletune.results.card.metadata import as_yaml, metadata
from simpletune.results.card.usage import HERE

FILE = "README.md"
_SIGNED = re.compile(r"\n<!-- card ([0-9a-f]{16}): [^\n]*-->\n\Z")
_REMARK = "written by simpletune; once you change this file it stays as it is"


@dataclass(frozen=True)
class Card:
    """The card's file, its pictures relative to the run's folder, and whether it was somebody's own and left alone."""

    path: Path
    pictures: tuple[str, ...]
    kept: bool


def write_card(folder: Path, repo_id: str | None = None) -> Card:
    """Write the card of the finished run in `folder`; with `repo_id` its program takes the adapter from there.

    Raises UsageError when there is no finished run.
    """
    facts = gather_facts(folder)
    pictures = make_pictures(facts)
    path = facts.run.folder / FILE
    names = tuple(name for one in pictures for name in (one.base, one.tuned) if name is not None)
    if path.exists() and not is_ours(path):
        return Card(path, names, kept=True)
    files.write_text(path, card_text(facts, pictures, repo_id))
    return Card(path, names, kept=False)


def card_text(facts: Facts, pictures: tuple[Shown, ...], repo_id: str | None = None) -> str:
    """The whole card, signed with its digest."""
    licence = licence_of(facts.base)
    top = as_yaml(metadata(facts, pictures, licence))
    text = redact(f"---\n{top}\n---\n\n{body(facts, pictures, licence, repo_id or HERE)}\n")
    return f"{text}\n<!-- card {_digest(text)}: {_REMARK} -->\n"


def is_ours(path: Path) -> bool:
    """Whether a README.md is a card as it was written here, not changed since."""
    try:
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return False
    signed = _SIGNED.search(text)
    return signed is not None and _digest(text[: signed.start()]) == signed[1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
