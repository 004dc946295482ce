"""Completing a path while it is typed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

_MOST = 200  # entries offered: the next letters narrow them down


class PathCompletion(Completer):
    """Offers what lies in the folder that is being typed: folders, and files too if asked for.

    What was typed stays as it is: `~` is not expanded, and the slashes of a URL such as s3://x are left alone.
    Hidden names are offered once a dot was typed.
    """

    def __init__(self, files: bool) -> None:
        self._files = files

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002
        typed = document.text_before_cursor
        head, start = os.path.split(typed)
        for name, is_folder in self._entries(Path(head or "."), start):
            yield Completion(
                name + (os.sep if is_folder else ""),
                start_position=-len(start),
                display=name + ("/" if is_folder else ""),
            )

    def _entries(self, folder: Path, start: str) -> list[tuple[str, bool]]:
        """Names that continue `start`, in any case, folders first; empty where nothing can be listed."""
        found = []
        try:
            with os.scandir(folder.expanduser()) as entries:
                for entry in entries:
                    if not entry.name.lower().startswith(start.lower()) or not entry.name.isprintable():
                        continue
                    if entry.name.startswith(".") and not start:
                        continue
                    is_folder = entry.is_dir()
                    if is_folder or self._files:
                        found.append((entry.name, is_folder))
        except (OSError, ValueError, RuntimeError):
            return []
        return sorted(found, key=lambda item: (not item[1], item[0].lower()))[:_MOST]
