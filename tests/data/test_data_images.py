"""Odd pictures come out as a viewer shows them, and placements cut the part they name."""

from __future__ import annotations

import numpy as np
import pytest
from data_helpers import colours, image_set, prepared, scan
from PIL import Image, ImageCms, ImageOps

from simpletune.data.images import load_rgb
from simpletune.errors import DataError


def load(path) -> Image.Image:
    return load_rgb(str(path), path.read_bytes())


def pixels(path) -> np.ndarray:
    picture = load(path)
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def test_16_bit_grey_is_scaled_not_clipped(folder):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(8, axis=0)
    Image.fromarray(ramp).save(folder / "x.png")
    Image.fromarray(ramp).save(folder / "x.tiff")
    for name in ("x.png", "x.tiff"):
        found = pixels(folder / name)
        assert np.abs(found[0, :, 0] - ramp[0] / 257).max() <= 0.5
        assert (found[..., 0] == found[..., 2]).all()


def test_16_bit_tiffs_that_count_from_white(folder):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(8, axis=0)
    Image.fromarray(ramp).save(folder / "x.tiff", tiffinfo={262: 0})
    with Image.open(folder / "x.tiff") as written:
        assert written.mode == "I;16"
        assert written.tag_v2[262] == 0
    assert pixels(folder / "x.tiff")[0, 0, 0] == 255


def test_16_bit_png_with_a_transparent_grey(folder):
    grey = np.full((4, 4), 20000, np.uint16)
    grey[0, 0] = 0
    Image.fromarray(grey).save(folder / "x.png", transparency=0)
    found = pixels(folder / "x.png")
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[1, 1].tolist() == [78, 78, 78]


@pytest.mark.parametrize("name", ["x.jpg", "x.tiff"])
def test_cmyk(folder, name):
    cmyk = Image.new("CMYK", (64, 64), (0, 255, 255, 0))
    cmyk.paste((255, 0, 255, 0), (32, 0, 64, 64))
    cmyk.save(folder / name)
    found = pixels(folder / name)
    assert np.abs(found[5, 5] - [255, 0, 0]).max() < 12
    assert np.abs(found[5, 60] - [0, 255, 0]).max() < 12


def test_colour_profiles_are_converted_to_srgb(folder):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = colours(64, 64)
    for name, profile in (("srgb", srgb), ("xyz", lab), ("damaged", b"x" * 200)):
        plain.save(folder / f"{name}.png", icc_profile=profile)
        assert (pixels(folder / f"{name}.png") == np.asarray(plain)).all(), name


def test_a_wider_colour_space_is_not_taken_for_srgb(folder, wide_profile):
    plain = Image.new("RGB", (8, 8), (200, 100, 50))
    plain.save(folder / "x.png", icc_profile=wide_profile)
    found = pixels(folder / "x.png")[0, 0]
    oracle = ImageCms.profileToProfile(
        plain, ImageCms.ImageCmsProfile(str(folder / "wide.icc")), ImageCms.createProfile("sRGB"), renderingIntent=1
    )
    assert found.tolist() == list(oracle.getpixel((0, 0)))
    assert found.tolist() != [200, 100, 50]
    Image.new("L", (8, 8), 100).save(folder / "grey.png", icc_profile=wide_profile)
    Image.new("RGB", (8, 8), (100, 100, 100)).save(folder / "coloured.png", icc_profile=wide_profile)
    assert (pixels(folder / "grey.png") == pixels(folder / "coloured.png")).all()


