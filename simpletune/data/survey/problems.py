"""Why a folder can't be trained on: for each case a sentence, and what to do about it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from simpletune.data.sources import PICTURE_EXTENSIONS, shown
from simpletune.data.survey import Place

Problem = tuple[str, str]
"""(what is wrong, what to do); without a full stop and with one."""

_KINDS_NAMED = 3


def cannot_use(folder: Path, error: OSError | ValueError) -> Problem:
    """What is wrong with a folder that can't be listed. Asks the disk for its parents."""
    name = _named(folder)
    if isinstance(error, NotADirectoryError | FileNotFoundError):
        return _not_there(folder)
    if isinstance(error, PermissionError):
        return f"you may not read {name}", "Ask its owner for permission, or copy the pictures to a folder of yours."
    detail = shown(str(error.strerror)) if isinstance(error, OSError) else "no path can be written like this"
    return f"{name} can't be read: {detail}", "Check the path, and that its drive is connected."


def _not_there(folder: Path) -> Problem:
    file = next((place for place in (folder, *folder.parents) if os.path.isfile(place)), None)  # noqa: PTH113
    if file is not None:
        return f"{_named(file)} is a file, not a folder", f"Give the folder it lies in: {_named(file.parent)}"
    if os.path.islink(folder):  # noqa: PTH114 - Path's own raise where a folder above can't be entered
        return f"{_named(folder)} is a link that leads nowhere", "Give the folder it was meant to lead to."
    return f"there is no folder {_named(folder)}", _where_it_ends(folder)


def no_reply(place: Place, seconds: float) -> Problem:
    """Nothing could be looked at in the time there was."""
    hint = "It may be on a drive or network folder that is asleep, slow or gone. Open it elsewhere, then try again."
    if place.folder is None:
        hint = "Check the network, and where the pictures are."
    return f"{shown(place.where)} didn't answer within {seconds:g} s", hint


def none_so_far(folder: Path, files: int) -> Problem:
    """A folder of so many other files that no picture was met in the time there was."""
    return f"no picture among the first {files:,} files of {_named(folder)}", "Give the folder of the pictures alone."


def no_pictures(folder: Path | str, others: Mapping[str, int]) -> Problem:
    """`others` counts the files that are there by extension."""
    commonest = sorted(others, key=lambda kind: (-others[kind], kind))[:_KINDS_NAMED]
    kinds = ", ".join(f"{others[kind]:,} {kind or 'without an extension'}" for kind in commonest)
    only = f" (only {shown(kinds)})" if kinds else ""
    extensions = ", ".join(sorted(extension.removeprefix(".") for extension in PICTURE_EXTENSIONS))
    return f"there are no pictures in {_named(folder)}{only}", f"Pictures end in {extensions}."


def none_readable(folder: Path | str, reasons: Mapping[str, int]) -> Problem:
    """`reasons` counts the pictures that can't be read by why."""
    count = sum(reasons.values())
    named = "; ".join(f"{number:,}: {reason}" for reason, number in sorted(reasons.items(), key=lambda item: -item[1]))
    which, can = ("the only picture", "can't") if count == 1 else (f"none of the {count:,} pictures", "can")
    return f"{which} in {_named(folder)} {can} be read", f"{named}."


def _named(path: Path | str) -> str:
    return shown(str(path))


def _where_it_ends(folder: Path) -> str:
    """The part of a path that exists, with a name there that is nearly the one that doesn't."""
    for parent in folder.parents:
        if os.path.isdir(parent):  # noqa: PTH112
            missing = folder.relative_to(parent).parts[0]
            near = difflib.get_close_matches(missing, _folders_in(parent), 1)
            meant = f'did you mean "{shown(near[0])}"?' if near else "check its spelling."
            return f'{_named(parent)} has no "{shown(missing)}"; {meant}'
    return "Check the path."


def _folders_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []
