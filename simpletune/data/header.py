"""What a picture file's first bytes say of it, without decoding it: upright size, format, whether its end is there.

Opening goes by content, never by extension, and only through the formats listed here. Pillow's own guard against
decompression bombs is a warning up to twice its limit, so it is replaced by one plain limit, checked before decoding.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import PIL
from PIL import AvifImagePlugin, Image, MpoImagePlugin, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from simpletune.data.quick_header import quick_size
from simpletune.data.sources import ImageFile, Reason, Rejected, Source, SourceError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
PLUGINS = (AvifImagePlugin, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin)
"""Registered by being imported; the other formats' are Pillow's standard ones. Without this, threads race to do it."""

READER = f"1, Pillow {PIL.__version__}"
"""What an answer depends on beside the file: an index that remembers answers of another reader asks again.

Count up with a change of what is answered."""

PASSING = frozenset({Reason.PERMISSION, Reason.CHANGED, Reason.READ_FAILED})
"""Reasons that may be gone at the next look, although the file is the same."""

MAX_PIXELS = 2 * 89_478_485
"""Width times height beyond which a file isn't opened: Pillow's own limit for an error (0.5 GB as RGB)."""

MAX_FILE_BYTES = 2 << 30
"""A file is read whole to be decoded: more than the largest picture has in 16 bits, uncompressed, isn't read."""

SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
READ_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}) | SIXTEEN_BIT_MODES

SIDEWAYS = frozenset({5, 6, 7, 8})
"""EXIF orientations under which width and height change places."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation: the transpose that makes a picture upright."""

_SMALL_FILE = 1 << 16
"""Bytes. A file up to this size is read whole, at once; of a larger one only what is asked for."""

_ORIENTATION_TAG = 0x0112
_ORIENTATION_CARRIERS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")

