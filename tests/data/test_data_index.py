"""An index makes a scan quicker and never another one; whatever is wrong with it, files are looked at again."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from data_helpers import colours, image_set
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simpletune.data import index_file, look, sources
from simpletune.data.header import Header
from simpletune.data.index import Index, index_path
from simpletune.data.scan import ScanResult, scan
from simpletune.data.sources import Reason, Rejected, open_source
from simpletune.data.sources.local import Folder

STAMP = (10, 20, 30, 40)
DIGEST = "ab" * 32


@pytest.fixture
def settled(monkeypatch) -> None:
    """Files of this moment count as old, as no test waits for two seconds."""
    monkeypatch.setattr(sources, "CLOCK_GRAIN_NS", 0)


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of all files that are opened."""
    really_open, names = os.open, []

    def noted(path, *arguments, **options):
        names.append(Path(path).name)
        return really_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", noted)
    return names


def looked(folder: Path, index: Index | None, **changes) -> ScanResult:
    chosen = image_set(folder, **{"caption_strategy": "textfile", **changes})
    return scan(chosen, open_source(chosen), 16, 1, index)


def reloaded(index: Index, tmp_path: Path) -> Index:
    index.save(tmp_path / "caches" / "index.bin")
    return Index.load(tmp_path / "caches" / "index.bin")


@pytest.fixture
def filled(save, folder) -> Path:
    """Pictures and captions of many kinds, some of no use."""
    for name in ("a.png", "b.jpg", "sub/c.png", "new\nline.png", "é😀.png", "uncaptioned.png", "a.jpg", "broken-é.png"):
        path = save(name)
        path.with_suffix(".txt").write_text(f"a caption of {path.stem!r}", encoding="utf-8")
    (folder / "uncaptioned.txt").unlink()
    for kind in ("png", "txt"):
        (folder / f"broken-é.{kind}").rename(folder / os.fsdecode(b"\xff." + kind.encode()))
    (folder / "b.txt").write_bytes(b"first, in Latin-1: \xe9\nsecond\n\nthird")
    (folder / "page.png").write_bytes(b"<html>")
    (folder / "zero.png").touch()
    save("cut.png", colours(300, 200))
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:2000])
    return folder


def test_what_is_known_is_not_opened_again(filled, tmp_path, opened, settled):
    cold = looked(filled, None)
    assert len(cold.samples) == 7
    assert opened
    index = Index()
    assert looked(filled, index) == cold
    again = reloaded(index, tmp_path)
    opened.clear()
    assert looked(filled, again) == cold
    assert opened == []
    assert not again.changed


def change_caption(folder: Path) -> None:
    text = folder / "a.txt"
    text.write_bytes(text.read_bytes().swapcase())


def change_picture(folder: Path) -> None:
    colours(30, 90).save(folder / "a.png")


