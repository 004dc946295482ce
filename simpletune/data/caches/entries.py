"""Names of cache entries: the keys that hold all that determined them, where they lie, and which are there.

Nothing here opens an entry, so 100,000 of them are looked up in a second. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from simpletune.data.geometry import Placement

PREPARATION = 1
"""Counts up when the pixels made from a file change, so that cached latents of the old ones aren't used."""

SUFFIX = ".safetensors"
_FOLDER = re.compile(r"[0-9a-f]{2}")
_NAME = re.compile(r"[0-9a-f]+" + re.escape(SUFFIX))


def text_key(caption: str, text_identity: str) -> str:
    """Names a caption's encoding. `text_identity`: encoders, precisions, token length, dtype (Family.text_identity)."""
    return _key("text", caption, text_identity)


def latent_key(image_sha256: str, placement: Placement, vae_identity: str) -> str:
    """Names a picture's latent: its file's bytes, what is cut out of it at which size, and the VAE with its dtype."""
    mirrored = ["mirrored"] if placement.mirrored else []
    return _key("latent", PREPARATION, image_sha256, placement.resized, placement.crop, vae_identity, *mirrored)


def entry_path(folder: str | os.PathLike[str], key: str) -> Path:
    """Where the entry of `key`, a hex digest, lies or would lie: in one of 256 folders, by its first two digits."""
    return Path(folder, key[:2], key + SUFFIX)


def listed(folder: Path) -> set[str]:
    """The keys of all entries that are there, sound or damaged, by their names alone; () where there is no folder."""
    keys: set[str] = set()
    for shelf in shelves(folder):
        with os.scandir(shelf) as files:
            keys.update(file.name[: -len(SUFFIX)] for file in files if is_entry(shelf.name, file.name))
    return keys


def shelves(folder: Path) -> list[Path]:
    """The folders that hold entries, in order."""
    try:
        with os.scandir(folder) as found:
            return sorted(folder / each.name for each in found if _FOLDER.fullmatch(each.name) and each.is_dir())
    except FileNotFoundError:
        return []


def is_entry(shelf: str, name: str) -> bool:
    """Whether a file of this name is an entry of the folder named `shelf`."""
    return name.startswith(shelf) and _NAME.fullmatch(name) is not None


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
