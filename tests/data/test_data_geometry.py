"""Placements: never stretched, always aligned, always inside; and the options that choose buckets and crops."""

from __future__ import annotations

import pytest
from data_helpers import image_set
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.data.geometry import DEFAULT_ASPECTS, bucket_size, objection, place
from simpletune.data.sources import Reason

ALIGNMENTS = st.sampled_from([8, 16, 64])
SIZES = st.integers(16, 4000)


@st.composite
def sets(draw: st.DrawFn):
    limit = draw(st.none() | st.integers(64, 2000))
    return image_set(
        resolution=draw(st.integers(64, 1100)),
        resolution_type=draw(st.sampled_from(["pixel", "pixel_area"])),
        crop=draw(st.booleans()),
        crop_style=draw(st.sampled_from(["center", "random", "corner"])),
        crop_aspect=draw(st.sampled_from(["square", "preserve", "closest"])),
        crop_aspect_buckets=draw(st.sampled_from([(), (1.0,), (0.5, 1.0, 1.5)])),
        maximum_image_size=limit,
        target_downsample_size=draw(st.none() | st.integers(64, limit)) if limit else None,
    )


@given(SIZES, SIZES, sets(), ALIGNMENTS, st.integers(0, 9))
@settings(max_examples=200, deadline=None)
def test_a_placement_is_aligned_inside_and_not_stretched(width, height, chosen, alignment, seed):
    placement = place(width, height, chosen, alignment, seed=seed, name="x.png")
    (wide, high), (left, top, right, bottom), bucket = placement.resized, placement.crop, placement.bucket
    assert bucket[0] % alignment == 0
    assert bucket[1] % alignment == 0
    assert (right - left, bottom - top) == bucket
    assert 0 <= left < right <= wide
    assert 0 <= top < bottom <= high
    scale = max(wide / width, high / height)
    assert abs(wide - width * scale) <= 1 + 0.51 * width / height
    assert abs(high - height * scale) <= 1 + 0.51 * height / width


@given(st.floats(0.2, 5), st.integers(256, 1536), st.sampled_from([16, 32, 64]))
@settings(max_examples=100, deadline=None)
def test_pixel_area_keeps_the_area_and_pixel_the_shorter_edge(aspect, resolution, alignment):
    width, height = bucket_size(aspect, image_set(resolution=resolution), alignment)
    slack = alignment / 2 / (resolution / 5**0.5)
    assert (1 - slack) ** 2 <= width * height / resolution**2 <= (1 + slack) ** 2
    width, height = bucket_size(aspect, image_set(resolution=resolution, resolution_type="pixel"), alignment)
    assert abs(min(width, height) - resolution) <= alignment / 2


def test_without_crop_only_the_rounding_is_cut_off():
    placement = place(1500, 1000, image_set(resolution=1024), 64)
    assert placement.bucket == (1280, 832)
    cut = placement.resized[0] - placement.bucket[0], placement.resized[1] - placement.bucket[1]
    assert min(cut) == 0
    assert max(cut) <= 64


@pytest.mark.parametrize(
    ("changes", "size", "bucket"),
    [
        ({"crop": True}, (640, 480), (512, 512)),
        ({"crop": True, "crop_aspect": "preserve"}, (1024, 512), (704, 384)),
        ({"crop": True, "crop_aspect": "closest", "crop_aspect_buckets": (0.5, 1.0)}, (640, 480), (512, 512)),
        ({"crop": True, "crop_aspect": "closest", "crop_aspect_buckets": (0.5, 1.0)}, (300, 640), (384, 704)),
        ({"crop": True, "crop_aspect": "closest"}, (1920, 1080), (704, 384)),
        ({"resolution_type": "pixel"}, (1000, 500), (1024, 512)),
        ({"resolution_type": "pixel"}, (500, 1000), (512, 1024)),
    ],
)
def test_buckets(changes, size, bucket):
    assert place(*size, image_set(resolution=512, **changes), 64).bucket == bucket


def test_default_aspects_come_in_pairs_of_upright_and_lying():
    assert [round(1 / aspect, 9) for aspect in reversed(DEFAULT_ASPECTS)] == [round(a, 9) for a in DEFAULT_ASPECTS]


def test_crop_styles():
    def crop(style: str, name: str = "a.png", seed: int = 1) -> tuple[int, int, int, int]:
        chosen = image_set(resolution=64, crop=True, crop_style=style)
        return place(640, 64, chosen, 64, seed=seed, name=name).crop

    assert crop("center") == (288, 0, 352, 64)
    assert crop("corner") == (0, 0, 64, 64)
    assert crop("random") == crop("random")
    assert len({crop("random", name=f"{number}.png") for number in range(20)}) > 15
    assert crop("random", seed=1) != crop("random", seed=2)


def test_maximum_image_size_decides_what_the_crop_sees():
    chosen = image_set(resolution=512, crop=True, maximum_image_size=2000, target_downsample_size=1000)
    assert place(4000, 3000, chosen, 64).resized == (1333, 1000)
    assert place(1200, 900, chosen, 64).resized == (1200, 900)
    assert place(400, 300, chosen, 64).resized == (683, 512)
    assert place(4000, 3000, image_set(resolution=512, crop=True), 64).resized == (683, 512)
    assert place(4000, 3000, image_set(resolution=512, crop=True, maximum_image_size=800), 64).resized == (1067, 800)


@pytest.mark.parametrize(
    ("changes", "size", "reason", "told"),
    [
        ({"minimum_image_size": 100}, (300, 99), Reason.TOO_SMALL, "300x99"),
        ({"minimum_image_size": 100}, (300, 100), None, ""),
        ({"minimum_aspect_ratio": 0.5}, (100, 201), Reason.ASPECT, "minimum_aspect_ratio 0.5"),
        ({"maximum_aspect_ratio": 2.0}, (201, 100), Reason.ASPECT, "maximum_aspect_ratio 2"),
        ({"maximum_aspect_ratio": 2.0}, (200, 100), None, ""),
        ({}, (900, 100), Reason.ASPECT, "longer than 8:1"),
        ({"crop": True}, (900, 100), None, ""),
        ({"max_upscale_threshold": 0.25, "resolution": 512}, (400, 400), Reason.UPSCALE, "1.28 times; 1.25 is allowed"),
        ({"max_upscale_threshold": 0.28, "resolution": 512}, (400, 400), None, ""),
        ({"max_upscale_threshold": 0.0, "resolution": 512}, (512, 512), None, ""),
    ],
)
def test_objections(changes, size, reason, told):
    chosen = image_set(**changes)
    found = objection(*size, chosen, place(*size, chosen, 64))
    assert (found.reason if found else None) == reason
    assert told in (found.detail if found else "")
