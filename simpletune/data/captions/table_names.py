"""Which picture a caption table means: names as rows spell them, made names inside the data set. No file is touched."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from typing import TYPE_CHECKING

from simpletune.data.captions.texts import is_unicode, latin

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet

_DRIVE = re.compile(r"[A-Za-z]:/")
_NO_FOLDER = "/data set"


class Names:
    """Makes names inside the data set of what rows say."""

    def __init__(self, image_set: ImageSet) -> None:
        folder = image_set.instance_data_dir
        roots = [] if folder is None else [os.path.abspath(folder), os.path.realpath(folder)]  # noqa: PTH100
        self._roots = [posixpath.normpath(root.replace("\\", "/")).rstrip("/") for root in roots] or [_NO_FOLDER]
        self._url = f"{image_set.s3_url.rstrip('/')}/" if image_set.s3_url else None

    def inside(self, cell: str) -> str | None:
        """The name with forward slashes and nothing superfluous; None when it is outside the data set."""
        name = cell.replace("\\", "/")
        if self._url is not None and name.startswith(self._url):
            name = name[len(self._url) :]
        absolute = name.startswith("/") or _DRIVE.match(name) is not None
        if not absolute and "./" not in name and "//" not in name and not name.endswith(("/", "..")) and name != ".":
            return name
        for root in self._roots:
            whole = posixpath.normpath(name if absolute else f"{root}/{name}")
            if _same(whole[: len(root) + 1], f"{root}/") and len(whole) > len(root) + 1:
                return whole[len(root) + 1 :]
        return None


def key_of(name: str) -> str:
    """What two spellings of a name share: accents as one character, broken bytes as Latin-1, forward slashes."""
    if name.isascii():
        return name.replace("\\", "/").strip() if "\\" in name else name.strip()
    if not is_unicode(name):
        name = latin(name)
    return unicodedata.normalize("NFC", name).replace("\\", "/").strip()


def _same(path: str, other: str) -> bool:
    return path.casefold() == other.casefold() if os.name == "nt" else path == other