def change_back_in_time(folder: Path) -> None:
    """Another picture of the same length and age."""
    before = (folder / "a.png").stat()
    content = colours(32, 48).tobytes()
    colours(32, 48).save(folder / "a.png")
    with (folder / "a.png").open("ab") as file:
        file.write(content[: max(0, before.st_size - file.tell())])
    os.utime(folder / "a.png", ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_another(folder: Path) -> None:
    (folder / "c.png").write_bytes(b"no picture")
    (folder / "c.png").replace(folder / "a.png")


CHANGES: tuple[tuple[Callable[[Path], object], set[str]], ...] = (
    (change_caption, {"a.txt"}),
    (change_picture, {"a.png"}),
    (change_back_in_time, {"a.png"}),
    (replace_by_another, {"a.png"}),
    (lambda folder: (folder / "a.txt").unlink(), set()),
    (lambda folder: (folder / "uncaptioned.txt").write_text("now it has one"), {"uncaptioned.txt"}),
    (lambda folder: (folder / "b.jpg").unlink(), set()),
    (lambda folder: (folder / "b.jpg").rename(folder / "moved.jpg"), {"moved.jpg"}),
    (lambda folder: (folder / "sub").rename(folder / "other"), {"c.png", "c.txt"}),
)


@pytest.mark.parametrize(("change", "opens"), CHANGES)
def test_what_has_changed_is_seen_and_nothing_else_opened(filled, tmp_path, opened, settled, change, opens):
    index = Index()
    looked(filled, index)
    change(filled)
    opened.clear()
    warm = looked(filled, reloaded(index, tmp_path))
    seen = {name for name in opened if "index" not in name and name != "caches"}
    assert seen - {"a.jpg"} == opens
    assert warm == looked(filled, None)


@given(steps=st.lists(st.tuples(st.integers(0, 5), st.sampled_from("pcrtx")), max_size=8))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changes_give_the_scan_that_knows_nothing(tmp_path_factory, settled, steps):
    folder = tmp_path_factory.mktemp("any") / "pictures"
    folder.mkdir()
    index = Index()
    for turn, (number, kind) in enumerate(steps):
        picture, text = folder / f"{number}.png", folder / f"{number}.txt"
        if kind == "p":
            colours(16 + turn, 16).save(picture)
        elif kind == "c":
            text.write_text(f"caption {turn}")
        elif kind == "t":
            text.unlink(missing_ok=True)
        elif kind == "r":
            picture.unlink(missing_ok=True)
        else:
            picture.write_bytes(b"broken")
        index = reloaded(index, folder.parent)
        assert looked(folder, index) == looked(folder, None)


def test_a_file_of_this_moment_is_not_trusted(save, folder, tmp_path):
    save("a.png")
    (folder / "a.txt").write_text("a caption")
    index = Index()
    looked(folder, index)
    assert len(index) == 0
    now = open_source(image_set(folder)).stamp("a.png")
    assert now == looked(folder, None).samples[0].stamp
    index.note_digest("a.png", now, DIGEST)
    assert index.digest("a.png", now) is None


@pytest.mark.parametrize(("ahead", "trusted"), [(-10, True), (-1, False), (0, False), (60, False), (86400 * 365, True)])
def test_times_near_now_or_a_little_ahead_are_not_trusted(ahead, trusted):
    index = Index()
    now = index._since
    for place in (1, 2):
        stamp = [1, 2, 3, 4]
        stamp[place] = now + ahead * 10**9
        index.note_header("a", tuple(stamp), Header(1, 1))
        assert (index.header("a", tuple(stamp)) is not None) == trusted


def test_a_reason_that_may_pass_is_not_kept(save, folder, monkeypatch, settled):
    save("a.png")
    (folder / "a.txt").write_text("a caption")
    index, really_open = Index(), os.open

    def failing(path, *arguments, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "open", failing)
    assert looked(folder, index).reasons == {Reason.READ_FAILED: 1}
    monkeypatch.setattr(os, "open", really_open)
    assert len(looked(folder, index).samples) == 1


def test_captions_follow_the_settings(filled, tmp_path, settled):
    index = Index()
    for changes in (
        {},
        {"instance_prompt": "sks", "prepend_instance_prompt": True},
        {"caption_strategy": "filename"},
        {"instance_prompt": "sks", "only_instance_prompt": True},
        {"caption_filter": ("first",)},
        {"caption_shuffle_count": 2},
        {},
    ):
        assert looked(filled, index, **changes) == looked(filled, None, **changes)
        index = reloaded(index, tmp_path)


def test_another_reader_looks_again_and_keeps_digests(filled, tmp_path, opened, settled, monkeypatch):
    index = Index()
    before = looked(filled, index)
    sample = before.samples[0]
    index.note_digest(sample.name, sample.stamp, DIGEST)
    index = reloaded(index, tmp_path)
    monkeypatch.setattr(index_file, "READER", "of a later version")
    index = Index.load(tmp_path / "caches" / "index.bin")
    opened.clear()
    assert looked(filled, index) == before
    assert "b.jpg" in opened
    assert "b.txt" not in opened
    assert index.digest(sample.name, sample.stamp) == DIGEST


def test_digests(tmp_path):
    index = Index()
    for number in range(3):
        index.note_digest(f"{number}.png", STAMP, f"{number:064x}")
    index = reloaded(index, tmp_path)
    assert index.digest("1.png", STAMP) == f"{1:064x}"
    assert index.digest("1.png", (10, 20, 30, 41)) is None
    assert index.digest("none.png", STAMP) is None


def test_faces_are_looked_for_once(save, folder, tmp_path, settled, monkeypatch):
    asked = []
    monkeypatch.setattr(look, "check_detector", lambda: None)
    monkeypatch.setattr(look, "find_focus", lambda data: (asked.append(len(data)), (1.0, 0.0))[1])
    save("wide.png", colours(200, 60))
    crop = {"crop": True, "crop_style": "face", "caption_strategy": "filename"}
    index = Index()
    cold = looked(folder, index, **crop)
    assert cold.samples[0].placements[0].crop[2] == cold.samples[0].placements[0].resized[0]
    assert looked(folder, reloaded(index, tmp_path), **crop) == cold
    assert len(asked) == 1
    save("wide.png", colours(300, 60))
    assert looked(folder, reloaded(index, tmp_path), **crop).samples[0].width == 300
    assert len(asked) == 2
    monkeypatch.setattr(Folder, "read", lambda *_: (folder / "gone").read_bytes())
    assert looked(folder, None, **crop).reasons == {Reason.CHANGED: 1}


def test_files_that_are_gone_are_forgotten(filled, tmp_path, settled):
    index = Index()
    looked(filled, index)
    sample = looked(filled, None).samples[0]
    index.note_digest(sample.name, sample.stamp, DIGEST)
    count = len(index)
    (filled / sample.name).unlink()
    looked(filled, index)
    assert len(index) == count - 1
    assert index.digest(sample.name, sample.stamp) is None


def test_it_is_written_only_when_something_changed(tmp_path):
    path = tmp_path / "caches" / "index.bin"
    Index().save(path)
    assert not path.parent.exists()
    index = Index()
    index.note_header("a", STAMP, Header(3, 4))
    index.save(path)
    first = path.stat()
    index.save(path)
    Index.load(path).save(path)
    assert path.stat() == first


def packed() -> bytes:
    index = Index()
    index.captions_read_as("so")
    for number in range(20):
        index.note_header(
            f"{number}\n.png", STAMP, Header(number + 1, 5) if number % 3 else Rejected(Reason.ASPECT, "x")
        )
        index.note_captions(f"{number}\n.png", number + 1, ("one", "two")[: 1 + number % 2], ("note",) * (number % 2))
        index.note_digest(f"{number}\n.png", STAMP, DIGEST)
    return index_file.pack(index._entries, "so", index._beside)


def test_everything_comes_back(tmp_path):
    entries, captions_by, beside = index_file.unpack(packed())
    values = {kind: known.unpacked(index_file.BESIDE[kind]) for kind, known in beside.items()}
    assert captions_by == "so"
    assert len(entries) == len(values["digests"]) == 20
    assert entries["1\n.png"] == index_file.Entry(
        sources.fingerprint(STAMP), Header(2, 5), 2, ("one", "two"), ("note",)
    )
    assert entries["0\n.png"].header == Rejected(Reason.ASPECT, "x")
    assert index_file.pack(entries, captions_by, values) == packed()


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_a_damaged_file_is_an_empty_index(tmp_path_factory, data):
    content = bytearray(packed())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "index.bin"
    path.write_bytes(content)
    assert len(Index.load(path)) == 0


def test_whatever_stands_in_its_place(tmp_path):
    assert len(Index.load(tmp_path / "none")) == 0
    assert len(Index.load(tmp_path)) == 0


def test_names_and_captions_that_cannot_be_written_are_left_out(tmp_path):
    index = Index()
    index.note_header("a\0b", STAMP, Header(1, 1))
    index.note_captions("c", 5, ("one\ntwo",), ())
    index.note_captions("d", 5, ("",), ())
    assert len(index) == 0


def test_many_threads_note_at_once(tmp_path):
    index = Index()

    def note(number: int) -> None:
        name = f"{number % 500}.png"
        index.note_header(name, STAMP, Header(1 + number % 500, 1))
        index.note_captions(name, 7, (name,), ())
        index.note_digest(name, STAMP, DIGEST)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(note, range(4000)))
    index = reloaded(index, tmp_path)
    assert len(index) == 500
    assert index.header("77.png", STAMP) == Header(78, 1)
    assert index.entry("77.png").captions == ("77.png",)
    assert index.digest("77.png", STAMP) == DIGEST


def test_data_sets_that_share_a_cache_have_their_own(tmp_path):
    sets = [image_set(tmp_path / "a"), image_set(tmp_path / "b", cache_dir_vae=image_set(tmp_path / "a").cache_dir_vae)]
    sets += [image_set(tmp_path / "a", id="other"), image_set(tmp_path / "a", dataset_split="test")]
    assert len({index_path(one) for one in sets}) == 4
    assert {index_path(one).parent for one in sets} == {sets[0].cache_dir_vae}
