"""What a name and a size already say of a file: the rules that every source but the folder goes by.

A bucket and a tar shard have no folders, only names with slashes; they are judged as if they were unpacked into one.
"""

from __future__ import annotations

from simpletune.data.sources import OTHER_PICTURE_EXTENSIONS, PICTURE_EXTENSIONS, Reason, Rejected

NAMED_LIKE_PICTURES = PICTURE_EXTENSIONS | OTHER_PICTURE_EXTENSIONS


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder it is in, has a name that begins with a dot; that holds for "." and ".." too."""
    return name.startswith(".") or "/." in name


def split_name(name: str) -> tuple[str, str]:
    """(name without its extension, the extension in small letters with its dot); ("name", "") without one."""
    stem, dot, extension = name.rpartition(".")
    if not dot or "/" in extension:
        return name, ""
    return stem, dot + extension.lower()


def refusal(extension: str, size_bytes: int) -> Rejected | None:
    """Why a file that is named like a picture can't be one, without a look into it."""
    if extension in OTHER_PICTURE_EXTENSIONS:
        return Rejected(Reason.UNSUPPORTED, f"{extension} files aren't read; save it as PNG or JPEG")
    if size_bytes == 0:
        return Rejected(Reason.ZERO_BYTES, "there is nothing in it; copy it again from where it came")
    return None
