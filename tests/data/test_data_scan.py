"""What a scan finds in a folder, and every reason for which it leaves a picture out."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path

import pytest
from data_helpers import colours, image_set, scan
from PIL import Image

from simpletune.data.scan import SHARED_TEXT
from simpletune.data.scan import scan as scan_source
from simpletune.data.sources import Reason, SourceError, open_source, shown
from simpletune.data.sources.local import Folder, list_images


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


@pytest.mark.parametrize(
    ("name", "picture", "options"),
    [
        ("16-bit.png", Image.new("I;16", (80, 60), 40000), {}),
        ("16-bit.tiff", Image.new("I;16", (80, 60), 40000), {}),
        ("cmyk.jpg", Image.new("CMYK", (80, 60)), {}),
        ("palette.png", Image.new("P", (80, 60)), {"transparency": 0}),
        ("animated.gif", Image.new("L", (80, 60)), {"save_all": True, "append_images": [Image.new("L", (80, 60), 9)]}),
        ("animated.png", Image.new("L", (80, 60)), {"save_all": True, "append_images": [Image.new("L", (80, 60), 9)]}),
        ("animated.webp", Image.new("L", (80, 60)), {"save_all": True, "append_images": [Image.new("L", (80, 60), 9)]}),
    ],
)
def test_kinds_of_pixels_and_films_are_used(save, folder, name, picture, options):
    save(name, picture, **options)
    (sample,) = scan(image_set(folder), 16, 1).samples
    assert (sample.width, sample.height) == (80, 60)


def test_one_text_file_for_two_pictures_is_said(save, folder):
    for name in ("a.jpg", "a.png", "b.png", "c.jpg", "c.png", "sub/a.png"):
        save(name)
        (folder / name).with_suffix(".txt").write_text("a caption")
    (folder / "c.txt").unlink()
    notes = scan(image_set(folder, caption_strategy="textfile"), 16, 1).notes
    assert notes == {SHARED_TEXT: ("a.jpg", "a.png")}
    assert scan(image_set(folder), 16, 1).notes == {}


def test_progress_goes_up_to_all(save, folder):
    first = save("000.png")
    for number in range(1, 100):
        (folder / f"{number:03}.png").write_bytes(first.read_bytes())
    told = []
    chosen = image_set(folder)
    scan_source(chosen, open_source(chosen), 16, 1, progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 100)
    assert told[-1] == (100, 100)
    assert told == sorted(told)


def test_a_table_tells_sizes_so_that_no_picture_is_opened(save, folder, tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        save(name)
    table = tmp_path / "captions.csv"
    table.write_text("file_name,caption,width,height\na.png,one,81,61\nb.png,two,,\n")
    chosen = image_set(
        folder, caption_strategy="csv", metadata_path=table, width_column="width", height_column="height"
    )
    opened, really_open = [], os.open
    monkeypatch.setattr(
        os, "open", lambda path, *more, **named: (opened.append(path), really_open(path, *more, **named))[1]
    )
    result = scan(chosen, 16, 1)
    assert [(s.name, s.width, s.height, s.captions) for s in result.samples] == [
        ("a.png", 81, 61, ("one",)),
        ("b.png", 80, 60, ("two",)),
    ]
    assert [Path(path).name for path in opened] == ["b.png"]
    assert len(result.remarks) == 1


def test_a_source_that_fails_as_a_whole_ends_the_scan(save, folder, monkeypatch):
    save("a.png")

    def gone(*_: object) -> None:
        raise SourceError("the bucket is gone", "look for it")

    monkeypatch.setattr(Folder, "read_ends", gone)
    with pytest.raises(SourceError, match="the bucket is gone"):
        scan(image_set(folder), 16, 1)


def test_a_drive_that_fails_while_a_header_is_read_says_nothing_of_the_picture(save, folder, monkeypatch):
    save("a.tiff", colours(300, 200))

    class Failing(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(Folder, "open", lambda *_: Failing())
    assert only_exclusion(folder) == (Reason.READ_FAILED, "Input/output error")


def into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES_WHILE_READ = {
    "vanishes": (Path.unlink, Reason.CHANGED),
    "becomes a folder": (into_folder, Reason.CHANGED),
    "grows": (lambda path: path.write_bytes(path.read_bytes() + bytes(100_000)), None),
    "is emptied": (lambda path: path.write_bytes(b""), Reason.UNREADABLE),
    "shrinks": (lambda path: path.write_bytes(path.read_bytes()[:5]), Reason.UNREADABLE),
    "becomes another": (lambda path: colours(20, 20).save(path), None),
    "can't be opened": (lambda path: (path.unlink(), path.symlink_to(path)), Reason.READ_FAILED),
}


@pytest.mark.parametrize("size", [(80, 60), (400, 300)])
@pytest.mark.parametrize("what", CHANGES_WHILE_READ)
def test_a_file_that_changes_between_listing_and_look(save, folder, monkeypatch, what, size):
    change, reason = CHANGES_WHILE_READ[what]
    noise = Image.effect_noise(size, 90)
    save("a.png")
    save("b.png", noise)
    save("c.png")
    really_list = Folder.list

    def list_then_change(self):
        listing = really_list(self)
        change(folder / "b.png")
        return listing

    monkeypatch.setattr(Folder, "list", list_then_change)
    result = scan(image_set(folder), 16, 1)
    assert dict(result.reasons) == ({} if reason is None else {reason.value: 1})
    assert result.found == 3


@pytest.mark.parametrize("change", ["vanish", "subfolder"])
def test_a_folder_that_changes_while_it_is_listed(save, folder, tmp_path, monkeypatch, change):
    for name in ("a.png", "b.png", "sub/c.png", "sub/deeper/d.png"):
        save(name)
        (folder / name).with_suffix(".txt").write_text("a caption")
    really_scandir = os.scandir

    class Changing:
        """A listing after which something is gone, before anybody looks at its entries."""

        def __init__(self, path) -> None:
            with really_scandir(path) as entries:
                self._entries = sorted(entries, key=lambda entry: entry.name)
            if change == "vanish":
                for path in (folder / "b.png", folder / "a.txt"):
                    path.unlink(missing_ok=True)
            elif (folder / "sub").exists():
                (folder / "sub").rename(tmp_path / "elsewhere")

        def __enter__(self):
            return iter(self._entries)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Changing)
    result = scan(image_set(folder, caption_strategy="textfile"), 16, 1)
    excluded = {exclusion.name: exclusion.reason for exclusion in result.excluded}
    if change == "vanish":
        assert excluded == {"a.png": Reason.NO_CAPTION, "b.png": Reason.CHANGED}
        assert [sample.name for sample in result.samples] == ["sub/c.png", "sub/deeper/d.png"]
    else:
        assert excluded == {"sub/": Reason.CHANGED}
        assert [sample.name for sample in result.samples] == ["a.png", "b.png"]


def test_a_listing_that_breaks_off(save, folder, monkeypatch):
    save("a.png")
    save("sub/b.png")
    really_scandir = os.scandir

    class Breaking:
        def __init__(self, path) -> None:
            self._path = path

        def __enter__(self):
            with really_scandir(self._path) as entries:
                yield from list(entries)[:1]
            raise OSError(5, "Input/output error")

        def __exit__(self, *_: object) -> None:
            pass

    class BelowOnly(Breaking):
        def __enter__(self):
            with really_scandir(self._path) as entries:
                found = list(entries)
            return iter(found) if not str(self._path).endswith("sub") else Breaking.__enter__(self)

    monkeypatch.setattr(os, "scandir", BelowOnly)
    assert reasons(folder) == {"sub/": Reason.READ_FAILED}
    monkeypatch.setattr(os, "scandir", Breaking)
    with pytest.raises(SourceError, match="Input/output error"):
        scan(image_set(folder), 16, 1)


def test_a_picture_linked_from_elsewhere_is_used(folder, tmp_path):
    colours(40, 30).save(tmp_path / "elsewhere.png")
    (folder / "here.png").symlink_to(tmp_path / "elsewhere.png")
    (sample,) = scan(image_set(folder), 16, 1).samples
    assert sample.stamp == open_source(image_set(folder)).stamp("here.png")
    assert sample.stamp[0] == (tmp_path / "elsewhere.png").stat().st_size
