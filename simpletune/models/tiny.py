"""The built-in `tiny` flavour: a real SD3 pipeline, small enough for a laptop, built here when first used."""

from __future__ import annotations

import os
from pathlib import Path

from simpletune.errors import UsageError
from simpletune.models import builder

VERSION = "1"
"""Part of the folder's name; the identities of text encoders and VAE hold their files' digests besides."""


def tiny_folder() -> Path:
    """The tiny model's pipeline folder, built if it isn't there; two processes at once end with the same folder."""
    folder = cache_root() / f"tiny-{VERSION}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _build_unless_another_does(folder)
    return folder


def build_tiny(folder: Path) -> None:
    """Write the tiny pipeline folder, in fp32, with weights that depend on nothing but `VERSION`."""
    builder.build(folder, "tiny", dtype="fp32")


def cache_root() -> Path:
    """Where things made once for this user are kept: $SIMPLETUNE_CACHE, else simpletune in the platform's cache."""
    own = os.environ.get("SIMPLETUNE_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache"
    return Path(base).expanduser() / "simpletune"


def _build_unless_another_does(folder: Path) -> None:
    try:
        build_tiny(folder)
    except (OSError, UsageError):
        if not folder.exists():  # else another process finished first: its folder is the same
            raise
