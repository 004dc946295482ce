"""Sizes read without Pillow are Pillow's, whatever the file; and the plain files most sets are made of are read so."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from data_helpers import colours
from hypothesis import example, given, settings
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


HURT = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=3)


@given(pictures(), HURT, st.integers(0, 40))
@settings(max_examples=50, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_ones(data, hurt, cut):
    damaged = bytearray(data)
    for place, value in hurt:
        damaged[place % len(damaged)] = value
    check(bytes(damaged[: len(damaged) - cut]) + data[-8:])


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"IHDR", b"PLTE", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tEXt", b"tRNS", b"eXIf", b"acTL"]),
            st.binary(max_size=40),
        ),
        max_size=4,
    ),
    st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 16), st.integers(0, 7), st.integers(0, 1)),
)
@example([(b"PLTE", b"\0" * 6)], (5, 5, 8, 3, 0))
@settings(max_examples=50, deadline=None)
def test_png_chunks_of_any_content(chunks, header):
    width, height, depth, colour, other = header
    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, other, other))
    body = b"".join(chunk(*entry) for entry in chunks)
    check(b"\x89PNG\r\n\x1a\n" + ihdr + body + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""))


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
