"""Pictures made to fill the memory: refused by their headers, and decoded in bounds whatever else they hold."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from bounded import bounded, needs_fork
from PIL import Image

from simpletune.data.header import Header, read_header
from simpletune.data.images import load_rgb
from simpletune.data.sources import ImageFile, Rejected
from simpletune.data.sources.local import Folder
from simpletune.errors import DataError

pytestmark = needs_fork
MIB = 1 << 20


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *extra: bytes, pixels: bytes = b"\0") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


@cache
def bomb(size: int) -> bytes:
    """`size` zero bytes, compressed."""
    packed = zlib.compressobj(9)
    return b"".join([*(packed.compress(bytes(MIB)) for _ in range(size // MIB)), packed.flush()])


def saved(mode: str = "RGB", size: tuple[int, int] = (64, 64), **how: object) -> bytes:
    data = io.BytesIO()
    Image.new(mode, size, 128).save(data, **how)
    return data.getvalue()


def gif(width: int, height: int, frames: int = 1, frame: tuple[int, int] = (1, 1)) -> bytes:
    picture = b"\x2c" + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + picture * frames + b"\x3b"


def tiff(entries: list[tuple[int, int, int, int]], after: bytes = b"") -> bytes:
    """A little-endian TIFF with one directory of (tag, type, count, value)."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + after


