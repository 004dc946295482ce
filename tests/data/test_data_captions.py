"""Captions from text files in any encoding, from names, and from the instance prompt."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from data_helpers import image_set
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.data.captions import NOT_UTF8, SEVERAL_LINES, Caption, decode_text, read_caption
from simpletune.data.sources import ImageFile, Reason, Rejected


@pytest.fixture
def picture(tmp_path: Path) -> ImageFile:
    return ImageFile(str(tmp_path / "x.png"), "x.png", 1, 1)


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        ("a cat 😀\r\n".encode(), Caption("a cat 😀")),
        (codecs.BOM_UTF8 + "naïve".encode(), Caption("naïve")),
        ("ein Bär".encode("utf-16"), Caption("ein Bär")),
        (codecs.BOM_UTF16_BE + "ein Bär".encode("utf-16-be"), Caption("ein Bär")),
        ("ein Bär".encode("utf-16-le"), Caption("ein Bär")),
        ("ein Bär".encode("utf-16-be"), Caption("ein Bär")),
        ("ein Bär’s".encode("cp1252"), Caption("ein Bär’s", (NOT_UTF8,))),
        (b"b\xe4r \x81", Caption("bär \x81", (NOT_UTF8,))),
        (b"\n  \r\n one  cat\t\nanother\n", Caption("one cat", (SEVERAL_LINES,))),
        (b"word " * 10_000, Caption("word " * 9_999 + "word")),
    ],
)
def test_text_files(picture, data, caption):
    Path(picture.path).with_suffix(".txt").write_bytes(data)
    assert read_caption(picture, image_set(caption_strategy="textfile")) == caption


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_no_bytes_can_break_the_decoder(data):
    text, _ = decode_text(data)
    assert isinstance(text, str)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "no caption file x.txt"),
        (b"", "x.txt is empty"),
        (b" \n\r\n\t", "x.txt is empty"),
        (b"x" * (1 << 21), "over 1 MiB"),
    ],
)
def test_missing_captions(picture, data, told):
    if data is not None:
        Path(picture.path).with_suffix(".txt").write_bytes(data)
    found = read_caption(picture, image_set(caption_strategy="textfile"))
    assert isinstance(found, Rejected)
    assert found.reason == Reason.NO_CAPTION
    assert told in found.detail


def test_a_folder_in_the_caption_files_place(picture):
    Path(picture.path).with_suffix(".txt").mkdir()
    found = read_caption(picture, image_set(caption_strategy="textfile"))
    assert "can't be read" in found.detail


@pytest.mark.parametrize(
    ("name", "caption"),
    [("sub/a_red-fox (2).png", "a red fox (2)"), ("two\nlines.jpg", "two lines"), ("fox.tar.png", "fox.tar")],
)
def test_filenames(name, caption):
    image = ImageFile(f"/p/{name}", name, 1, 1)
    assert read_caption(image, image_set()) == Caption(caption)


def test_a_filename_of_dashes_is_no_caption():
    found = read_caption(ImageFile("/p/--_.png", "--_.png", 1, 1), image_set())
    assert found.reason == Reason.NO_CAPTION


def test_instance_prompts(picture):
    Path(picture.path).with_suffix(".txt").write_text("on a lawn\n")
    named = {"instance_prompt": "sks dog", "caption_strategy": "textfile"}
    assert read_caption(picture, image_set(**named)) == Caption("on a lawn")
    assert read_caption(picture, image_set(**named, prepend_instance_prompt=True)) == Caption("sks dog on a lawn")
    assert read_caption(picture, image_set(**named, only_instance_prompt=True)) == Caption("sks dog")
    only = image_set(instance_prompt="sks dog", caption_strategy="instanceprompt")
    assert read_caption(picture, only) == Caption("sks dog")
    assert read_caption(picture, image_set(caption_strategy="instanceprompt")).reason == Reason.NO_CAPTION
