"""A survey says what the scan would, of any folder whatever, and never takes longer than it may."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from data_helpers import colours, image_set, scan
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.data.sources import Reason
from simpletune.data.survey import Survey, below, folder_typed, lines, survey
from simpletune.data.survey.names import reads_like_a_caption
from simpletune.data.survey.wording import BLOCKS, NONE, SIGNS, columns


def caption(folder: Path, name: str, text: str) -> None:
    (folder / name).with_suffix(".txt").write_text(text, encoding="utf-8")


@pytest.fixture
def mixed(save, folder) -> Path:
    """A folder with something of everything."""
    for name in ("red_parrot_on_branch.png", "IMG_2034.jpg", "sub/blue whale.png", "a [b] 😀.png", "é.png"):
        save(name)
    save("tall.png", colours(50, 300))
    save("empty-text.png")
    caption(folder, "red_parrot_on_branch.png", "a red parrot")
    caption(folder, "IMG_2034.jpg", "first line\nsecond line")
    caption(folder, "é.png", "a whale")
    caption(folder, "sub/blue whale.png", "a whale")
    caption(folder, "empty-text.png", " \n")
    (folder / "empty.png").touch()
    (folder / "phone.heic").write_bytes(b"x")
    (folder / "page.png").write_bytes(b"<html>")
    (folder / "nowhere.jpg").symlink_to(folder / "gone.jpg")
    (folder / "movie.mp4").write_bytes(b"x")
    return folder


def test_what_is_in_a_folder(mixed):
    found = survey(mixed)
    assert found.complete
    assert found.problem is None
    assert (found.pictures, found.looked_at, found.readable, found.usable) == (11, 11, 7, 7)
    assert (found.with_text, found.empty_text, found.missing_text) == (4, 1, 2)
    assert dict(found.unreadable) == {
        "empty.png": Reason.ZERO_BYTES,
        "phone.heic": Reason.UNSUPPORTED,
        "page.png": Reason.UNREADABLE,
        "nowhere.jpg": Reason.BROKEN_LINK,
    }
    assert found.sizes == {(80, 60): 6, (50, 300): 1}
    assert set(found.captions) == {"a red parrot", "first line", "second line", "a whale"}
    assert found.commonest == ("a whale", 2)
    assert found.likely_names == 3
    assert {"parrot", "whale", "branch"} <= found.words
    assert found.other_files == {".txt": 5, ".mp4": 1}
    assert below(found, 70) == 6
    assert below(found, 70, square=True) == 7


@pytest.mark.parametrize("strategy", ["textfile", "filename"])
def test_it_agrees_with_the_scan(mixed, strategy):
    found, scanned = survey(mixed), scan(image_set(mixed, caption_strategy=strategy), 16, 1)
    reasons = scanned.reasons
    assert found.pictures == scanned.found
    assert found.readable == len(scanned.samples) + reasons[Reason.NO_CAPTION]
    assert found.reasons == {reason: count for reason, count in reasons.items() if reason != Reason.NO_CAPTION}
    captions = found.captions if strategy == "textfile" else found.name_captions
    assert set(captions) == {caption for sample in scanned.samples for caption in sample.captions}
    if strategy == "textfile":
        assert found.with_text == len(scanned.samples)


def test_the_same_twice(mixed):
    first, second = survey(mixed), survey(mixed)
    assert replace(first, seconds=0) == replace(second, seconds=0)


really_scandir = os.scandir


class Listing:
    """os.scandir in the order of names, over a line where each takes `seconds`."""

    def __init__(self, path, seconds: float = 0.0) -> None:
        with really_scandir(path) as entries:
            self._entries = sorted(entries, key=lambda entry: entry.name)
        self._seconds = seconds

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def __iter__(self):
        for entry in self._entries:
            if self._seconds:
                time.sleep(self._seconds)
            yield entry


def test_a_part_of_many_stands_for_all(save, folder, monkeypatch):
    small, large = save("small.png", colours(20, 20)), save("large.png", colours(40, 40))
    for number in range(1500):
        (folder / f"{number:04}.png").write_bytes((small if number < 750 else large).read_bytes())
    for path in (small, large):
        path.unlink()
    really_open = os.open
    monkeypatch.setattr(os, "open", lambda *given, **more: (time.sleep(0.01), really_open(*given, **more))[1])
    monkeypatch.setattr(os, "scandir", Listing)
    found = survey(folder, 0.6)
    assert found.listed_all
    assert found.pictures == 1500
    assert 20 <= found.looked_at < 1500
    assert not found.complete
    assert abs(found.sizes[20, 20] / found.looked_at - 0.5) < 0.1
    assert found.usable == 1500
    assert f"looked at {found.looked_at:,} of 1,500 pictures in" in lines(found, 64, 80)[0]


@pytest.mark.parametrize("kind", ["png", "dat"])
def test_a_listing_without_end_leaves_time_to_look(save, folder, monkeypatch, kind):
    content = save("first.png").read_bytes()
    for number in range(1500):
        (folder / f"{number}.{kind}").write_bytes(content)
    (folder / "first.png").unlink()
    monkeypatch.setattr(os, "scandir", lambda path: Listing(path, 0.0005))
    found = timed(folder, 0.5)
    assert not found.listed_all
    assert not found.complete
    if kind == "png":
        assert 0 < found.looked_at <= found.pictures < 1500
        assert f"of {found.pictures:,} or more pictures" in lines(found, 64, 80)[0]
    else:
        assert f"no picture among the first {found.other_files['.dat']:,} files" in found.problem


def timed(folder: Path, budget: float) -> Survey:
    began = time.monotonic()
    found = survey(folder, budget)
    assert time.monotonic() - began < budget + 5, "0.1 s over it when nothing else runs; what hangs here does for 20 s"
    return found


def test_a_folder_whose_listing_hangs(save, folder, monkeypatch):
    save("a.png")
    release = threading.Event()

    def hang(path):
        release.wait(20)
        return really_scandir(path)

    monkeypatch.setattr(os, "scandir", hang)
    found = timed(folder, 0.2)
    release.set()
    assert found.problem == f"{folder} didn't answer within 0.2 s"
    assert "try again" in found.hint


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file leases")
def test_a_file_that_cannot_be_opened_for_long(save, folder):
    """Another process has a lease on the file: the kernel keeps whoever opens it waiting, for 45 s as a rule."""
    save("a.png")
    held = save("b.png")
    holder = (
        "import fcntl, os, signal, sys, time; signal.signal(signal.SIGIO, signal.SIG_IGN);"
        "fd = os.open(sys.argv[1], os.O_RDWR); fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK);"
        "print('held', flush=True); time.sleep(30)"
    )
    with subprocess.Popen([sys.executable, "-c", holder, held], stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout.readline() != "held\n":
                pytest.skip("this file system gives no leases")
            found = timed(folder, 0.4)
            assert found.pictures == 2
            assert found.looked_at < 2
            assert not found.complete
        finally:
            process.kill()


def test_a_pipe_in_a_captions_place_is_not_waited_for(save, folder):
    for name in ("a.png", "é.png"):
        save(name)
        os.mkfifo(folder / Path(name).with_suffix(".txt"))
    found = survey(folder)
    assert found.complete
    assert found.missing_text == 2
    assert len(scan(image_set(folder, caption_strategy="textfile"), 16, 1).excluded) == 2


def test_a_slow_folder_is_looked_at_by_several(save, folder, monkeypatch):
    first = save("000.png")
    for number in range(1, 120):
        (folder / f"{number:03}.png").write_bytes(first.read_bytes())
    really_open = os.open
    monkeypatch.setattr(os, "open", lambda *given, **more: (time.sleep(0.03), really_open(*given, **more))[1])
    assert survey(folder, 3).complete, "one after the other they take 3.6 s"


def test_loops_of_links(save, folder):
    save("real/x.png")
    (folder / "real" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "itself").symlink_to(folder / "itself")
    found = survey(folder)
    assert (found.pictures, found.complete) == (1, True)


@pytest.mark.parametrize("name", ["with space", "[my set]", "😀", "a'b\"c", "back\\slash", "100%", "-rf"])
def test_folders_of_any_name(save, folder, tmp_path, name):
    save("x.png")
    odd = folder.rename(tmp_path / name)
    assert survey(odd).readable == 1
    assert survey(folder_typed(f"{name}/" if name != "back\\slash" else "back\\\\slash/", tmp_path)).readable == 1


def test_folders_that_cannot_be_used(folder, tmp_path, monkeypatch):
    def problem(path: Path) -> tuple[str, str]:
        found = survey(path)
        assert not found.sizes
        assert lines(found, 64, 80)
        return found.problem, found.hint

    assert problem(tmp_path / "picture") == (
        f"there is no folder {tmp_path}/picture",
        f'{tmp_path} has no "picture"; did you mean "pictures"?',
    )
    assert "check its spelling" in problem(tmp_path / "zzz" / "deeper")[1]
    said, hint = problem(folder)
    assert said == f"there are no pictures in {folder}"
    assert "jpg" in hint
    (folder / "a.mp4").touch()
    (folder / "README").touch()
    assert problem(folder)[0].endswith("(only 1 without an extension, 1 .mp4)")
    file = folder / "a.mp4"
    assert problem(file) == (f"{file} is a file, not a folder", f"Give the folder it lies in: {folder}")
    assert problem(file / "x")[0] == f"{file} is a file, not a folder"
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert problem(tmp_path / "link")[0].endswith("is a link that leads nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "can't be read" in problem(tmp_path / "loop")[0]
    assert "no path" in problem(Path("/nul\0byte"))[0]
    (folder / "b.png").touch()
    assert problem(folder) == (f"the only picture in {folder} can't be read", "1: empty file (0 bytes).")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)  # a test may run as root, whom no mode keeps out
    assert problem(folder)[0] == f"you may not read {folder}"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("pictures", "/base/pictures"),
        ("pictures/", "/base/pictures"),
        ("  /a/b  ", "/a/b"),
        ("~/p", "{home}/p"),
        ("~", "{home}"),
        ("~nobody-of-this-name/x", "/base/~nobody-of-this-name/x"),
        ("../p", "/p"),
        ("'/a b/[c]'", "/a b/[c]"),
        ('"/a b"', "/a b"),
        (r"/a\ b/\[c\]", "/a b/[c]"),
        ("", "/base"),
        (".", "/base"),
        ("/", "/"),
        ("'", "/base/'"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="paths of another kind")
def test_what_somebody_types(typed, meant):
    assert folder_typed(typed, Path("/base")) == Path(meant.format(home=Path.home()))


@given(st.text(max_size=30))
@settings(max_examples=50, deadline=None)
def test_whatever_somebody_types_is_surveyed_without_an_exception(text):
    found = survey(folder_typed(text, Path("/nonexistent-base")), 0.5)
    assert isinstance(found, Survey)


@pytest.mark.parametrize(
    "name",
    [
        "red parrot on branch",
        "bald eagle head",
        "ein Bär im Wald",
        "橘猫坐在窗台上",
        "two cats, one dog (2)",
        "sunset at sea",
    ],
)
def test_names_that_read_like_captions(name):
    assert reads_like_a_caption(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "IMG 2034",
            "DSC 0012",
            "DSCN1234 edited",
            "20240105 120301",
            "PXL 20230101 123456789.PORTRAIT",
            "photo 1 copy",
        ),
        *("3f2b8c1a dead beef 1234 0123456789ab", "Screenshot 2024 01 05 at 12.00.01", "00017", "image (3)", "", "😀"),
        *("IMG 20240101 WA0003", "ComfyUI 00012 ", "x", "untitled final 2", "download", "cat", "é"),
    ],
)
def test_names_that_do_not(name):
    assert not reads_like_a_caption(name)


EDGES = st.integers(1, 5000)
TEXTS = st.lists(st.text(max_size=60), max_size=3).map(tuple)


@st.composite
def surveys(draw) -> Survey:
    sizes = draw(st.dictionaries(st.tuples(EDGES, EDGES), st.integers(1, 10**6), max_size=6))
    unreadable = draw(st.lists(st.tuples(st.text(max_size=50), st.sampled_from([r.value for r in Reason])), max_size=4))
    readable = sum(sizes.values())
    texts = draw(st.integers(0, readable))
    return Survey(
        folder=Path("/pictures"),
        pictures=readable + len(unreadable) + draw(st.integers(0, 10)),
        looked_at=readable + len(unreadable),
        listed_all=draw(st.booleans()),
        seconds=draw(st.floats(0, 3)),
        sizes=sizes,
        unreadable=tuple(unreadable),
        reasons={reason: 1 for _, reason in unreadable},
        with_text=texts,
        empty_text=0,
        missing_text=readable - texts,
        captions=draw(TEXTS),
        distinct_captions=texts,
        commonest=("", 0),
        name_captions=draw(TEXTS),
        likely_names=draw(st.integers(0, readable)),
        distinct_names=readable,
        commonest_name=("", 0),
        words=frozenset(),
        notes=draw(st.dictionaries(st.text(max_size=50), st.integers(1, 99), max_size=1)),
        other_files={},
        problem=draw(st.none() | st.text(min_size=1, max_size=90)),
        hint=draw(st.none() | st.text(max_size=90)),
    )


@given(surveys(), st.integers(16, 4096), st.integers(30, 120), st.sampled_from([BLOCKS, SIGNS, NONE]))
@settings(max_examples=50, deadline=None)
def test_no_line_is_too_wide_or_could_disturb_a_terminal(found, resolution, width, bars):
    for line in lines(found, resolution, width, bars):
        assert columns(line) <= width
        assert line.isprintable()


def test_the_report_at_both_widths(mixed):
    found = replace(survey(mixed), seconds=0.0)
    assert lines(found, 64, 80, SIGNS) == [
        "11 pictures",
        "  4 can't be read and will be left out (empty.png: empty file (0 bytes);",
        "    nowhere.jpg: a link that leads nowhere; page.png: not readable as a picture;",
        "    and 1 more)",
        "  4 with a caption in a .txt beside it",
        "  1 with a .txt that has no caption in it",
        "  2 without a .txt of the same name",
        "  1 caption: more than one line: one of them is drawn a step",
        '    "second line"',
        '    "first line"',
        "  shorter edge, pixels                    shape",
        "    48-63 7 ####################            tall      1 ###",
        "                                            landscape 6 ####################",
    ]
    narrow = lines(found, 64, 40, NONE)
    assert "    tall      1" in narrow
    assert "    48-63 7" in narrow
    assert "█" in "".join(lines(found, 64, 40, BLOCKS))
    assert lines(found, 70, 80)[-1] == "  6 of 7 have fewer pixels than 70 x 70 and would be enlarged"


def test_no_access_token_is_shown(save, folder):
    save("x.png")
    caption(folder, "x.png", "hf_" + "a" * 30)
    assert not any("aaaa" in line for line in lines(survey(folder), 64, 80))
