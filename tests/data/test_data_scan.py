"""What a scan finds in a folder, and every reason for which it leaves a picture out."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from data_helpers import colours, image_set, scan
from PIL import Image

from simpletune.data.local import list_images
from simpletune.data.sources import Reason, SourceError, shown


def reasons(folder: Path, **changes) -> dict[str, str]:
    result = scan(image_set(folder, **changes), 16, seed=1)
    assert list(result.excluded) == sorted(result.excluded, key=lambda exclusion: exclusion.name)
    return {exclusion.name: exclusion.reason for exclusion in result.excluded}


def only_exclusion(folder: Path, **changes) -> tuple[str, str]:
    result = scan(image_set(folder, **changes), 16, seed=1)
    (exclusion,) = result.excluded
    return exclusion.reason, exclusion.detail


def test_pictures_of_every_format_are_found_in_a_stable_order(save, folder):
    for name in (
        "b.png",
        "a.jpg",
        "sub/deeper/c.webp",
        "a.png",
        "B.PNG",
        "t.tiff",
        "g.gif",
        "m.bmp",
        "v.avif",
        "j.jpeg",
    ):
        save(name)
    (folder / "notes.txt").write_text("x")
    (folder / "Thumbs.db").write_bytes(b"x")
    save(".hidden.png")
    save(".cache/d.png")
    result = scan(image_set(folder), 16, seed=1)
    names = [sample.name for sample in result.samples]
    assert names == sorted(names)
    assert set(names) == {
        *("B.PNG", "a.jpg", "a.png", "b.png", "g.gif", "j.jpeg", "m.bmp", "sub/deeper/c.webp", "t.tiff", "v.avif")
    }
    assert result.excluded == ()
    assert result.other == 2
    assert result.found == 10
    assert all((sample.width, sample.height) == (80, 60) for sample in result.samples)


def test_a_slow_folder_is_read_in_threads_with_the_same_result(save, folder, monkeypatch):
    first = save("000.png", colours(64, 64))
    for number in range(1, 150):
        (folder / f"{number:03}.png").write_bytes(first.read_bytes())
    (folder / "100.png").write_bytes(b"")
    quick = scan(image_set(folder), 16, seed=1)
    really_open, threads = os.open, set()

    def slow_open(path, *arguments, **options):
        time.sleep(0.002)
        threads.add(threading.current_thread().name)
        return really_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", slow_open)
    assert scan(image_set(folder), 16, seed=1) == quick
    assert len(quick.samples) == 149
    assert len(threads) > 4


def test_an_extension_that_lies_about_a_readable_picture_does_no_harm(save, folder):
    save("really.png").rename(folder / "named.jpg")
    result = scan(image_set(folder), 16, seed=1)
    assert [sample.name for sample in result.samples] == ["named.jpg"]


def test_odd_names(save, folder):
    for name in ("a b.png", "new\nline.png", "😀.png", "a.jpg", "a.png"):
        save(name)
    broken = os.fsencode(folder) + b"/\xff.png"
    Path(os.fsdecode(broken)).write_bytes((folder / "a.png").read_bytes())
    result = scan(image_set(folder, crop=True, crop_style="random"), 16, seed=1)
    assert len(result.samples) == 6
    captions = {sample.name: sample.captions[0] for sample in result.samples}
    assert captions["new\nline.png"] == "new line"
    assert captions["😀.png"] == "😀"
    assert captions["\udcff.png"] == "\ufffd"
    assert shown("new\nline\udcff😀.png") == "new\\nline\\udcff😀.png"


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "cut.gif", "cut.bmp", "cut.webp"])
def test_truncated(save, folder, name):
    path = save(name, colours(300, 200))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    reason, _ = only_exclusion(folder)
    assert reason in {Reason.TRUNCATED, Reason.UNREADABLE}
    if name != "cut.webp":
        assert reason == Reason.TRUNCATED


@pytest.mark.parametrize("name", ["padded.jpg", "padded.png"])
def test_bytes_after_the_end_are_no_fault(save, folder, name):
    path = save(name)
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert reasons(folder) == {}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"no picture at all", "no picture format"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
    ],
)
def test_content_that_is_no_picture(folder, content, told):
    (folder / "x.png").write_bytes(content)
    reason, detail = only_exclusion(folder)
    assert reason == Reason.UNREADABLE
    assert told in detail


def test_zero_bytes_unsupported_and_not_files(folder, save):
    save("good.png")
    (folder / "empty.png").touch()
    (folder / "phone.HEIC").write_bytes(b"x")
    (folder / "nowhere.jpg").symlink_to(folder / "gone.jpg")
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    os.mkfifo(folder / "pipe.jpg")
    assert reasons(folder) == {
        "empty.png": Reason.ZERO_BYTES,
        "phone.HEIC": Reason.UNSUPPORTED,
        "nowhere.jpg": Reason.BROKEN_LINK,
        "itself.jpg": Reason.BROKEN_LINK,
        "pipe.jpg": Reason.NOT_A_FILE,
    }


def test_bomb_sized_and_32_bit_pictures_are_never_decoded(folder, save):
    Image.new("1", (20000, 20000)).save(folder / "bomb.png")
    Image.new("F", (64, 64)).save(folder / "float.tiff")
    assert reasons(folder) == {"bomb.png": Reason.TOO_LARGE, "float.tiff": Reason.PIXEL_KIND}


def test_permissions(save, folder, monkeypatch):
    save("locked.png")
    save("closed/x.png")
    really_open, really_scandir = os.open, os.scandir

    def refuse_open(path, *arguments, **options):
        if str(path).endswith("locked.png"):
            raise PermissionError(13, "Permission denied")
        return really_open(path, *arguments, **options)

    def refuse_scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return really_scandir(path)

    monkeypatch.setattr(os, "open", refuse_open)  # a test may run as root, whom no mode keeps out
    monkeypatch.setattr(os, "scandir", refuse_scandir)
    assert reasons(folder) == {"closed/": Reason.PERMISSION, "locked.png": Reason.PERMISSION}


def test_sizes_and_aspects(save, folder):
    save("small.png", colours(20, 60))
    save("wide.png", colours(200, 60))
    save("good.png", colours(100, 60))
    found = reasons(folder, minimum_image_size=50, maximum_aspect_ratio=2.0)
    assert found == {"small.png": Reason.TOO_SMALL, "wide.png": Reason.ASPECT}
    assert reasons(folder, resolution=128, max_upscale_threshold=0.5)["small.png"] == Reason.UPSCALE


def test_max_num_samples_is_a_stable_choice_by_seed(save, folder):
    for number in range(12):
        save(f"{number}.png")

    def kept(seed: int) -> set[str]:
        result = scan(image_set(folder, max_num_samples=4), 16, seed)
        assert {e.reason for e in result.excluded} == {Reason.OVER_LIMIT}
        assert result.found == 12
        return {sample.name for sample in result.samples}

    assert len(kept(1)) == 4
    assert kept(1) == kept(1)
    assert len({frozenset(kept(seed)) for seed in range(6)}) > 3


def test_links_are_followed_once_and_loops_end(save, folder, tmp_path):
    save("real/x.png")
    (folder / "a-link").symlink_to(folder / "real", target_is_directory=True)
    (folder / "real" / "loop").symlink_to(folder, target_is_directory=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    colours(40, 40).save(outside / "y.png")
    (folder / "out").symlink_to(outside, target_is_directory=True)
    assert [file.name for file in list_images(folder).files] == ["out/y.png", "real/x.png"]


def test_a_missing_folder_is_an_error_that_names_it(tmp_path):
    with pytest.raises(SourceError, match="No such file or directory") as raised:
        scan(image_set(tmp_path / "none"), 16, 1)
    assert str(tmp_path / "none") in raised.value.message


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.tiff"])
def test_sizes_are_upright(save, folder, turn, name):
    exif = Image.Exif()
    exif[0x0112] = turn
    save(name, exif=exif)
    (sample,) = scan(image_set(folder), 16, 1).samples
    assert (sample.width, sample.height) == ((60, 80) if turn >= 5 else (80, 60))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_is_ignored(save, folder):
    save("x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert len(scan(image_set(folder), 16, 1).samples) == 1
