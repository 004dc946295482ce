"""The built-in `tiny` flavour: a real SD3 pipeline, small enough for a laptop, built here when first used."""

from __future__ import annotations

from pathlib import Path

from simpletune.errors import UsageError
from simpletune.machine.user_cache import tiny_path
from simpletune.models import builder


def tiny_folder() -> Path:
    """The tiny model's pipeline folder, built if it isn't there; two processes at once end with the same folder."""
    folder = tiny_path()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _build_unless_another_does(folder)
    return folder


def build_tiny(folder: Path) -> None:
    """Write the tiny pipeline folder, in fp32, with weights that depend on nothing but `TINY_VERSION`."""
    builder.build(folder, "tiny", dtype="fp32")


def _build_unless_another_does(folder: Path) -> None:
    try:
        build_tiny(folder)
    except (OSError, UsageError):
        if not folder.exists():  # else another process finished first: its folder is the same
            raise