_FOREIGN = (
    (b"<!doctype html", "a web page, saved under a picture's name"),
    (b"<html", "a web page, saved under a picture's name"),
    (b"<svg", "an SVG drawing"),
    (b"%pdf", "a PDF document"),
    (b"pk\x03\x04", "a ZIP archive"),
    (b"{", "JSON text"),
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`"),
)
_PICTURES = (b"\x89png", b"\xff\xd8\xff", b"gif8", b"riff", b"bm", b"ii*\0", b"mm\0*")

Image.MAX_IMAGE_PIXELS = None
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else some of its plugins write to the terminal
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # what matters of a file is in its Rejected


class Header(NamedTuple):
    """Size in pixels, upright: after the EXIF orientation is applied."""

    width: int
    height: int


def read_header(source: Source, listed: ImageFile) -> Header | Rejected:
    """A picture's size, or why it can't be used. Reads some kilobytes, unless the file's end looks cut off.

    The size it was listed with is above 0 bytes. Raises SourceError.
    """
    if listed.size_bytes > MAX_FILE_BYTES:
        return Rejected(Reason.TOO_LARGE, f"its file has more than {MAX_FILE_BYTES >> 30} GiB; save it smaller")
    try:
        start, end = source.read_ends(listed, _SMALL_FILE)
        size = quick_size(start, end)
        if size is not None and size[0] * size[1] <= MAX_PIXELS:
            return Header(*size)
        if len(start) == listed.size_bytes:
            return _inspect(io.BytesIO(start))
        with source.open(listed.name) as file:
            return _inspect(file)
    except OSError as error:
        return read_failure(error)


def read_failure(error: OSError) -> Rejected:
    """Why a picture couldn't be read. Raises the error if it is of the whole source."""
    if isinstance(error, SourceError):
        raise error
    if isinstance(error, FileNotFoundError):
        return Rejected(Reason.CHANGED, "the file vanished")
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return Rejected(Reason.CHANGED, "it is no file any more")
    if isinstance(error, PermissionError):
        return Rejected(Reason.PERMISSION, "this user may not open the file")
    return Rejected(Reason.READ_FAILED, error.strerror or str(error))  # a failing disk, a network that went away


def open_picture(file: BinaryIO) -> Image.Image:
    """Open by content among FORMATS; nothing is decoded. Raises UnidentifiedImageError and whatever Pillow meets."""
    return Image.open(file, formats=FORMATS)


def upright(image: Image.Image, turn: int) -> Image.Image:
    """The picture turned and mirrored as an EXIF orientation (1 to 8) asks for."""
    return image.transpose(TURNS[turn]) if turn in TURNS else image


def orientation(image: Image.Image) -> int:
    """The EXIF orientation (1 to 8) still to be applied; 1 where there is none or it can't be read.

    Pillow applies a TIFF's itself. A PNG is asked through the base class, as its own method decodes the picture first.
    """
    if image.format == "TIFF" or not any(carrier in image.info for carrier in _ORIENTATION_CARRIERS):
        return 1
    try:
        value = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF makes Pillow raise nearly anything; viewers show such a picture as it is
        return 1
    return value if value in range(1, 9) else 1


def _inspect(file: BinaryIO) -> Header | Rejected:
    try:
        image = open_picture(file)
    except UnidentifiedImageError:
        return Rejected(Reason.UNREADABLE, _foreign(file))
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged headers
        _raise_if_unread(error)
        return Rejected(Reason.UNREADABLE, f"its header is damaged ({error})")
    return refusal(image) or _cut_off(image, file) or _upright(image)


def _raise_if_unread(error: Exception) -> None:
    """Pillow's own OSErrors have no number: one that has says nothing of the picture."""
    if isinstance(error, SourceError) or (isinstance(error, OSError) and error.errno is not None):
        raise error


def refusal(image: Image.Image) -> Rejected | None:
    """Why an opened picture must not be decoded, or None."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        detail = f"{width}x{height} is over {MAX_PIXELS // 1_000_000} megapixels; save it smaller"
        return Rejected(Reason.TOO_LARGE, detail)
    if image.mode not in READ_MODES:
        detail = f"mode {image.mode} has no defined white; save it with 8 or 16 bits a channel"
        return Rejected(Reason.PIXEL_KIND, detail)
    return None


def _upright(image: Image.Image) -> Header:
    width, height = image.size
    return Header(height, width) if orientation(image) in SIDEWAYS else Header(width, height)


def _foreign(file: BinaryIO) -> str:
    file.seek(0)
    start = file.read(64).lower().lstrip(b"\xef\xbb\xbf \r\n\t")
    for signature, what in _FOREIGN:
        if start.startswith(signature):
            return f"its content is {what}"
    if start.startswith(_PICTURES):
        return "it begins like a picture, but its header is damaged"
    if start[4:8] == b"ftyp":
        return "its content is HEIC or a film; save it as PNG or JPEG"
    return "its content is of no picture format"


def _cut_off(image: Image.Image, file: BinaryIO) -> Rejected | None:
    """Decode a picture whose last bytes aren't an end of its format: rare, and the only way to be sure."""
    ends_well = _ENDINGS.get(image.format or "")
    if ends_well is None or ends_well(file):
        return None
    try:
        image.draft(None, (1, 1))
        image.load()
    except Exception as error:  # as above: a damaged stream can raise nearly anything
        _raise_if_unread(error)
        return Rejected(Reason.TRUNCATED, str(error) or type(error).__name__)
    return None


def _tail(file: BinaryIO, count: int) -> bytes:
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - count))
    data = file.read()
    file.seek(position)
    return data


def _declared_size_fits(file: BinaryIO, offset: int, extra: int) -> bool:
    """RIFF and BMP headers hold the file's size, little-endian, at `offset`."""
    position = file.tell()
    file.seek(offset)
    field = file.read(4)
    size = file.seek(0, os.SEEK_END)
    file.seek(position)
    return len(field) == 4 and struct.unpack("<I", field)[0] + extra <= size


_ENDINGS: dict[str, Callable[[BinaryIO], bool]] = {
    "JPEG": lambda file: _tail(file, 2) == b"\xff\xd9",
    "MPO": lambda file: _tail(file, 2) == b"\xff\xd9",
    "PNG": lambda file: _tail(file, 8)[:4] == b"IEND",
    "GIF": lambda file: _tail(file, 1) == b"\x3b",
    "WEBP": lambda file: _declared_size_fits(file, 4, 8),
    "BMP": lambda file: _declared_size_fits(file, 2, 0),
}
