"""Pictures that are there twice: the same bytes, or nearly the same to look at."""

from __future__ import annotations

import numpy as np
import pytest
from data_helpers import image_set, scan, sources
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simpletune.data.report import duplicates
from simpletune.data.report.duplicates import NEAR_BITS, close_pairs, look_alike, same_bytes


def noise(seed: int, size: tuple[int, int] = (200, 150)) -> Image.Image:
    """A picture of soft blobs that no other seed's resembles."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def test_copies_are_found_by_their_bytes_in_every_set(save, folder):
    path = save("a.png", noise(1))
    (folder / "sub").mkdir()
    (folder / "sub" / "b.png").write_bytes(path.read_bytes())
    save("c.png", noise(2))
    sets = [image_set(folder, id="x"), image_set(folder / "sub", id="y")]
    samples = [sample for one in sets for sample in scan(one, 16, 1).samples]
    assert same_bytes(samples, sources(*sets)) == ((("x", "a.png"), ("x", "sub/b.png"), ("y", "b.png")),)


def test_only_files_of_equal_size_are_read_and_known_digests_are_believed(save, folder):
    for number in range(3):
        save(f"{number}.png", noise(number))
    samples = scan(image_set(folder), 16, 1).samples
    assert len({sample.stamp[0] for sample in samples}) == 3
    assert same_bytes(samples, {}) == ()  # no source is asked
    alike = [sample._replace(stamp=(1, 2, 3, 4)) for sample in samples] if hasattr(samples[0], "_replace") else []
    assert same_bytes(alike, {}, lambda _: "digest") == ((tuple(s.id for s in samples),) if alike else ())


def test_what_looks_alike_is_found_and_what_does_not_is_not(save, folder):
    pytest.importorskip("imagehash")
    save("original.png", noise(1))
    save("resized.jpg", noise(1).resize((90, 68)), quality=60)
    save("brighter.png", noise(1).point(lambda value: min(255, value + 12)))
    for number in range(2, 9):
        save(f"other-{number}.png", noise(number))
    chosen = image_set(folder)
    samples, told = scan(chosen, 16, 1).samples, []
    found = look_alike(samples, sources(chosen), advance=lambda: told.append(1))
    assert found == ((("pictures", "brighter.png"), ("pictures", "original.png"), ("pictures", "resized.jpg")),)
    assert len(told) == len(samples)
    exact = [(("pictures", "original.png"), ("pictures", "resized.jpg"))]
    assert look_alike(samples, sources(chosen), exact) == (
        (("pictures", "brighter.png"), ("pictures", "original.png")),
    )


def test_a_picture_that_has_gone_is_left_out(save, folder):
    pytest.importorskip("imagehash")
    save("a.png", noise(1))
    save("b.png", noise(1))
    save("c.png", noise(1)).write_bytes((folder / "a.png").read_bytes())
    chosen = image_set(folder)
    samples = scan(chosen, 16, 1).samples
    (folder / "b.png").unlink()
    assert look_alike(samples, sources(chosen)) == ((("pictures", "a.png"), ("pictures", "c.png")),)
    assert same_bytes(samples, sources(chosen)) == ((("pictures", "a.png"), ("pictures", "c.png")),)


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=12),
    st.lists(st.tuples(st.integers(0, 11), st.sets(st.integers(0, 63), max_size=9)), max_size=12),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_pairs_are_those_of_comparing_all(hashes, changed, in_bands):
    for index, bits in changed:
        hashes.append(hashes[index % len(hashes)] ^ sum(1 << bit for bit in bits))
    few, duplicates._FEW = duplicates._FEW, 0 if in_bands else duplicates._FEW
    try:
        found = {tuple(sorted(pair)) for pair in close_pairs(hashes)}
    finally:
        duplicates._FEW = few
    expected = {
        (one, other)
        for other in range(len(hashes))
        for one in range(other)
        if (hashes[one] ^ hashes[other]).bit_count() <= NEAR_BITS
    }
    assert found == expected
