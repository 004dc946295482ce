"""Masks are cut as their pictures are, and kept by what they are made from."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_helpers import colours, image_set, scan, sources
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simpletune.data.caches.mask_cache import MASK, fill_mask_cache
from simpletune.data.geometry import Placement
from simpletune.data.images import prepare
from simpletune.data.index import Index
from simpletune.data.masks import ALPHA, FOLDER, latent_weights, without_masks
from simpletune.data.sources import Reason, Rejected
from simpletune.data.sources.local import Folder
from simpletune.errors import DataError

CONFIG = Path("/nowhere/config.json")


def grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8))


def png(picture: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    return file.getvalue()


def weights(mask: Image.Image, placement: Placement, kind: str = FOLDER, size=None, scale: int = 8, **options):
    return latent_weights("mask.png", png(mask, **options), kind, size or mask.size, placement, scale)


def plain(width: int, height: int, **changes) -> Placement:
    return replace(Placement((width, height), (0, 0, width, height), (width, height)), **changes)


def test_white_counts_black_is_ignored_grey_counts_partly_and_areas_are_averaged():
    values = np.zeros((16, 24))
    values[:8, :8] = 255
    values[:8, 8:16] = 51
    values[8:, 16:20] = 255
    assert weights(grey(values), plain(24, 16)).tolist() == [[[1.0, pytest.approx(0.2), 0.0], [0.0, 0.0, 0.5]]]


@given(
    st.tuples(st.integers(24, 90), st.integers(24, 90)),
    st.booleans(),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(1, 2.5),
    st.sampled_from([1, 2, 3]),
)
@settings(max_examples=40, deadline=None)
def test_a_mask_is_cut_resized_and_mirrored_as_its_picture(size, mirrored, across, down, grown, finer):
    """A picture that is white on the right of a slanted edge and its own mask: the same place counts as is white."""
    bucket = 32, 24
    factor = max(bucket[0] / size[0], bucket[1] / size[1]) * grown
    resized = max(bucket[0], round(size[0] * factor)), max(bucket[1], round(size[1] * factor))
    left, top = int(across * (resized[0] - bucket[0])), int(down * (resized[1] - bucket[1]))
    placement = Placement(resized, (left, top, left + bucket[0], top + bucket[1]), bucket, mirrored)
    column, row = np.meshgrid(np.arange(size[0]) / size[0], np.arange(size[1]) / size[1])
    white = grey(255 * (column + row / 2 > 0.7))
    seen = prepare("a.png", png(white), size, placement)[:, :, 0].astype(float) / 255
    expected = seen.reshape(3, 8, 4, 8).mean(axis=(1, 3))
    mask = white.resize((size[0] * finer, size[1] * finer), Image.Resampling.NEAREST)
    found = weights(mask, placement, size=size)
    if isinstance(found, Rejected):
        assert expected.max() < 0.05
    else:
        assert np.abs(found[0] - expected).max() < 0.12


def test_transparency_is_a_mask():
    rgba = colours(16, 8).convert("RGBA")
    rgba.putalpha(grey(np.repeat([[0, 255]], 8, axis=1).repeat(8, axis=0)))
    assert weights(rgba, plain(16, 8), ALPHA).tolist() == [[[0.0, 1.0]]]
    palette = Image.new("P", (16, 8), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.paste(1, (8, 0, 16, 8))
    assert weights(palette, plain(16, 8), ALPHA, transparency=0).tolist() == [[[0.0, 1.0]]]
    deep = Image.fromarray(np.repeat([[7, 9]], 8, axis=1).repeat(8, axis=0).astype(np.uint16))
    assert weights(deep, plain(16, 8), ALPHA, transparency=7).tolist() == [[[0.0, 1.0]]]
    assert weights(colours(16, 8), plain(16, 8), ALPHA).tolist() == [[[1.0, 1.0]]]


def test_a_mask_painted_on_an_empty_layer_ignores_what_is_empty():
    painted = Image.new("RGBA", (16, 8), (255, 255, 255, 0))
    painted.paste((255, 255, 255, 255), (8, 0, 16, 8))
    assert weights(painted, plain(16, 8)).tolist() == [[[0.0, 1.0]]]


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK", "P", "I;16"])
def test_masks_of_every_kind_of_pixels_are_read(mode):
    values = np.zeros((8, 16))
    values[:, 8:] = 255
    mask = Image.fromarray((values * 257).astype(np.uint16)) if mode == "I;16" else grey(values).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    file = io.BytesIO()
    mask.save(file, kind)
    found = latent_weights("m", file.getvalue(), FOLDER, (16, 8), plain(16, 8), 8)
    assert np.allclose(found, [[[0.0, 1.0]]], atol=0.01)


def test_a_turned_mask_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: what is on the left belongs on top
    values = np.zeros((8, 16))
    values[:, :8] = 255
    assert weights(grey(values), plain(8, 16), size=(8, 16), exif=exif).tolist() == [[[1.0], [0.0]]]


def test_what_cannot_be_a_mask_says_why():
    dark = weights(grey(np.zeros((8, 8))), plain(8, 8))
    assert (dark.reason, "all of it is black" in dark.detail) == (Reason.DARK_MASK, True)
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert "transparent" in weights(clear, plain(8, 8), ALPHA).detail
    elsewhere = np.zeros((8, 16))
    elsewhere[:, 8:] = 255
    cut = Placement((16, 8), (0, 0, 8, 8), (8, 8))
    assert weights(grey(elsewhere), cut).reason == Reason.DARK_MASK
    other = weights(grey(np.ones((8, 8)) * 255), plain(16, 8), size=(16, 8))
    assert (other.reason, "8x8" in other.detail, "16x8" in other.detail) == (Reason.MASK, True, True)
    noise = grey(np.random.default_rng(0).integers(0, 255, (90, 90)))
    for data in (b"", b"no picture", png(noise)[:2000]):
        assert latent_weights("m", data, FOLDER, (8, 8), plain(8, 8), 8).reason == Reason.MASK


@pytest.fixture
def masked(save, folder):
    """Six pictures of 80x60, and a folder with a mask for each, white on the left."""
    left = np.zeros((60, 80))
    left[:, :40] = 255
    masks = folder.parent / "masks"
    (masks / "sub").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "sub/a.png", "sub/c.webp", "d.png", "e.png"):
        save(name)
        grey(left).save(masks / Path(name).with_suffix(".png"))
    return image_set(folder, mask_source=FOLDER, mask_data_dir=masks, resolution=64)


def fill(chosen, told, indexes=None):
    samples = scan(chosen, 16, 0).samples
    return fill_mask_cache(samples, [chosen], sources(chosen), 8, CONFIG, told, indexes)


def entries(chosen) -> set[Path]:
    return set(chosen.cache_dir_vae.rglob("*.safetensors"))


def test_every_picture_gets_its_mask_and_a_second_time_none_is_read(masked, told, monkeypatch):
    made = fill(masked, told)
    assert len(made.entries) == 6
    assert not made.excluded
    for (_, name), (stored,) in made.entries.items():
        mask = stored.load()[MASK]
        assert mask.shape == (1, 7, 9) or mask.shape[0] == 1, name
        assert mask[0, :, 0].tolist() == [1.0] * mask.shape[1]
        assert mask[0, :, -1].tolist() == [0.0] * mask.shape[1]
    before = {path: path.stat().st_mtime_ns for path in entries(masked)}
    assert fill(masked, told).entries == made.entries
    assert {path: path.stat().st_mtime_ns for path in entries(masked)} == before


def test_exactly_what_changed_is_made_again(masked, told):
    first = fill(masked, told)
    known = entries(masked)
    grey(np.full((60, 80), 200)).save(masked.mask_data_dir / "a.png")
    second = fill(masked, told)
    assert len(entries(masked) - known) == 1
    assert [id for id in first.entries if first.entries[id] != second.entries[id]] == [("pictures", "a.png")]
    third = fill(replace(masked, horizontal_flip=True), told)
    assert len(entries(masked) - known) > 1
    plain_, mirrored = (stored.load()[MASK] for stored in third.entries["pictures", "d.png"])
    assert plain_.flip(-1).tolist() == mirrored.tolist()


def test_pictures_without_a_usable_mask_are_left_out_and_told(masked, told):
    masks = masked.mask_data_dir
    (masks / "a.png").unlink()
    grey(np.zeros((60, 80))).save(masks / "b.png")
    (masks / "d.png").write_bytes(b"broken")
    (masks / "e.png").write_bytes(b"")
    grey(np.full((60, 60), 255)).save(masks / "sub/a.png")
    made = fill(masked, told)
    reasons = {exclusion.name: exclusion.reason for exclusion in made.excluded}
    assert reasons == {
        "a.png": Reason.NO_MASK.value,
        "b.jpg": Reason.DARK_MASK.value,
        "d.png": Reason.MASK.value,
        "e.png": Reason.MASK.value,
        "sub/a.png": Reason.MASK.value,
    }
    assert set(made.entries) == {("pictures", "sub/c.webp")}
    assert all(any(name in line for line in told.warnings) for name in ("a.png", "b.jpg", "d.png"))
    (unusable,) = [line for line in told.warnings if "left out: 3 its mask can't be used" in line]
    for each in ("d.png: it can't be read as a picture", "there is nothing in it", "60x60, of another shape"):
        assert each in unusable
    samples = scan(masked, 16, 0).samples
    assert [exclusion.name for exclusion in without_masks(masked, samples)] == ["a.png", "e.png"]


def test_a_data_set_without_any_mask_is_an_error(masked, told, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match='data set "pictures": none of its 6 pictures has a mask'):
        fill(replace(masked, mask_data_dir=tmp_path / "none"), told)
    with pytest.raises(DataError, match=r"mask_data_dir: .* can't be read"):
        fill(replace(masked, mask_data_dir=tmp_path / "nowhere"), told)


def test_of_several_masks_the_one_of_the_same_name_is_taken(save, folder, told):
    save("x.jpg")
    masks = folder.parent / "masks"
    masks.mkdir()
    for name, value in (("x.jpg", 255), ("x.bmp", 100)):
        grey(np.full((60, 80), value)).save(masks / name)
    chosen = image_set(folder, mask_source=FOLDER, mask_data_dir=masks)
    (stored,) = fill(chosen, told).entries["pictures", "x.jpg"]
    assert stored.load()[MASK].min() > 0.99
    (masks / "x.jpg").unlink()
    (stored,) = fill(chosen, told).entries["pictures", "x.jpg"]
    assert stored.load()[MASK].max() < 0.5


def test_own_transparency_counts_and_opaque_pictures_are_told(save, folder, told):
    faded = colours(80, 60).convert("RGBA")
    faded.putalpha(128)
    save("a.png", faded)
    save("b.png")
    made = fill(image_set(folder, mask_source=ALPHA), told)
    assert np.allclose(made.entries["pictures", "a.png"][0].load()[MASK], 128 / 255)
    assert made.entries["pictures", "b.png"][0].load()[MASK].min() == 1
    assert any("1 of 2 pictures have no transparency" in line for line in told.warnings)


def test_files_that_an_index_knows_are_not_read_again(save, folder, masked, told, monkeypatch):
    monkeypatch.setattr("simpletune.data.index.is_settled", lambda *_: True)  # the files are seconds old
    see_through = image_set(folder, mask_source=ALPHA, id="see-through")
    index = Index()
    first = [fill(masked, told), fill(see_through, told, {"see-through": index})]
    reads = []
    monkeypatch.setattr(Folder, "read", lambda _, name: reads.append(name))
    again = [fill(masked, told), fill(see_through, told, {"see-through": index})]
    assert [made.entries for made in again] == [made.entries for made in first]
    assert reads == []


def test_a_damaged_entry_is_made_again_unless_the_mask_has_changed(masked, told):
    made = fill(masked, told)
    sample = next(one for one in scan(masked, 16, 0).samples if one.name == "d.png")
    (stored,) = made.entries[sample.id]
    before = stored.load()[MASK]
    stored.cache.path(stored.key).write_bytes(b"damaged")
    assert made.repair(sample, 0, stored)[MASK].equal(before)
    assert stored.load()[MASK].equal(before)
    stored.cache.path(stored.key).unlink()
    grey(np.full((60, 80), 77)).save(masked.mask_data_dir / "d.png")
    with pytest.raises(DataError, match="has changed since the run started"):
        made.repair(sample, 0, stored)


def test_nothing_is_written_to_the_folder_of_masks(masked, told):
    def state() -> dict[Path, tuple[int, bytes]]:
        return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in masked.mask_data_dir.rglob("*") if p.is_file()}

    before = state()
    fill(masked, told)
    assert state() == before
