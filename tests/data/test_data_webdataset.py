"""Tar shards read in place: what is found in them, how captions are matched, and what damage costs."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import tarfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from data_helpers import colours, image_set, scan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simpletune.data.captions import Caption, read_caption
from simpletune.data.scan import Sample
from simpletune.data.sources import Reason, SourceError, open_source
from simpletune.data.sources.webdataset import Shards


def picture(seed: int = 0, width: int = 80, height: int = 60) -> bytes:
    data = io.BytesIO()
    colours(width, height, seed).save(data, "PNG")
    return data.getvalue()


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type, made.linkname, made.mtime = size, kind, link, 1_700_000_000
    return made


def write_shard(
    path: Path, files: Mapping[str, bytes], *others: tarfile.TarInfo, format: int = tarfile.GNU_FORMAT
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as shard:
        for name, data in files.items():
            shard.addfile(member(name, len(data)), io.BytesIO(data))
        for other in others:
            shard.addfile(other)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def caption(source: Shards, name: str) -> tuple[str, ...] | str:
    files = {file.name: file for file in source.list().files}
    found = read_caption(files[name], image_set(caption_strategy="textfile"), source)
    return found.texts if isinstance(found, Caption) else found.detail


def names(source: Shards) -> list[str]:
    return [file.name for file in source.list().files]


def but_for_stamp(sample: Sample) -> tuple[object, ...]:
    return sample.name, sample.width, sample.height, sample.captions, sample.placements


def test_shards_are_folders_of_their_names(tmp_path: Path) -> None:
    files = {
        "shard-0.tar": {"a.png": picture(1), "a.txt": b"one", "b.PNG": picture(2, 120), "b.txt": "zwölf".encode()},
        "more/shard-1.tar": {
            "a.png": picture(3),
            "a.txt": b"another a",
            "no caption.png": picture(4),
            "empty.png": b"",
            "phone.heic": b"x",
            "notes.md": b"x",
            "deep/日本 c.png": picture(5),
            "deep/日本 c.txt": b"c",
            ".hidden.png": picture(),
            "._a.png": b"what a Mac leaves",
        },
    }
    for shard, content in files.items():
        write_shard(tmp_path / "shards" / shard, content)
        for name, data in content.items():
            (tmp_path / "folder" / shard / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "folder" / shard / name).write_bytes(data)
    values = image_set(tmp_path / "folder", caption_strategy="textfile")
    local = scan(values, 16, 1)
    tars = scan(replace(values, type="webdataset", instance_data_dir=tmp_path / "shards"), 16, 1)
    assert len(local.samples) == 4
    assert [but_for_stamp(sample) for sample in tars.samples] == [but_for_stamp(sample) for sample in local.samples]
    assert tars.excluded == local.excluded
    assert tars.other == local.other


def test_one_shard_by_its_path(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "one.tar", {"a.png": picture()})
    source = open_source(image_set(shard, type="webdataset"))
    assert [file.name for file in source.list().files] == ["one.tar/a.png"]
    assert source.location("one.tar/a.png") == f"{shard}/a.png"
    assert Shards(str(tmp_path)).location("one.tar/a.png") == f"{shard}/a.png"


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format(tmp_path: Path, format: int) -> None:
    long = "folder-of-a-long-name/" * 5 + "a-picture-of-a-long-name" * 3 + ".png"
    files = {long: picture(1), "short.png": picture(2), long[:-4] + ".txt": b"long", "ünï.png": picture(3)}
    write_shard(tmp_path / "s.tar", files, member("folder", kind=tarfile.DIRTYPE), format=format)
    source = Shards(str(tmp_path))
    assert names(source) == sorted(f"s.tar/{name}" for name in files if name.endswith(".png"))
    for name in files:
        if name.endswith(".png"):
            assert source.read(f"s.tar/{name}") == files[name]
    assert caption(source, f"s.tar/{long}") == ("long",)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"k.txt": b"from text", "k.json": b'{"caption": "from json"}'}, ("from text",)),
        ({"k.json": b'{"caption": "a\\nb", "text": "other"}'}, ("a b",)),
        ({"k.json": b'{"caption": null, "text": "other"}'}, ("other",)),
        ({"k.json": b'{"caption": ["one", "two", 3]}'}, ("one", "two")),
        ({"k.json": b'{"width": 3}'}, "no caption file k.txt"),
        ({"k.json": b"[1]"}, "no caption file k.txt"),
        ({"k.json": b""}, "caption file k.txt can't be read: its JSON file is damaged"),
        ({"k.json": b"[" * 100_000}, "caption file k.txt can't be read: its JSON file is damaged"),
        ({"k.json": b'"' + b"x" * (1 << 20) + b'"'}, "caption file k.txt can't be read: its JSON file is over 1 MiB"),
        ({"k.TXT": b"capital letters"}, ("capital letters",)),
        ({"other.txt": b"x"}, "no caption file k.txt"),
        ({}, "no caption file k.txt"),
    ],
)
def test_where_a_caption_comes_from(tmp_path: Path, files: dict[str, bytes], expected: tuple[str, ...] | str) -> None:
    write_shard(tmp_path / "s.tar", {"k.png": picture(), **files})
    found = caption(Shards(str(tmp_path)), "s.tar/k.png")
    assert found == expected or (isinstance(expected, str) and isinstance(found, str) and found.startswith(expected))


def test_members_of_a_sample_share_the_name_up_to_the_first_dot(tmp_path: Path) -> None:
    files = {
        "0.png": picture(1),
        "0.seg.png": picture(2),
        "0.txt": b"zero",
        "2024.05.01 party.png": picture(3),
        "2024.05.01 party.txt": b"party",
        "1.image.png": picture(4),
        "1.txt": b"one",
    }
    write_shard(tmp_path / "s.tar", files)
    source = Shards(str(tmp_path))
    listing = source.list()
    assert [file.name for file in listing.files] == ["s.tar/0.png", "s.tar/1.image.png", "s.tar/2024.05.01 party.png"]
    assert [caption(source, file.name) for file in listing.files] == [("zero",), ("one",), ("party",)]
    assert listing.other == 4  # three texts and the segmentation


def test_what_would_be_unpacked_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture())
    others = [
        member("link.png", kind=tarfile.SYMTYPE, link=str(tmp_path / "secret.png")),
        member("hard.png", kind=tarfile.LNKTYPE, link="../secret.png"),
        member("device.png", kind=tarfile.CHRTYPE),
        member("pipe.png", kind=tarfile.FIFOTYPE),
    ]
    files = {
        "../secret.png": picture(1),
        "sub/../../x.png": picture(1),
        "/etc/x.png": picture(1),
        "./inside.png": picture(2),
        "./deep//./b.png": picture(3),
    }
    write_shard(tmp_path / "shards" / "s.tar", files, *others)
    listing = Shards(str(tmp_path / "shards")).list()
    assert [file.name for file in listing.files] == ["s.tar/deep/b.png", "s.tar/inside.png"]
    assert listing.other == 7
    assert not listing.rejected


def test_of_two_members_with_a_name_the_later_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for data in (picture(1), picture(2)):
            shard.addfile(member("a.png", len(data)), io.BytesIO(data))
    source = Shards(str(tmp_path))
    listing = source.list()
    assert [file.name for file in listing.files] == ["s.tar/a.png"]
    assert listing.other == 1
    assert source.read("s.tar/a.png") == picture(2)


def test_reading_and_seeking(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    write_shard(tmp_path / "s.tar", {"before.txt": b"x", "a.png": data, "after.png": b"y"})
    source = Shards(str(tmp_path))
    [file, _] = source.list().files
    assert source.read(file.name) == data
    assert source.read_ends(file, 100) == (data[:100], data[-8:])
    assert source.read_ends(file, 1 << 20) == (data, data[-8:])
    with source.open(file.name) as opened:
        assert opened.read(10) == data[:10]
        assert opened.seek(-5, io.SEEK_END) == len(data) - 5
        assert opened.read() == data[-5:]
        assert opened.read() == b""
        opened.seek(0)
        assert opened.read() == data
    with pytest.raises(FileNotFoundError):
        source.read("s.tar/none.png")


def test_threads_and_processes_read_what_they_ask_for(tmp_path: Path) -> None:
    files = {f"{number}.png": picture(number) for number in range(30)}
    write_shard(tmp_path / "s.tar", files)
    source = Shards(str(tmp_path))
    source.list()
    asked = [f"s.tar/{name}" for name in files] * 5
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(source.read, asked)) == list(files.values()) * 5
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(source.read, ("s.tar/7.png",)) == files["7.png"]
    fresh = pickle.loads(pickle.dumps(Shards(str(tmp_path))))
    assert fresh.read("s.tar/7.png") == files["7.png"], "a copy that has listed nothing lists first"


def test_stamps_follow_the_shard(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", {"a.png": picture(), "a.txt": b"one", "b.png": picture()})
    source = Shards(str(tmp_path))
    first, second = source.list().files
    assert source.stamp(first.name) == first.stamp != second.stamp
    assert first.text_stamp is None, "it was written a moment ago"
    assert second.may_have_text is False
    assert source.list().files == (first, second)
    write_shard(shard, {"a.png": picture(7), "a.txt": b"two", "b.png": picture()})
    assert source.stamp(first.name) != first.stamp
    with pytest.raises(OSError, match="its shard has changed since it was listed"):
        source.read(first.name)
    source.list()
    assert source.read(first.name) == picture(7)


def test_a_settled_shard_vouches_for_its_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "s.tar", {"a.png": picture(), "a.txt": b"one"})
    later = time.time_ns() + 10_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: later)
    assert isinstance(Shards(str(tmp_path)).list().files[0].text_stamp, int)


@pytest.mark.parametrize(
    ("name", "mode"), [("s.tar.gz", "w:gz"), ("s.tgz", "w:gz"), ("s.tar.xz", "w:xz"), ("s.tar", "w:bz2")]
)
def test_compressed_shards_are_refused(tmp_path: Path, name: str, mode: str) -> None:
    write_shard(tmp_path / "good.tar", {"a.png": picture()})
    with tarfile.open(tmp_path / name, mode) as shard:
        shard.addfile(member("b.png", 3), io.BytesIO(b"xyz"))
    with pytest.raises(SourceError, match=rf"^{name} is compressed.*can't be read in place") as caught:
        Shards(str(tmp_path)).list()
    assert "gunzip" in caught.value.hint


def test_a_folder_without_shards(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    with pytest.raises(SourceError, match=r"there are no \.tar files in"):
        Shards(str(tmp_path)).list()
    with pytest.raises(SourceError, match="can't be read: No such file or directory"):
        Shards(str(tmp_path / "none")).list()


def test_a_truncated_shard_gives_what_came_before(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", {"a.png": picture(1), "b.png": picture(2), "c.png": picture(3)})
    write_shard(tmp_path / "t.tar", {"d.png": picture(4)})
    data = shard.read_bytes()
    with tarfile.open(shard) as whole:
        middle = whole.getmember("c.png").offset_data + 10
    shard.write_bytes(data[:middle])
    found = scan(image_set(tmp_path, type="webdataset"), 16, 1)
    assert [sample.name for sample in found.samples] == ["s.tar/a.png", "s.tar/b.png", "t.tar/d.png"]
    [entry] = found.excluded
    assert (entry.name, entry.reason) == ("s.tar", Reason.READ_FAILED.value)
    assert f"it ends at byte {middle}, before the end of one of its files" in entry.detail
    assert "the 2 files before that are used" in entry.detail


def test_a_header_with_a_wrong_checksum_is_damage(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", {"a.png": picture(1), "b.png": picture(2), "c.png": picture(3)})
    with tarfile.open(shard) as whole:
        at = whole.getmember("b.png").offset
    data = bytearray(shard.read_bytes())
    data[at] ^= 1
    shard.write_bytes(data)
    listing = Shards(str(tmp_path)).list()
    assert [file.name for file in listing.files] == ["s.tar/a.png"]
    assert f"at byte {at} stands no header of a tar" in listing.rejected[0][1].detail


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"", "without a tar's end mark; nothing in it can be used"),
        (b"not a tar at all" * 100, "stands no header of a tar"),
        (b"\0" * 511, "without a tar's end mark"),
    ],
)
def test_what_is_no_tar(tmp_path: Path, content: bytes, detail: str) -> None:
    (tmp_path / "s.tar").write_bytes(content)
    listing = Shards(str(tmp_path)).list()
    assert not listing.files
    [(name, rejected)] = listing.rejected
    assert name == "s.tar"
    assert detail in rejected.detail


def test_a_shard_without_an_end_mark_may_be_half_of_one(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", {"a.png": picture()})
    with tarfile.open(shard) as whole:
        info = whole.getmember("a.png")
    shard.write_bytes(shard.read_bytes()[: info.offset_data + -(-info.size // 512) * 512])
    listing = Shards(str(tmp_path)).list()
    assert len(listing.files) == 1
    assert "without a tar's end mark" in listing.rejected[0][1].detail


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_breaks_the_listing(tmp_path: Path, data: st.DataObject) -> None:
    shard = tmp_path / "s.tar"
    format = data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    long = "x" * data.draw(st.integers(1, 200)) + ".png"
    content = bytearray(
        write_shard(shard, {"a.png": b"12", long: b"3" * 600, "b.json": b"{}"}, format=format).read_bytes()
    )
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, 4095))] = data.draw(st.integers(0, 255))
    shard.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    source = Shards(str(tmp_path))
    with suppress(SourceError):  # the first bytes may be a compressed file's now
        listing = source.list()
        for file in listing.files:
            assert len(source.read(file.name)) == file.size_bytes


def test_many_members_list_in_seconds_and_stay_small(tmp_path: Path) -> None:
    count = 5_000
    block = io.BytesIO()
    with tarfile.open(fileobj=block, mode="w", format=tarfile.USTAR_FORMAT) as shard:
        shard.addfile(member("00000000.png", 1), io.BytesIO(b"x"))
    header, content = block.getvalue()[:512], block.getvalue()[512:1024]

    def renamed(number: int) -> bytes:
        changed = bytearray(header)
        changed[:8] = f"{number:08}".encode()
        changed[148:156] = b" " * 8
        changed[148:156] = f"{sum(changed):06o}\0 ".encode()
        return bytes(changed)

    data = b"".join(renamed(number) + content for number in range(count)) + bytes(1024)
    (tmp_path / "s.tar").write_bytes(data)
    source = Shards(str(tmp_path))
    began = time.process_time()
    assert len(source.list().files) == count
    assert time.process_time() - began < 2, "it takes 0.15 s"
    assert len(pickle.dumps(source)) < 100 * count
    assert json.dumps(names(source)[0]) == '"s.tar/00000000.png"'
