"""Thumbnails, and where in them the model's part lies."""

from __future__ import annotations

import io

import pytest
from data_helpers import colours, image_set, scan, sources
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simpletune.data.geometry import placements
from simpletune.data.report.page import fair_shares
from simpletune.data.report.thumbnails import EDGE, cut, share_cut_off, thumbnail


def test_a_thumbnail_is_the_whole_picture_upright_and_small(save, folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    save("turned.jpg", colours(1000, 500), exif=exif)
    save("small.png", colours(40, 30))
    chosen = image_set(folder)
    small, turned = scan(chosen, 16, 1).samples
    source = sources(chosen)["pictures"]
    assert Image.open(io.BytesIO(thumbnail(turned, source))).size == (EDGE // 2, EDGE)
    assert Image.open(io.BytesIO(thumbnail(small, source))).size == (40, 30)
    (folder / "small.png").unlink()
    assert thumbnail(small, source) is None


@given(st.integers(16, 4000), st.integers(16, 4000), st.sampled_from(["center", "corner", "random"]))
@settings(max_examples=60, deadline=None)
def test_a_cut_lies_in_the_picture_and_its_area_is_what_is_left(width, height, style):
    for placement in placements(width, height, image_set(crop=True, crop_style=style), 16, name="x"):
        part = cut(placement)
        assert min(part.left, part.top) >= 0
        assert max(part.left + part.width, part.top + part.height) <= 100.02
        left = part.width * part.height / 10_000
        assert left == pytest.approx(1 - share_cut_off(placement), abs=3e-4)


@given(st.lists(st.integers(1, 500), max_size=12), st.integers(0, 600))
@settings(max_examples=100, deadline=None)
def test_shares_are_fair_and_use_the_room(counts, limit):
    shares = fair_shares(counts, limit)
    assert sum(shares) <= limit
    assert all(share <= count for share, count in zip(shares, counts, strict=True))
    assert sum(shares) == min(sum(counts), limit) or sum(shares) > limit - len(counts)
    cut_short = [share for share, count in zip(shares, counts, strict=True) if share < count]
    if cut_short:
        assert max(cut_short) - min(cut_short) <= 1
