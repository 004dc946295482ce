"""Crops around a face: found in any orientation, kept as far as the picture's edges let it, the middle without one."""

from __future__ import annotations

import io

import pytest
from data_helpers import colours, image_set
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from simpletune.data.faces import NO_FACE, find_focus
from simpletune.data.geometry import placements

TURNED_BACK = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
"""EXIF orientation: the transpose (PIL's number) of an upright picture that a viewer's turn undoes."""


def portrait(left: int, top: int, wide: int, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """A drawn face of a width, at a place: what a cascade looks for, dark eyes and hair on bright skin."""
    picture = Image.new("RGB", size, (120, 140, 160))
    draw, high = ImageDraw.Draw(picture), round(wide * 1.3)

    def oval(x: float, y: float, across: float, down: float, colour: tuple[int, int, int]) -> None:
        middle = left + wide * x, top + high * y
        corners = (
            middle[0] - wide * across,
            middle[1] - wide * down,
            middle[0] + wide * across,
            middle[1] + wide * down,
        )
        draw.ellipse(corners, fill=colour)

    draw.ellipse((left - 2, top - 6, left + wide + 2, top + high * 0.7), fill=(60, 40, 30))
    draw.ellipse((left + wide * 0.05, top + high * 0.14, left + wide * 0.95, top + high), fill=(222, 184, 150))
    for x in (0.3, 0.7):
        oval(x, 0.42, 0.13, 0.06, (90, 60, 50))
        oval(x, 0.42, 0.05, 0.05, (20, 20, 20))
        oval(x, 0.33, 0.15, 0.02, (70, 45, 35))
    oval(0.5, 0.6, 0.07, 0.1, (205, 160, 128))
    oval(0.5, 0.8, 0.17, 0.045, (150, 70, 70))
    return picture.filter(ImageFilter.GaussianBlur(wide / 60))


def file_of(picture: Image.Image, turn: int = 1, kind: str = "JPEG") -> bytes:
    exif, written = Image.Exif(), io.BytesIO()
    exif[0x0112] = turn
    undo = TURNED_BACK[turn]
    (picture if undo is None else picture.transpose(Image.Transpose(undo))).save(written, kind, exif=exif)
    return written.getvalue()


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_face_is_found_in_every_orientation(turn):
    pytest.importorskip("cv2")
    across, down = find_focus(file_of(portrait(250, 60, 110), turn))
    assert (across, down) == pytest.approx(((250 + 55) / 400, (60 + 71) / 300), abs=0.06)


def test_the_largest_of_two_and_none():
    pytest.importorskip("cv2")
    picture = portrait(30, 60, 70)
    picture.paste(portrait(20, 40, 130, (200, 300)), (200, 0))
    assert find_focus(file_of(picture))[0] > 0.55
    assert find_focus(file_of(colours(200, 200))) == NO_FACE
    assert find_focus(b"no picture") == NO_FACE


@given(st.integers(70, 3000), st.integers(70, 3000), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_a_crop_keeps_the_focus_and_stays_in_the_picture(width, height, across, down):
    chosen = image_set(crop=True, crop_style="face")
    (placed,) = placements(width, height, chosen, 16, focus=(across, down))
    left, top, right, bottom = placed.crop
    assert (right - left, bottom - top) == placed.bucket
    assert 0 <= left <= right <= placed.resized[0]
    assert 0 <= top <= bottom <= placed.resized[1]
    assert left - 1 <= across * placed.resized[0] <= right + 1
    assert top - 1 <= down * placed.resized[1] <= bottom + 1


def test_without_a_focus_it_is_the_middle():
    chosen = image_set(crop=True, crop_style="face")
    assert placements(200, 100, chosen, 16, focus=NO_FACE) == placements(200, 100, image_set(crop=True), 16)