@pytest.fixture
def wide_profile(folder) -> bytes:
    """sRGB's profile with red and green colorants exchanged and another name: a colour space that isn't sRGB."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = data.index(b"rXYZ"), data.index(b"gXYZ")
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    data = bytearray(
        bytes(data).replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be")).replace(b"sRGB b", b"wide b")
    )
    (folder / "wide.icc").write_bytes(data)
    return bytes(data)


@pytest.mark.parametrize("name", ["x.png", "x.webp"])
def test_alpha_lies_on_white(folder, name):
    picture = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (32, 0, 64, 64))
    picture.save(folder / name, lossless=True)
    found = pixels(folder / name)
    assert found[5, 5].tolist() == [255, 255, 255]
    assert found[5, 60].tolist() == [0, 0, 255]


def test_half_transparency_grey_alpha_palettes_and_bits(folder):
    Image.new("RGBA", (8, 8), (0, 0, 0, 128)).save(folder / "half.png")
    assert abs(pixels(folder / "half.png")[0, 0, 0] - 127) <= 1
    Image.new("LA", (8, 8), (0, 0)).save(folder / "la.png")
    assert pixels(folder / "la.png")[0, 0].tolist() == [255, 255, 255]
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((0, 0), 0)
    for name, options in (("index.png", {"transparency": 0}), ("bytes.png", {"transparency": b"\0\xff"})):
        palette.save(folder / name, **options)
        assert pixels(folder / name)[0, 0].tolist() == [255, 255, 255]
        assert pixels(folder / name)[1, 1].tolist() == [10, 20, 30]
    Image.new("1", (8, 8), 1).save(folder / "bit.png")
    assert pixels(folder / "bit.png")[0, 0].tolist() == [255, 255, 255]
    Image.new("RGB", (8, 8), (9, 8, 7)).save(folder / "key.png", transparency=(9, 8, 7))
    assert pixels(folder / "key.png")[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png"])
def test_animations_give_their_first_frame(folder, name):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(folder / name, save_all=True, append_images=frames[1:], lossless=True)
    assert pixels(folder / name)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tiff"])
def test_orientations(folder, turn, name):
    exif = Image.Exif()
    exif[0x0112] = turn
    colours(80, 60).save(folder / name, exif=exif)
    with Image.open(folder / name) as opened:
        oracle = np.asarray(ImageOps.exif_transpose(opened).convert("RGB")).astype(int)
    assert (pixels(folder / name) == oracle).all()


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xff\xd8\xff\xe0\0\x10JFIF"])
def test_what_cant_be_decoded_names_the_file(folder, content):
    (folder / "x.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.jpg"):
        load(folder / "x.jpg")


def test_truncated_data_names_the_file(save):
    path = save("x.jpg", colours(300, 200))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"x\.jpg.*damaged or truncated"):
        load(path)


def test_a_bomb_is_refused_undecoded(folder):
    Image.new("1", (20000, 20000)).save(folder / "x.png")
    with pytest.raises(DataError, match="over 178 megapixels"):
        load(folder / "x.png")


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
@pytest.mark.parametrize("style", ["center", "corner", "random"])
def test_prepare_equals_resizing_and_then_cropping(save, folder, name, turn, style):
    exif = Image.Exif()
    exif[0x0112] = turn
    save(name, colours(1203, 801), exif=exif, **({"quality": 95} if name == "x.jpg" else {}))
    (sample,) = scan(image_set(folder, crop=True, crop_style=style), 16, 1).samples
    found = prepared(sample, folder)
    whole = load(folder / name).resize(sample.placements[0].resized, Image.Resampling.LANCZOS)
    expected = np.asarray(whole.crop(sample.placements[0].crop)).astype(int)
    assert found.shape == (64, 64, 3)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 4


def test_prepare_refuses_a_picture_that_changed_its_size(save, folder):
    save("x.png")
    (sample,) = scan(image_set(folder), 16, 1).samples
    save("x.png", colours(60, 80))
    with pytest.raises(DataError, match="changed since it was scanned: it was 80x60 and is 60x80"):
        prepared(sample, folder)


def test_prepare_enlarges_extreme_shapes_without_a_huge_picture_in_between(save, folder):
    save("x.png", colours(2000, 2))
    (sample,) = scan(image_set(folder, crop=True), 16, 1).samples
    assert prepared(sample, folder).shape == (64, 64, 3)
