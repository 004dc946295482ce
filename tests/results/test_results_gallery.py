"""The gallery: every picture beside its pair, every text inside the sheet."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simpletune.results import gallery as subject
from simpletune.results.gallery import Column, GalleryRow, gallery
from simpletune.results.lettering import drawable, font, wrap

RED, BLUE = (200, 10, 10), (10, 10, 200)
BASE, TUNED = Column("base"), Column("tuned")


def picture(folder, name, size, colour):
    path = folder / name
    Image.new("RGB", size, colour).save(path)
    return path


def drawn(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def extent(pixels, colour):
    """(left, top, right, bottom) of everything that has the colour."""
    ys, xs = np.nonzero(np.abs(pixels - np.array(colour)).max(-1) < 4)
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (1024, 1024), (768, 1152), (1280, 720), (40, 900), (513, 37)])
def test_base_and_tuned_stand_side_by_side_in_their_own_aspect(tmp_path, size):
    row = GalleryRow(
        "a fox", {BASE: picture(tmp_path, "a.png", size, RED), TUNED: picture(tmp_path, "b.png", size, BLUE)}
    )
    gallery([row], tmp_path / "gallery.png")
    pixels = drawn(tmp_path / "gallery.png")
    left, right = extent(pixels, RED), extent(pixels, BLUE)
    assert left[1] == right[1]
    assert left[3] == right[3]
    assert left[2] < right[0]
    width, height = left[2] - left[0], left[3] - left[1]
    assert width / height == pytest.approx(size[0] / size[1], rel=0.05)
    assert width <= 512


def test_columns_of_different_shapes_are_equally_high(tmp_path):
    row = GalleryRow(
        "a fox",
        {BASE: picture(tmp_path, "a.png", (1024, 576), RED), TUNED: picture(tmp_path, "b.png", (576, 1024), BLUE)},
    )
    gallery([row], tmp_path / "gallery.png")
    pixels = drawn(tmp_path / "gallery.png")
    wide, high = extent(pixels, RED), extent(pixels, BLUE)
    assert wide[3] - wide[1] == pytest.approx(high[3] - high[1], abs=2)
    assert wide[2] - wide[0] == pytest.approx(3.16 * (high[2] - high[0]), rel=0.02)


def test_rows_of_one_prompt_have_it_once_on_a_sheet(tmp_path):
    pictures = {BASE: picture(tmp_path, "a.png", (64, 64), RED)}
    first, next_ = GalleryRow("a fox", pictures, "seed 1"), GalleryRow("a fox", pictures, "seed 2", again=True)
    sheets = {"once": [first, next_], "twice": [first, first], "first": [first], "further": [next_]}
    for name, rows in sheets.items():
        gallery(rows, tmp_path / f"{name}.png")
    heights = {name: len(drawn(tmp_path / f"{name}.png")) for name in sheets}
    assert heights["once"] < heights["twice"]
    assert heights["further"] == heights["first"], "a page that begins with it has the prompt again"


def test_prompts_and_settings_are_in_the_file(tmp_path):
    path = picture(tmp_path, "a.png", (64, 64), RED)
    rows = [GalleryRow("ein Füchslein 🦊 " * 300, {BASE: path}), GalleryRow("second", {BASE: path})]
    gallery(rows, tmp_path / "gallery.png", {"model": "tiny", "step": "500"})
    with Image.open(tmp_path / "gallery.png") as image:
        assert image.text["prompt 1"] == rows[0].prompt
        assert image.text["prompt 2"] == "second"
        assert image.text["model"] == "tiny"


def test_a_picture_that_is_missing_or_broken_is_a_grey_field(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture(tmp_path, "a.png", (64, 64), RED).read_bytes()[:40])
    rows = [
        GalleryRow("one", {BASE: tmp_path / "a.png", TUNED: tmp_path / "absent.png"}),
        GalleryRow("two", {BASE: broken}),
    ]
    gallery(rows, tmp_path / "gallery.png")
    pixels = drawn(tmp_path / "gallery.png")
    fields = np.abs(pixels - 225).max(-1) < 2
    assert fields[:, : pixels.shape[1] // 2].any()
    assert fields[:, pixels.shape[1] // 2 :].any()
    assert extent(pixels, RED)[2] < pixels.shape[1] // 2


def test_no_rows_make_a_sheet_all_the_same(tmp_path):
    gallery([], tmp_path / "gallery.png")
    assert drawn(tmp_path / "gallery.png").min() == 255


def test_many_rows_make_the_pictures_smaller_not_the_sheet_endless(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "_MAXIMUM_PIXELS", 600_000)
    path = picture(tmp_path, "a.png", (512, 512), RED)
    gallery([GalleryRow("a", {BASE: path, TUNED: path})] * 10, tmp_path / "gallery.png")
    height, width, _ = drawn(tmp_path / "gallery.png").shape
    assert height * width <= 600_000


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=400), width=st.integers(60, 900), lines=st.integers(1, 6))
def test_wrapped_text_never_overflows(text, width, lines):
    letters = font(17)
    wrapped = wrap(text, letters, width, lines)
    assert len(wrapped) <= lines
    assert all(letters.getlength(line) <= width for line in wrapped)
    kept = "".join("".join(wrapped).split()).removesuffix("…")
    assert "".join(drawable(text).split()).startswith(kept) or "…" in drawable(text)


def test_ink_stays_inside_the_margins(tmp_path):
    path = picture(tmp_path, "a.png", (64, 64), (255, 255, 255))
    rows = [
        GalleryRow(
            "W" * 500 + " 漢字🧑‍🚀\x1b[0m " + "word " * 500,
            {
                Column(
                    "a column name that is far too long for its cell", "a group of columns with far too long a name"
                ): path
            },
        )
    ]
    gallery(rows, tmp_path / "gallery.png")
    pixels = drawn(tmp_path / "gallery.png")
    dark = pixels.max(-1) < 160
    assert dark.any()
    assert not dark[:, :22].any()
    assert not dark[:, -22:].any()


def test_what_the_font_lacks_becomes_a_square():
    assert drawable("é ü 漢 \x07\n") == "é ü □ □ "
    assert drawable("👩‍🚀️") == "□□"
