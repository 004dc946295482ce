"""What it means when the system refuses a file, in words: what is wrong, and what to do about that."""

from __future__ import annotations

import errno
import os

FREE_SPACE = "free some space"
_ALLOW = "let this user write there"
_WRONG = {
    errno.ENOSPC: ("the disk is full", FREE_SPACE),
    errno.EDQUOT: ("your quota on this disk is used up", FREE_SPACE),
    errno.EROFS: ("the disk is read-only", "make it writable: a disk with errors is often remounted read-only"),
    errno.EACCES: ("permission denied", _ALLOW),
    errno.EPERM: ("permission denied", _ALLOW),
    errno.EFBIG: ("the system allows no file of that size", "raise the limit of file sizes: ulimit -f unlimited"),
    errno.EIO: ("the disk reports an error of its own", "check the disk and its connection"),
    errno.ENOENT: ("the folder is gone", "mount the disk again, or put the folder back"),
    errno.ESTALE: ("the network disk is gone", "mount it again"),
}


def wrong_with(number: int | None) -> tuple[str, str] | None:
    """What is wrong with where something was to be written, and what to do, by the error's number; None for others."""
    return _WRONG.get(number or 0)


def explain(error: Exception) -> tuple[str, str | None]:
    """What an error says, without the number and the path that Python puts into an OSError's text; and what to do about
    it, where that is known."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error), None
    if error.errno != errno.ENOENT and (found := wrong_with(error.errno)) is not None:  # that may be a file that's gone
        return found
    return error.strerror or os.strerror(error.errno), None


def in_words(error: Exception) -> str:
    """What is wrong alone."""
    return explain(error)[0]


def why_unwritable(folder: str | os.PathLike[str]) -> int:
    """The number of the error that writing into a folder would give, which os.access has said can't be written to."""
    try:
        flags = os.statvfs(folder).f_flag
    except (AttributeError, OSError):  # Windows has none
        return errno.EACCES
    return errno.EROFS if flags & os.ST_RDONLY else errno.EACCES
