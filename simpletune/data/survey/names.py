"""Whether a file's name, with spaces for underscores, says what is in the picture ("red parrot on branch") or not.

Names that cameras, phones, browsers and image generators give ("IMG 2034", a date, a hash) make no captions.
"""

from __future__ import annotations

import re

_LETTERS = re.compile(r"[^\W\d_]+")
_GENERIC = frozenset(
    [
        *("img", "image", "images", "pic", "pict", "picture", "pictures", "photo", "photos", "foto", "bild", "scan"),
        *("dsc", "dscn", "dscf", "dcim", "mvimg", "pxl", "gopr", "cimg", "sam", "hpim", "pano", "burst", "hdr"),
        *("screenshot", "screen", "shot", "capture", "snapshot", "frame", "scanned", "untitled", "unnamed", "download"),
        *("downloaded", "file", "copy", "final", "edited", "edit", "resized", "resize", "crop", "cropped", "thumb"),
        *("thumbnail", "small", "large", "medium", "original", "orig", "new", "temp", "tmp", "sample", "train", "test"),
        *("item", "asset", "upload", "result", "output", "out", "grid", "whatsapp", "telegram", "signal", "instagram"),
        *("facebook", "pinterest", "wallpaper", "comfyui", "png", "jpg", "jpeg", "webp", "gif", "bmp", "tiff", "the"),
        *("and", "portrait", "night"),
    ]
)
_SPEAKING_WORDS = 2
_SPEAKING_SHARE = 0.5


def speaking_words(text: str) -> list[str]:
    """The words of a name that could tell something of a picture, in small letters."""
    return [word for word in map(str.lower, _LETTERS.findall(text)) if _speaks(word)]


def reads_like_a_caption(text: str) -> bool:
    """Whether the caption a file name makes says something: mostly words, and at least two of them.

    A script without spaces between words (Chinese, Japanese, Thai) needs two letters.
    """
    words = speaking_words(text)
    letters = sum(map(len, words))
    visible = sum(not character.isspace() for character in text)
    if letters <= visible * _SPEAKING_SHARE:
        return False
    return len(words) >= _SPEAKING_WORDS or any(_unspaced(word) for word in words)


def _speaks(word: str) -> bool:
    if word in _GENERIC:
        return False
    if not word.isascii():
        return len(word) > 1
    return len(word) > 2 and any(vowel in word for vowel in "aeiouy")


def _unspaced(word: str) -> bool:
    return len(word) > 1 and all(ord(character) >= 0x0E00 for character in word)
