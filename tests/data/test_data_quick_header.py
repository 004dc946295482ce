"""Sizes read without Pillow are Pillow's, whatever the file; and the plain files most sets are made of are read so."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from data_helpers import colours
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from simpletune.data.header import Header, _inspect
from simpletune.data.quick_header import quick_size

MODES = {"JPEG": ("L", "RGB", "CMYK"), "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "WEBP": ("RGB",)}
PROFILE = b"\0" * 36 + b"acsp" + b"\0" * 100


def saved(kind: str, mode: str, size: tuple[int, int], **options) -> bytes:
    picture = colours(*size)
    picture = picture.convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def check(data: bytes) -> None:
    quick = quick_size(data, data[-8:])
    if quick is not None:
        assert _inspect(io.BytesIO(data)) == Header(*quick)


@st.composite
def pictures(draw) -> bytes:
    kind = draw(st.sampled_from(sorted(MODES)))
    mode = draw(st.sampled_from(MODES[kind]))
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    options = {}
    if draw(st.booleans()):
        exif = Image.Exif()
        exif[0x0112] = draw(st.integers(1, 8))
        options["exif"] = exif
    if mode == "RGB" and draw(st.booleans()):
        options["icc_profile"] = PROFILE
    if kind == "JPEG":
        options["progressive"] = draw(st.booleans())
        options["comment"] = draw(st.sampled_from(["", "taken by hand"]))
    if kind == "PNG":
        notes = PngImagePlugin.PngInfo()
        for key in draw(
            st.lists(st.sampled_from(["parameters", "Raw profile type exif", "XML:com.adobe.xmp", "exif"]))
        ):
            notes.add_text(key, "0\nexif\n8\n4578696600004d4d")
        options.update(pnginfo=notes, dpi=(72, 72))
    return saved(kind, mode, size, **options)


@given(pictures())
@settings(max_examples=50, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pictures_of_many_kinds(data):
    check(data)


@given(pictures(), st.lists(st.tuples(st.integers(0, 100), st.integers(0, 255)), max_size=2), st.integers(0, 40))
@settings(max_examples=50, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_ones(data, hurt, cut):
    damaged = bytearray(data)
    for place, value in hurt:
        damaged[place % len(damaged)] = value
    check(bytes(damaged[: len(damaged) - cut]))


def chunk(kind: bytes, body: bytes, sound: bool = True) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ (not sound))


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


CHUNKS = st.one_of(
    st.tuples(
        st.sampled_from([b"IHDR", b"PLTE", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tEXt", b"tRNS", b"eXIf", b"acTL"]),
        st.one_of(st.binary(max_size=40), st.integers(0, 40).map(bytes)),
        st.integers(0, 9).map(bool),
    ),
    st.just((b"tEXt", b"Raw profile type exif\0\nexif\n38\n" + turned().hex().encode(), True)),
)


def png(chunks, width: int, height: int, depth: int, colour: int, other: int) -> bytes:
    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, other, other))
    body = b"".join(chunk(*entry) for entry in chunks)
    return b"\x89PNG\r\n\x1a\n" + ihdr + body + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


SIDES = st.integers(0, 9)


@given(
    st.lists(CHUNKS, max_size=3),
    st.tuples(SIDES, SIDES, st.sampled_from([8, 8, 1, 16]), st.integers(0, 7), st.sampled_from([0, 0, 1])),
)
@settings(max_examples=300, deadline=None)
def test_png_chunks_of_any_content(chunks, header):
    check(png(chunks, *header))


SEGMENTS = st.one_of(
    st.tuples(
        st.sampled_from([0xE0, 0xE1, 0xE2, 0xE5, 0xED, 0xEE, 0xDB, 0xC4, 0xDD, 0xFE]),
        st.sampled_from(
            [b"", b"JFIF", b"JFIF\0\1\1", b"ICC_PROFILE\0", b"Adobe", b"Exif\0\0", b"Photoshop 3.0\0", b"MPF\0"]
        ),
        st.one_of(st.binary(max_size=20), st.integers(0, 20).map(bytes)),
    ),
    st.tuples(
        st.just(0xDB), st.sampled_from([b"", b"\x01", b"\x11"]), st.sampled_from([63, 64, 65, 128, 129]).map(bytes)
    ),
    st.just((0xE1, b"", turned())),
)
FRAMES = st.tuples(
    st.sampled_from([0xC0, 0xC2, 0xC2, 0xC3, 0xC9]),
    st.sampled_from([8, 8, 8, 12]),
    st.integers(0, 9),
    st.sampled_from([1, 3, 4, 2]),
    st.sampled_from([0, 0, 0, -1, 1]),
)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(segments, frames, between: bytes = b"") -> bytes:
    body = b"".join(segment(marker, start + rest) for marker, start, rest in segments) + between
    for marker, bits, edge, layers, change in frames:
        body += segment(marker, struct.pack(">BHHB", bits, edge, edge + 1, layers) + bytes(max(0, 3 * layers + change)))
    return b"\xff\xd8" + body + segment(0xDA, b"\0" * 6) + b"pixels\xff\xd9"


@given(st.lists(SEGMENTS, max_size=3), st.lists(FRAMES, min_size=1, max_size=2), st.sampled_from([b"", b"\0", b"\xff"]))
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_jpeg_segments_of_any_content(segments, frames, between):
    check(jpeg(segments, frames, between))


FRAME = (0xC0, 8, 5, 3, 0)


@pytest.mark.parametrize(
    "data",
    [
        jpeg([], [(0xC0, 12, 5, 3, 0)]),
        jpeg([], [(0xC0, 8, 5, 2, 0)]),
        jpeg([], [(0xC0, 8, 0, 3, 0)]),
        jpeg([], [(0xC0, 8, 5, 3, -1)]),
        jpeg([], [FRAME, (0xC0, 8, 6, 3, 0)]),
        jpeg([(0xE0, b"JFIF", b"")], [FRAME]),
        jpeg([(0xE2, b"ICC_PROFILE\0", b"")], [FRAME]),
        jpeg([(0xEE, b"Adobe", b"")], [FRAME]),
        jpeg([(0xDB, b"\0", bytes(63))], [FRAME]),
        jpeg([], []),
        *(png([(kind, b"", True)], 5, 5, 8, 2, 0) for kind in (b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tRNS", b"IHDR")),
        png([], 5, 5, 8, 2, 1),
        png([], 0, 5, 8, 2, 0),
        png([], 5, 5, 8, 5, 0),
    ],
    ids=lambda data: data[:4].hex(),
)
def test_one_fault(data):
    check(data)


def test_the_same_without_a_fault():
    assert quick_size(jpeg([], [FRAME]), b"\xff\xd9") == (6, 5)
    assert quick_size(png([], 5, 7, 8, 2, 0), b"IEND\xaeB`\x82") == (5, 7)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "L", {"progressive": True}),
        ("JPEG", "RGB", {"icc_profile": PROFILE, "comment": "hello"}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {"dpi": (72, 72)}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
    ],
)
def test_plain_pictures_need_no_pillow(kind, mode, options):
    data = saved(kind, mode, (33, 21), **options)
    assert quick_size(data, data[-8:]) == (33, 21)


def test_a_turned_picture_is_left_to_pillow():
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG"):
        data = saved(kind, "RGB", (33, 21), exif=exif)
        assert quick_size(data, data[-8:]) is None
