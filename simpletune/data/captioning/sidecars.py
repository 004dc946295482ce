"""Captions as .txt files beside the pictures: the one thing that is ever written into a folder of pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from simpletune import files
from simpletune.data.sources import shown, text_name
from simpletune.errors import UsageError


@dataclass
class Sidecars:
    """The text files of one folder of pictures. One that is there is left alone, unless `overwrite`."""

    root: Path
    overwrite: bool = False
    written: set[str] = field(default_factory=set)

    def has(self, name: str) -> bool:
        """Whether a picture needs no caption: its text file is there, empty or not, or has just been written."""
        text_file = text_name(name)
        return text_file in self.written or (not self.overwrite and (self.root / text_file).exists())

    def add(self, captions: Iterable[tuple[str, str]]) -> None:
        """Write the text files of (name, caption) pairs, each whole or not at all.

        Pictures that share a text file get the first one's. Raises UsageError when the folder can't be written to.
        """
        for name, text in captions:
            if self.has(name):
                continue
            path = self.root / text_name(name)
            try:
                files.write_text(path, text + "\n")
            except OSError as error:
                message = f"{shown(str(path))} can't be written: {error.strerror}"
                raise UsageError(message, "leave out --sidecar: captions then go into a file of their own") from error
            self.written.add(text_name(name))

    def finish(self) -> None:
        """All is written already."""

    def pause(self) -> None:
        """All is written already."""