def plain_tiff(width: int, height: int, **other: int) -> bytes:
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: height, 279: 64} | {
        int(tag): value for tag, value in other.items()
    }
    return tiff([(tag, 4, 1, value) for tag, value in tags.items()], bytes(200))


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    """A small JPEG with segments (marker, body) behind its beginning."""
    data = saved(format="JPEG")
    added = b"".join(b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    return data[:2] + added + data[2:]


def exif_of_many_entries() -> bytes:
    body = struct.pack("<H", 5000) + struct.pack("<HHII", 0x0112, 3, 0xFFFFFFFF, 8) * 5000
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + body


def webp(width: int, height: int) -> bytes:
    """A lossless WebP whose header says another size than its pixels have."""
    data = bytearray(saved(format="WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    data[at : at + 4] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return bytes(data)


def bmp(width: int, height: int) -> bytes:
    data = bytearray(saved(format="BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


TOO_LARGE = {
    "png of 10 gigapixels.png": lambda: png(100_000, 100_000),
    "png of 2^31.png": lambda: png(2**31 - 1, 2**31 - 1),
    "gif of 65535 squared.gif": lambda: gif(65_535, 65_535),
    "gif whose frame is larger.gif": lambda: gif(1, 1, frame=(65_535, 65_535)),
    "tiff of a terapixel.tif": lambda: plain_tiff(1_000_000, 1_000_000),
    "bmp of 2^31.bmp": lambda: bmp(2**31 - 1, 2**31 - 1),
    "webp of 268 megapixels.webp": lambda: webp(16_383, 16_383),
}

ODD = {
    "png text bomb.png": lambda: png(1, 1, chunk(b"zTXt", b"a\0\0" + bomb(512 * MIB)), pixels=b"\0\1\2\3"),
    "png profile bomb.png": lambda: png(1, 1, chunk(b"iCCP", b"a\0\0" + bomb(512 * MIB)), pixels=b"\0\1\2\3"),
    "png exif text bomb.png": lambda: png(
        1, 1, chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb(512 * MIB)), pixels=b"\0\1\2\3"
    ),
    "png pixels bomb.png": lambda: png(16, 16, pixels=b"").replace(
        chunk(b"IDAT", zlib.compress(b"")), chunk(b"IDAT", bomb(512 * MIB))
    ),
    "png of 20,000 texts.png": lambda: png(1, 1, *[chunk(b"tEXt", b"k\0" + bytes(99))] * 20_000, pixels=b"\0\1\2\3"),
    "png whose chunk has 2 GiB.png": lambda: png(8, 8)[:33] + struct.pack(">I", 2**31 - 1) + b"tEXtabc",
    "gif of 100,000 frames.gif": lambda: gif(64, 64, 100_000),
    "tiff of 65535 tags.tif": lambda: tiff([(tag, 4, 1, 1) for tag in range(60_000)]),
    "tiff with a tag of 4 GiB.tif": lambda: tiff(
        [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 0xFFFFFFFF, 8), (273, 4, 0x3FFFFFFF, 8)], bytes(200)
    ),
    "tiff whose directory is its own next.tif": lambda: plain_tiff(8, 8)[:-204] + struct.pack("<I", 8) + bytes(200),
    "tiff of many samples.tif": lambda: plain_tiff(8, 8, **{"277": 65_535}),
    "tiff with a tile of 2 GiB.tif": lambda: plain_tiff(64, 64, **{"322": 2**31 - 1, "323": 2**31 - 1, "324": 200}),
    "tiff bits.tif": lambda: plain_tiff(8, 8, **{"258": 65_535}),
    "jpeg exif.jpg": lambda: jpeg_with((0xE1, exif_of_many_entries())),
    "jpeg of 5,000 comments.jpg": lambda: jpeg_with(*[(0xFE, bytes(60_000))] * 500),
    "jpeg with 16 MiB of profile.jpg": lambda: jpeg_with(
        *[(0xE2, b"ICC_PROFILE\0" + bytes([part, 255]) + bytes(65_000)) for part in range(1, 256)]
    ),
    "jpeg xmp.jpg": lambda: jpeg_with((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"tiff:Orientation" * 4000)),
    "jpeg turned.jpg": lambda: jpeg_with((0xE1, b"Exif\0\0II*\0" + struct.pack("<I", 0xFFFFFFF0))),
    "webp cut.webp": lambda: webp(64, 64)[:40],
    "webp of another size.webp": lambda: webp(12_000, 12_000),
    "\x1b]0;title\x07\nname.png": lambda: png(100_000, 100_000),
}


def looked_at(folder: Path, data: bytes, name: str) -> str:
    """What a scan and then an encoding say of the file."""
    (folder / name).write_bytes(data)
    source = Folder(str(folder))
    (listed,) = [file for file in source.list().files if file.name == name]
    header = read_header(source, listed)
    try:
        rgb = load_rgb(name, data)
        decoded = f"{rgb.mode} {rgb.size}"
    except DataError as error:
        decoded = error.message
    return f"{header.reason.value if isinstance(header, Rejected) else header} / {decoded}"


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path, name, tally):
    data = TOO_LARGE[name]()
    ending = bounded(lambda: looked_at(tmp_path, data, name), memory_mib=256, seconds=10)
    assert ending.crash is None
    scanned, _, decoded = ending.said.partition(" / ")
    assert "too many pixels" in scanned or "not readable" in scanned
    assert decoded.startswith(f"{name}: ")
    tally("bad inputs: security", 1)


@pytest.mark.fault
@pytest.mark.parametrize("name", ODD)
def test_an_odd_picture_takes_bounded_memory_and_time(tmp_path, name, tally):
    data = ODD[name]()
    ending = bounded(lambda: looked_at(tmp_path, data, name), memory_mib=1536, seconds=20)
    assert ending.crash is None
    assert "\x1b" not in ending.said
    assert "\n" not in ending.said
    tally("bad inputs: security", 1)


def test_a_file_of_more_than_2_gib_is_not_read(tmp_path, tally):
    with (tmp_path / "huge.png").open("wb") as file:
        file.write(png(8, 8)[:33])
        file.truncate((2 << 30) + 1)  # sparse: it takes no room
    source = Folder(str(tmp_path))
    (listed,) = source.list().files
    assert isinstance(listed, ImageFile)
    found = read_header(source, listed)
    assert isinstance(found, Rejected)
    assert found.detail == "its file has more than 2 GiB; save it smaller"
    tally("bad inputs: security", 1)


def test_the_largest_allowed_picture_is_allowed(tmp_path):
    """The limit is for bombs: what a camera makes stays usable."""
    (tmp_path / "a.png").write_bytes(png(13_000, 13_000))
    source = Folder(str(tmp_path))
    (listed,) = source.list().files
    assert read_header(source, listed) == Header(13_000, 13_000)


def test_a_giant_colour_profile_is_not_given_to_the_library(monkeypatch, tally):
    from simpletune.data import images

    given: list[int] = []
    monkeypatch.setattr(images, "_transform", lambda profile: given.append(len(profile)))
    picture = Image.fromarray(np.full((4, 4, 3), 100, np.uint8))
    for size in (images._LARGEST_PROFILE, images._LARGEST_PROFILE + 1):
        assert images._to_srgb(picture, bytes(size)).getpixel((0, 0)) == (100, 100, 100)
    assert given == [images._LARGEST_PROFILE]
    tally("bad inputs: security", 1)
