"""Where things made once for this user are kept, the built-in model among them. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

TINY_VERSION = "1"
"""Part of the tiny model's folder name; the identities of its parts hold their files' digests besides."""


def cache_root() -> Path:
    """$SIMPLETUNE_CACHE, else simpletune in the platform's cache."""
    own = os.environ.get("SIMPLETUNE_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache"
    return Path(base).expanduser() / "simpletune"


def tiny_path() -> Path:
    """The built-in tiny model's folder, which is made when the model is first used."""
    return cache_root() / f"tiny-{TINY_VERSION}"
