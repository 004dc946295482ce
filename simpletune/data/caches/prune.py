"""What is in the folders of a config's caches: what it needs, what others need, and what nobody does any more.

Only entries of ours are ever removed: files with an entry's name whose header has an entry's checksum, and what a
killed writer left of one. Everything else in a folder stays, whatever it is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from simpletune import outside
from simpletune.data.caches.digests import digests
from simpletune.data.caches.encode_text import captions_by_cache
from simpletune.data.caches.entries import SUFFIX, is_entry, latent_key, shelves, text_key
from simpletune.data.caches.users import CAPTIONS, LATENTS, Note, notes, remove_note

if TYPE_CHECKING:
    from simpletune.config.settings import Settings
    from simpletune.data.preflight import Preflight
    from simpletune.models.family import Family, ModelFiles
    from simpletune.progress import Reporter

_LEFTOVER = re.compile(r"\.[0-9a-f]{64}" + re.escape(SUFFIX) + r"\.\w+\.tmp" + re.escape(SUFFIX))
_OLD_SECONDS = 3600.0
"""A temporary file that hasn't changed for so long isn't being written any more."""


@dataclass
class Pile:
    """Some files, and the bytes they take."""

    paths: list[Path] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, path: Path, size_bytes: int) -> None:
        self.paths.append(path)
        self.size_bytes += size_bytes

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class CacheFolder:
    """What is in one folder. Each entry is counted once, under the first of: needed, others, orphans.

    others: what only other configs' last runs needed, by config, with the day of that run. unfinished: other configs
    whose last run here didn't come to an end, so that what they need isn't known. leftovers: of killed writers.
    """

    path: Path
    kinds: tuple[str, ...]
    needed: Pile
    others: Mapping[tuple[Path, str], Pile]
    orphans: Pile
    leftovers: Pile
    unfinished: tuple[Path, ...]
    forgotten: tuple[Note, ...]

    @property
    def entries(self) -> int:
        return len(self.needed) + sum(map(len, self.others.values())) + len(self.orphans)

    @property
    def size_bytes(self) -> int:
        piles = (self.needed, *self.others.values(), self.orphans)
        return sum(pile.size_bytes for pile in piles)


@dataclass(frozen=True)
class Need:
    """The entries that a config needs in one folder, and of which kinds."""

    kinds: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)


def needs(
    settings: Settings, preflight: Preflight, family: Family, files: ModelFiles, reporter: Reporter
) -> dict[Path, Need]:
    """What a config needs, by cache folder. Reads the pictures whose digest isn't known yet; encodes nothing.

    Raises DataError when a data set can't be read as a whole.
    """
    samples = [*preflight.training, *preflight.held_out]
    found: dict[Path, Need] = {}
    identity = family.text_identity(files, settings)
    for entry in settings.text_embeds:
        found.setdefault(entry.cache_dir, Need()).kinds.add(CAPTIONS)
    for entry, captions in captions_by_cache(settings, samples).items():
        found[entry.cache_dir].keys.update(text_key(caption, identity) for caption in set(captions))
    folders = {image_set.id: image_set.cache_dir_vae for image_set in settings.image_sets}
    for folder in folders.values():
        found.setdefault(folder, Need()).kinds.add(LATENTS)
    identity = family.vae_identity(files, settings)
    for sample, digest in digests(samples, preflight.sources, preflight.indexes, reporter):
        keys = (latent_key(digest, placement, identity) for placement in sample.placements)
        found[folders[sample.set_id]].keys.update(keys)
    return found


def look(folder: Path, need: Need, config: Path) -> CacheFolder:
    """Look through one folder of a config's caches."""
    every = notes(folder)
    ours = [note for note in every if note.config == config]
    others = [note for note in every if note.config != config and note.config.is_file()]
    kept = [note for note in ours if note.kind not in need.kinds]  # masks: what the last run used
    piles: dict[tuple[Path, str], Pile] = {}
    needed, orphans, leftovers = Pile(), Pile(), Pile()
    for path, size in _files(folder):
        if path.name.startswith("."):
            leftovers.add(path, size)
            continue
        key = path.name.removesuffix(SUFFIX)
        user = next((note for note in others if note.needs(key)), None)
        if key in need.keys or any(note.needs(key) for note in kept):
            needed.add(path, size)
        elif user is not None:
            piles.setdefault((user.config, user.used), Pile()).add(path, size)
        elif _is_ours(path):
            orphans.add(path, size)
    unfinished = tuple(dict.fromkeys(note.config for note in others if not note.complete))
    forgotten = tuple(note for note in every if note.config != config and not note.config.is_file())
    return CacheFolder(folder, tuple(sorted(need.kinds)), needed, piles, orphans, leftovers, unfinished, forgotten)


def prune(found: Collection[CacheFolder]) -> Pile:
    """Remove the orphans, leftovers and notes of configs that are gone; gives what was removed.

    Folders with another config's unfinished run are passed over. What can't be removed stays.
    """
    removed = Pile()
    for folder in removable(found):
        for pile in (folder.orphans, folder.leftovers):
            for path in pile.paths:
                with suppress(OSError):
                    size = path.stat().st_size
                    path.unlink()
                    removed.add(path, size)
        for note in folder.forgotten:
            with suppress(OSError):
                remove_note(folder.path, note)
    return removed


def removable(found: Iterable[CacheFolder]) -> list[CacheFolder]:
    """The folders of which it is known what everybody needs."""
    return [folder for folder in found if not folder.unfinished]


def _files(folder: Path) -> Iterable[tuple[Path, int]]:
    """Entries, and what killed writers left of some; with their sizes, in order."""
    now = time.time()
    for shelf in shelves(folder):
        for path in sorted(shelf.iterdir()):
            if is_entry(shelf.name, path.name) or _LEFTOVER.fullmatch(path.name):
                with suppress(OSError):
                    status = path.lstat()
                    if not path.name.startswith(".") or now - status.st_mtime > _OLD_SECONDS:
                        yield path, status.st_size


def _is_ours(path: Path) -> bool:
    """Whether a file with an entry's name has an entry's checksum in its header."""
    with suppress(OSError, ValueError, AttributeError):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = outside.parse_json(file.read(min(length, 1 << 20)))
        return "sha256" in header.get("__metadata__", {})
    return False
