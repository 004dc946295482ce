"""Captions, tables and archives from outside: bounded in memory and time, named, never a way out of their folder."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bounded import bounded, needs_fork
from PIL import Image

from simpletune.data.captions import MOST_CAPTIONS, Caption, read_caption
from simpletune.data.captions.metadata import Metadata, open_metadata
from simpletune.data.captions.table_columns import TableError
from simpletune.data.sources import Rejected, SourceError, shown
from simpletune.data.sources.local import Folder
from simpletune.data.sources.webdataset import Shards

pytestmark = needs_fork
HOSTILE = "a\x1b[2J\x1b]0;owned\x07\r\nb\0c\u202ed"


class Entry:
    """As much of an ImageSet as reading captions takes."""

    id = "set"
    only_instance_prompt = prepend_instance_prompt = False
    instance_prompt = s3_url = caption_column = filename_column = width_column = height_column = None
    caption_filter: tuple[str, ...] = ()
    caption_separator, caption_shuffle_count, caption_shuffle_keep = ", ", 0, 0

    def __init__(self, folder: Path, strategy: str, table: Path | None = None) -> None:
        self.instance_data_dir, self.caption_strategy, self.metadata_path = folder, strategy, table


def picture(folder: Path, name: str = "a.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / name)
    return folder / name


def png_bytes() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, format="PNG")
    return data.getvalue()


def caption_of(folder: Path) -> Caption | Rejected:
    source = Folder(str(folder))
    (image,) = source.list().files
    return read_caption(image, Entry(folder, "textfile"), source)  # type: ignore[arg-type]


CAPTIONS: dict[str, Callable[[], bytes]] = {
    "10 MB": lambda: b"word " * 2_000_000,
    "a million lines": lambda: b"\n".join(b"line %d" % number for number in range(1_000_000)),
    "1,001 lines": lambda: b"\n".join(b"line %d" % number for number in range(MOST_CAPTIONS + 1)),
    "100,000 short lines": lambda: b"\n".join(b"%x" % number for number in range(100_000)),
}


@pytest.mark.fault
@pytest.mark.parametrize("name", CAPTIONS)
def test_a_caption_file_that_is_none(tmp_path, name, tally):
    picture(tmp_path)
    (tmp_path / "a.txt").write_bytes(CAPTIONS[name]())
    ending = bounded(lambda: caption_of(tmp_path), memory_mib=256, seconds=10)
    assert ending.crash is None
    assert "Rejected" in ending.said
    assert "a.txt" in ending.said
    tally("bad inputs: security", 1)


@pytest.mark.fault
@pytest.mark.parametrize("text", ["x" * 1_000_000, "\u0300" * 300_000, "\x1b[2J" * 100_000, "a, " * 300_000, "\0" * 99])
def test_an_odd_caption_is_one_line_of_text(tmp_path, text, tally):
    picture(tmp_path)
    (tmp_path / "a.txt").write_text(text)

    def counted() -> str:
        from simpletune.data.captions.token_counter import estimating

        found = caption_of(tmp_path)
        if isinstance(found, Rejected):
            return "rejected"
        assert "\n" not in found.text
        return f"{len(shown(found.text))} {estimating('CLIP').tokens(found.text)} {estimating('T5').tokens(found.text)}"

    ending = bounded(counted, memory_mib=512, seconds=15)
    assert ending.crash is None
    tally("bad inputs: security", 1)


def table(tmp_path: Path, kind: str, content: bytes) -> Metadata:
    path = tmp_path / f"table.{kind}"
    path.write_bytes(content)
    return open_metadata(Entry(tmp_path / "pictures", kind, path))  # type: ignore[arg-type]


def rows(*found: tuple[str, Any]) -> bytes:
    return "\n".join(json.dumps({"file_name": name, "caption": caption}) for name, caption in found).encode()


OUTSIDE = ["../a.png", "/etc/passwd", "x/../../a.png", "..\\a.png", "C:\\a.png", "//host/share/a.png", "./../a.png",
           "x/..", "~/../../a.png/..", "file:///etc/../../passwd"]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_row_cannot_name_a_file_outside(tmp_path, name, tally):
    found = table(tmp_path, "jsonl", rows(("good.png", "fine"), (name, "stolen")))
    picture(tmp_path, "a.png")
    named = [name for name in found.unused([]) if name != "good.png"]
    assert all(not one.startswith("/") and ".." not in one.split("/") for one in named)
    assert found.captions("good.png") == ("fine",)
    tally("bad inputs: security", 1)


def test_names_and_captions_of_a_table_are_shown_harmlessly(tmp_path, tally):
    found = table(tmp_path, "jsonl", rows((HOSTILE, HOSTILE), (f"../{HOSTILE}", "x"), ("b.png", [1, HOSTILE])))
    said = " ".join(remark.message + " ".join(remark.examples) for remark in found.remarks([]))
    assert said
    assert all(character.isprintable() for character in said)
    tally("bad inputs: security", 3)


TABLES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "gzip.csv": ("csv", lambda: gzip.compress(bytes(100 << 20))),
    "gzip.jsonl": ("jsonl", lambda: gzip.compress(bytes(100 << 20))),
    "deep": ("jsonl", lambda: b'{"file_name": "a.png", "caption": ' + b"[" * 500_000),
    "a line of 50 MB": ("jsonl", lambda: b'{"file_name": "' + b"x" * (50 << 20)),
    "a cell of 50 MB": ("csv", lambda: b'file_name,caption\n"' + b"x" * (50 << 20)),
    "10,000 columns": ("csv", lambda: b",".join(b"c%d" % number for number in range(10_000)) + b"\n"),
    "open quotes": ("csv", lambda: b"file_name,caption\n" + b'a.png,"open\n' * 30_000),
    "NUL": ("csv", lambda: b"\0" * 1_000_000),
    "a number of 10^6 digits": ("jsonl", lambda: b'{"file_name": "a.png", "caption": ' + b"9" * 1_000_000 + b"}"),
    "no parquet": ("parquet", lambda: b"PAR1" + bytes(1000) + b"PAR1"),
    "a footer of 4 GiB": ("parquet", lambda: b"PAR1" + bytes(100) + b"\xff\xff\xff\xffPAR1"),
}


@pytest.mark.fault
@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_none(tmp_path, name, tally):
    kind, content = TABLES[name]
    path = tmp_path / f"table.{kind}"
    path.write_bytes(content())

    def read() -> str:
        try:
            open_metadata(Entry(tmp_path, kind, path))  # type: ignore[arg-type]
        except TableError as error:
            return error.message
        return "it was read"

    if kind == "parquet":
        pytest.importorskip("pyarrow.parquet")
    ending = bounded(read, memory_mib=512, seconds=20)
    assert ending.crash is None
    assert path.name in ending.said
    assert len(ending.said) < 2000
    tally("bad inputs: security", 1)


@pytest.mark.fault
def test_many_captions_of_one_picture_are_bounded(tmp_path, tally):
    lines = rows(*[("a.png", f"caption {number}") for number in range(20_000)])
    ending = bounded(lambda: len(table(tmp_path, "jsonl", lines).captions("a.png") or ()), seconds=20)
    assert (ending.said, ending.crash) == (str(MOST_CAPTIONS), None)
    at_once = rows(("a.png", [f"caption {number}" for number in range(5000)]))
    assert len(table(tmp_path, "jsonl", at_once).captions("a.png") or ()) == MOST_CAPTIONS
    remarks = table(tmp_path, "jsonl", lines).remarks(["a.png"])
    assert any("beyond the 1,000 captions that a picture can have" in remark.message for remark in remarks)
    tally("bad inputs: security", 1)


@pytest.mark.fault
@pytest.mark.parametrize("says_so", [True, False])
def test_a_small_parquet_file_of_giant_cells(tmp_path, says_so, tally):
    """A megabyte that 2,048 rows share has 2 MB as a file, and 2 GiB as cells of its own."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    names = [f"{number}.png" for number in range(2048)]
    captions = pyarrow.DictionaryArray.from_arrays([0] * 2048, ["x " * 500_000])
    told = pyarrow.table({"file_name": names, "caption": captions})
    parquet.write_table(told, tmp_path / "table.parquet", store_schema=says_so)  # else the column is text to readers
    assert (tmp_path / "table.parquet").stat().st_size < 4 << 20
    entry = Entry(tmp_path, "parquet", tmp_path / "table.parquet")
    ending = bounded(lambda: open_metadata(entry).captions("7.png")[0][:3], memory_mib=768, seconds=60)  # type: ignore
    assert (ending.said, ending.crash) == ("x x", None)
    tally("bad inputs: security", 1)


