"""Captions from text files in any encoding, from names, from the instance prompt and from the source; filtered."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import pytest
from data_helpers import image_set
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.data.captions import SEVERAL, SEVERAL_LINES, Caption, read_caption
from simpletune.data.captions.texts import NOT_UTF8, decode_text
from simpletune.data.sources import ImageFile, Reason, Rejected, SourceError
from simpletune.data.sources.local import Folder

PICTURE = ImageFile("x.png", 1, (1, 1, 1, 1))


def read(folder: Path, image: ImageFile = PICTURE, **keys: Any) -> Caption | Rejected:
    return read_caption(image, image_set(folder, **keys), Folder(str(folder)), seed=1)


def texts(folder: Path, caption: str, **keys: Any) -> tuple[str, ...]:
    (folder / "x.txt").write_text(caption, encoding="utf-8")
    found = read(folder, caption_strategy="textfile", **keys)
    assert isinstance(found, Caption)
    return found.texts


def refused(found: Caption | Rejected) -> str:
    assert isinstance(found, Rejected)
    assert found.reason == Reason.NO_CAPTION
    return found.detail


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        ("a cat 😀\r\n".encode(), Caption(("a cat 😀",))),
        (codecs.BOM_UTF8 + "naïve".encode(), Caption(("naïve",))),
        ("ein Bär".encode("utf-16"), Caption(("ein Bär",))),
        (codecs.BOM_UTF16_BE + "ein Bär".encode("utf-16-be"), Caption(("ein Bär",))),
        ("ein Bär".encode("utf-16-le"), Caption(("ein Bär",))),
        ("ein Bär".encode("utf-16-be"), Caption(("ein Bär",))),
        ("ein Bär’s".encode("cp1252"), Caption(("ein Bär’s",), (NOT_UTF8,))),
        (b"b\xe4r \x81", Caption(("bär \x81",), (NOT_UTF8,))),
        (b"\n  \r\n one  cat\t\nanother\n one cat", Caption(("one cat", "another"), (SEVERAL_LINES,))),
        (b"b\xe4r\nzwei", Caption(("bär", "zwei"), (NOT_UTF8, SEVERAL_LINES))),
        (b"word " * 10_000, Caption(("word " * 9_999 + "word",))),
    ],
)
def test_text_files(tmp_path, data, caption):
    (tmp_path / "x.txt").write_bytes(data)
    assert read(tmp_path, caption_strategy="textfile") == caption


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
        (codecs.BOM_UTF8, "x.txt is empty"),
        (b"x" * (1 << 21), "over 1 MiB"),
    ],
)
def test_missing_captions(tmp_path, data, told):
    if data is not None:
        (tmp_path / "x.txt").write_bytes(data)
    assert told in refused(read(tmp_path, caption_strategy="textfile"))


def test_a_folder_in_the_caption_files_place(tmp_path):
    (tmp_path / "x.txt").mkdir()
    assert "can't be read" in refused(read(tmp_path, caption_strategy="textfile"))


@pytest.mark.parametrize(
    ("name", "caption"),
    [("sub/a_red-fox (2).png", "a red fox (2)"), ("two\nlines.jpg", "two lines"), ("fox.tar.png", "fox.tar")],
)
def test_filenames(tmp_path, name, caption):
    assert read(tmp_path, ImageFile(name, 1, (1, 1, 1, 1))) == Caption((caption,))


def test_a_filename_of_dashes_is_no_caption(tmp_path):
    assert "nothing is left" in refused(read(tmp_path, ImageFile("--_.png", 1, (1, 1, 1, 1))))


def test_instance_prompts(tmp_path):
    assert texts(tmp_path, "on a lawn\n", instance_prompt="sks dog") == ("on a lawn",)
    assert texts(tmp_path, "a\nb", instance_prompt="sks dog", prepend_instance_prompt=True) == (
        "sks dog a",
        "sks dog b",
    )
    assert texts(tmp_path, "on a lawn", instance_prompt=" sks\ndog", only_instance_prompt=True) == ("sks dog",)
    assert read(tmp_path, instance_prompt="sks dog", caption_strategy="instanceprompt") == Caption(("sks dog",))
    assert "instance_prompt is empty" in refused(read(tmp_path, caption_strategy="instanceprompt"))


class Hub(Folder):
    """A source whose data set has captions of its own."""

    said: tuple[str, ...] = ()
    error: OSError | None = None

    def captions(self, file: ImageFile) -> tuple[str, ...]:
        if self.error is not None:
            raise self.error
        return self.said


def hub(said: tuple[str, ...] = (), error: OSError | None = None) -> Caption | Rejected:
    source = type("Said", (Hub,), {"said": said, "error": error})("/nowhere")
    return read_caption(PICTURE, image_set(caption_strategy="huggingface"), source)


def test_captions_of_the_data_set_itself():
    assert hub(("a  cat\n",)) == Caption(("a cat",))
    assert hub(("a cat", "", "a dog", "a cat")) == Caption(("a cat", "a dog"), (SEVERAL,))
    assert hub(("half \ud83d",)) == Caption(("half \ufffd",))
    assert refused(hub()) == refused(hub(("", " "))) == "the data set has no caption for it"
    assert refused(hub(error=OSError(5, "Input/output error"))) == "its caption can't be read: Input/output error"
    with pytest.raises(SourceError, match="gone"):
        hub(error=SourceError("gone", "try again"))


@pytest.mark.parametrize(
    ("caption", "patterns", "kept"),
    [
        ("a cat, stock photo, on a lawn", ["stock photo"], "a cat, on a lawn"),
        ("stock photo, a cat", ["stock photo"], "a cat"),
        ("a cat, stock photo", ["stock photo"], "a cat"),
        ("a cat, Stock Photo.", ["(?i)stock photo"], "a cat, ."),
        ("a big  cat", ["big"], "a cat"),
        ("a cat #cute #tabby, asleep", [r"#\w+"], "a cat, asleep"),
        ("a,b,c", ["b"], "a,c"),
        ("a, b, c, d", ["[bc]"], "a, d"),
        ("a cat,, as  it is ,", ["dog"], "a cat,, as it is ,"),
        ("a cat, and so on,", ["a cat"], "and so on,"),
        ("one. two. three.", ["two"], "one. three."),
        ("cat", ["^", "$", "x*"], "cat"),
    ],
)
def test_filters(tmp_path, caption, patterns, kept):
    separator = "." if "one." in caption else ","
    assert texts(tmp_path, caption, caption_filter=patterns, caption_separator=separator) == (kept,)


def test_a_filter_that_leaves_nothing(tmp_path):
    (tmp_path / "x.txt").write_text("stock photo, stock photo\n")
    keys = {"caption_strategy": "textfile", "caption_filter": ("stock photo",)}
    assert refused(read(tmp_path, **keys)) == "caption_filter leaves nothing of its caption"
    keys.update(instance_prompt="sks dog", prepend_instance_prompt=True)
    assert "caption_filter" in refused(read(tmp_path, **keys))
    assert texts(tmp_path, "stock photo\na cat\na cat, stock photo", caption_filter=("stock photo",)) == ("a cat",)


def test_filters_leave_the_instance_prompt(tmp_path):
    keys = {"caption_filter": ("dog",), "instance_prompt": "sks dog"}
    assert texts(tmp_path, "a dog on a lawn", **keys, prepend_instance_prompt=True) == ("sks dog a on a lawn",)
    assert texts(tmp_path, "a dog", **keys, only_instance_prompt=True) == ("sks dog",)


def test_a_filter_that_is_no_regular_expression(tmp_path):
    with pytest.raises(SourceError, match=r"caption_filter: \( is no regular expression"):
        texts(tmp_path, "a cat", caption_filter=("(",))


def test_shuffled_captions(tmp_path):
    keys = {"caption_shuffle_count": 3, "instance_prompt": "sks", "caption_filter": ("spam",)}
    found = texts(tmp_path, "fox, a, spam, b, c\nshort, x", **keys)
    assert len(found) == len(set(found)) == 4
    assert all(sorted(text.split(", ")) == ["a", "b", "c", "fox"] for text in found[:3])
    assert all(text.startswith("fox, ") for text in found[:3])
    assert found[3] == "short, x"
    prepended = texts(tmp_path, "fox, a, spam, b, c\nshort, x", **keys, prepend_instance_prompt=True)
    assert prepended == tuple(f"sks {text}" for text in found)
    free = texts(tmp_path, "fox, a", caption_shuffle_count=9, caption_shuffle_keep=0)
    assert set(free) == {"fox, a", "a, fox"}
    alone = texts(tmp_path, "", instance_prompt="sks, a, b", only_instance_prompt=True, caption_shuffle_count=9)
    assert set(alone) == {"sks, a, b", "sks, b, a"}


def test_the_seed_decides_the_orders(tmp_path):
    (tmp_path / "x.txt").write_text("a, b, c, d, e, f, g, h")
    keys = image_set(tmp_path, caption_strategy="textfile", caption_shuffle_count=3)
    source = Folder(str(tmp_path))
    assert read_caption(PICTURE, keys, source, seed=1) == read_caption(PICTURE, keys, source, seed=1)
    assert read_caption(PICTURE, keys, source, seed=1) != read_caption(PICTURE, keys, source, seed=2)