def test_a_parquet_file_of_more_rows_than_are_read(tmp_path, monkeypatch, tally):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    from simpletune.data.captions import tables

    parquet.write_table(pyarrow.table({"file_name": ["a.png"] * 9, "caption": ["x"] * 9}), tmp_path / "table.parquet")
    entry = Entry(tmp_path, "parquet", tmp_path / "table.parquet")
    for name, most in (("_MOST_ROWS", 8), ("_LARGEST_COLUMN", 8)):
        with monkeypatch.context() as changed:
            changed.setattr(tables, name, most)
            with pytest.raises(TableError, match=r"table.parquet has .* more than the .* read"):
                open_metadata(entry)  # type: ignore[arg-type]
    tally("bad inputs: security", 2)


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def member(name: str, **changed: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in changed.items():
        setattr(info, key, value)
    return info


def raw_member(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A header with any size field, its checksum right."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124:136] = size.ljust(12, b"\0")
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "a name that leads out": lambda: tar((member("../../out.png"), png_bytes()), (member("a.png"), png_bytes())),
    "an absolute name": lambda: tar((member("/tmp/out.png"), png_bytes()), (member("a.png"), png_bytes())),
    "a link": lambda: tar((member("l.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
                          (member("a.png"), png_bytes())),
    "a device": lambda: tar((member("d.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5), b""),
                            (member("a.png"), png_bytes())),
    "terminal escapes": lambda: tar((member(HOSTILE.replace("\0", "") + ".png"), png_bytes())),
    "a file of exabytes": lambda: raw_member(b"a.png", b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7),
    "a file of 8 GiB": lambda: raw_member(b"a.png", b"77777777777"),
    "a negative size": lambda: raw_member(b"a.png", b"\xff" * 12),
    "a PAX header of 8 GiB": lambda: raw_member(b"x", b"77777777777", b"x") + bytes(1024),
    "a PAX header of exabytes": lambda: raw_member(b"x", b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7, b"x"),
    "20,000 long names": lambda: (raw_member(b"x", b"00000000001", b"L") + b"a".ljust(512, b"\0")) * 20_000,
    "100,000 empty files": lambda: raw_member(b"a.png", b"0") * 100_000 + bytes(1024),
    "sparse": lambda: raw_member(b"a.png", b"77777777777", b"S") + bytes(2048),
    "gzip": lambda: gzip.compress(bytes(64 << 20)),
    "JSON of 2 MiB": lambda: tar((member("a.png"), png_bytes()), (member("a.json"), b"[" * (2 << 20))),
    "deep JSON": lambda: tar((member("a.png"), png_bytes()), (member("a.json"), b"[" * 500_000)),
}  # fmt: skip


@pytest.mark.fault
@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_takes_bounded_memory_and_leads_nowhere(tmp_path, name, tally):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "shard.tar").write_bytes(ARCHIVES[name]())

    def listed() -> str:
        source = Shards(str(tmp_path / "set"))
        try:
            listing = source.list()
        except SourceError as error:
            return f"refused: {shown(error.message)}"
        said = []
        for file in listing.files:
            assert not file.name.startswith("/")
            assert ".." not in file.name.split("/")
            try:
                said.append(f"{shown(file.name)} {len(source.read(file.name))} {source.read_text(file, 1 << 20)!r:.80}")
            except OSError as error:
                said.append(f"{shown(file.name)}: {error.strerror}")
        return "; ".join(said[:50]) + f" + {len(listing.rejected)}"

    ending = bounded(listed, memory_mib=256, seconds=20)
    assert ending.crash is None
    assert all(character.isprintable() for character in ending.said)
    assert "out.png" not in ending.said
    assert "root:" not in ending.said
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["set", "shard.tar"]
    tally("bad inputs: security", 1)


def test_links_that_lead_out_of_a_folder_are_read_and_loops_are_not_followed(tmp_path, tally):
    """As the docs say, a link counts as what it leads to; a folder is read once, whatever leads to it."""
    picture(tmp_path / "elsewhere", "far.png")
    root = tmp_path / "set"
    picture(root, "near.png")
    (root / "loop").symlink_to(root)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "far.png").symlink_to(tmp_path / "elsewhere" / "far.png")
    (root / "gone.png").symlink_to(tmp_path / "nothing.png")
    (root / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.png")
    os.mkfifo(root / "near.txt")
    ending = bounded(lambda: [file.name for file in Folder(str(root)).list().files], seconds=10)
    assert (ending.said, ending.crash) == ("['far.png', 'linked/far.png', 'near.png']", None)
    (near,) = [file for file in Folder(str(root)).list().files if file.name == "near.png"]
    ending = bounded(lambda: Folder(str(root)).read_text(near, 100), seconds=10)
    assert (ending.said, ending.crash) == ("None", None)
    tally("bad inputs: security", 6)


def test_rows_of_a_saved_data_set_name_no_pipe_and_no_file_outside(tmp_path, tally):
    pytest.importorskip("pyarrow")
    from simpletune.data.sources.hub.local import _saved

    (tmp_path / "set").mkdir()
    for splits in (["../elsewhere"], ["/etc"], ["a/b"], [".."], ["a\\b"]):
        (tmp_path / "set" / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
        with pytest.raises(SourceError, match="names a file outside of it"):
            _saved(tmp_path / "set")
    (tmp_path / "set" / "dataset_dict.json").unlink()
    (tmp_path / "set" / "dataset_info.json").write_text("{}")
    for name in ("../../x.arrow", "/etc/passwd"):
        (tmp_path / "set" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(SourceError, match="names a file outside of it"):
            _saved(tmp_path / "set")
    tally("bad inputs: security", 7)


def test_a_damaged_arrow_file_is_named(tmp_path, tally):
    pyarrow = pytest.importorskip("pyarrow")
    from simpletune.data.sources.hub.shards import ARROW, Shard

    table_of = pyarrow.table({"image": pyarrow.array([b"abc" * 9, b"def"], pyarrow.binary())})
    with pyarrow.ipc.new_stream(str(tmp_path / "a.arrow"), table_of.schema) as writer:
        writer.write_table(table_of)
    data = (tmp_path / "a.arrow").read_bytes()
    offsets = b"\x1b\0\0\0\x1e\0\0\0"  # where the two cells end
    assert data.count(offsets) == 1
    (tmp_path / "a.arrow").write_bytes(data.replace(offsets, b"\xff\xff\xff\x7f\xff\xff\xff\x7f"))
    ending = bounded(lambda: refused(lambda: Shard(str(tmp_path / "a.arrow"), ARROW)), seconds=10)
    assert ending.crash is None
    assert "a.arrow can't be read" in ending.said
    tally("bad inputs: security", 1)


def refused(act: Callable[[], object]) -> str:
    try:
        act()
    except SourceError as error:
        return error.message
    return "it was read"


SET = "hf://datasets/owner/set@"
WITHIN = [f"{SET}c0ffee/a/b.png", f"zip://a/b.png::{SET}c0ffee/a.zip"]
ELSEWHERE = [
    "/etc/passwd", "file:///etc/passwd", "C:\\x.png", "https://host.example/x.png", "hf://datasets/owner/other@1/x.png",
    "hf://datasets/owner/set-private@1/x.png", "hf://owner/model/x.png", f"{SET}c0ffee/../../other@1/x.png",
    f"reference://x::{SET}c0ffee/templates.json", f"simplecache::{SET}c0ffee/x.png", f"zip://x::file:///x.zip::{SET}1/x",
    f"zip://x::zip://y::{SET}c0ffee/x.zip", "zip://x::/home/me/x.zip", f"github://o:r@/x::{SET}1/x", f"dir://x::{SET}1/x",
    "s3://bucket/x.png", "ssh://host/x.png", "\\\\host\\share\\x.png", "", "::", f"::{SET}1/x.png",
]  # fmt: skip


@pytest.mark.parametrize("path", ELSEWHERE)
def test_a_row_of_the_hub_reads_nothing_outside_of_its_data_set(tmp_path, path, tally):
    """fsspec would open any of these: files of the user, other sets with the user's login, templates that run code."""
    pytest.importorskip("fsspec")
    from simpletune.data.sources.hub.prepare import read_path

    assert read_path(path, SET) is None
    assert read_path(path, f"{tmp_path.as_posix()}/") is None
    tally("bad inputs: security", 2)


def test_a_row_of_the_hub_reads_what_is_in_its_data_set(tmp_path):
    pytest.importorskip("fsspec")
    from simpletune.data.sources.hub.prepare import belongs, read_path

    assert all(belongs(path, SET) for path in WITHIN)
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "set" / "a.png").write_bytes(b"picture")
    inside = f"{(tmp_path / 'set').as_posix()}/"
    assert read_path(f"{inside}a.png", inside) == b"picture"
    assert read_path(f"{inside}../secret.png", inside) is None
    with zipfile.ZipFile(tmp_path / "set" / "a.zip", "w") as archive:
        archive.writestr("x/b.png", b"packed")
    assert read_path(f"zip://x/b.png::{inside}a.zip", inside) == b"packed"
