"""Hugging Face data sets on a disk: every layout, which rows and columns are taken, and what can't be."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from data_helpers import Told, scan
from hub_sets import hub_set, picture, rows, table, write_parquet, write_pictures, write_saved
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from simpletune.data.sources import SourceError
from simpletune.data.sources.hub import shards as hub_shards
from simpletune.data.sources.hub.split import parse
from simpletune.data.sources.huggingface import HuggingFace

ROWS = rows()


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Open what is at a path; what the library writes goes beside it."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")

    def open_set(path: Path, **changes: Any) -> HuggingFace:
        return HuggingFace(hub_set(path, tmp_path / "cache", **changes))

    return open_set


def content(source: Any) -> list[tuple[bytes, tuple[str, ...]]]:
    return [(source.read(file.name), source.captions(file)) for file in source.list().files]


def write(layout: str, folder: Path) -> Path:
    if layout == "file":
        return write_parquet(folder, ROWS, files=1) / "data" / "train-00000-of-00001.parquet"
    if layout == "dictionary":
        write_saved(folder / "train", ROWS)
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
        return folder
    writers = {"parquet": write_parquet, "saved": write_saved, "pictures": write_pictures}
    return writers[layout](folder, ROWS)


@pytest.mark.parametrize("layout", ["file", "parquet", "saved", "dictionary", "pictures"])
def test_every_layout_gives_the_same_bytes_and_captions(opened: Any, tmp_path: Path, layout: str) -> None:
    source = opened(write(layout, tmp_path / "set"))
    source.fetch(Told())
    assert content(source) == [(row["image"]["bytes"], (row["caption"],)) for row in ROWS]
    listed = source.list().files
    assert [file.size_bytes for file in listed] == [len(row["image"]["bytes"]) for row in ROWS]
    assert [source.stamp(file.name) for file in listed] == [file.stamp for file in listed]
    assert len({file.stamp for file in listed}) == len(ROWS)
    assert source.read_ends(listed[0], 20)[1] == ROWS[0]["image"]["bytes"][-8:]
    with source.open(listed[1].name) as file:
        assert file.read() == ROWS[1]["image"]["bytes"]
    assert source.read_text(listed[0], 100) is None
    assert len({source.location(file.name) for file in listed}) == len(ROWS)


def test_what_the_library_saves_is_read(opened: Any, tmp_path: Path) -> None:
    import datasets

    parquet_file = write("file", tmp_path / "set")
    datasets.disable_progress_bars()
    saved = datasets.Dataset(table(ROWS))
    saved.save_to_disk(tmp_path / "saved")
    assert content(opened(tmp_path / "saved")) == content(opened(parquet_file))
    pictures = write_pictures(tmp_path / "pictures", ROWS)
    made = datasets.Dataset.from_dict({"image": [str(pictures / "train" / "0-ball.png")], "text": ["a"]})
    made.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "paths")
    assert content(opened(tmp_path / "paths")) == [(picture(0), ("a",))]


def test_names_are_the_row_and_its_own_name_with_an_ending_by_content(opened: Any, tmp_path: Path) -> None:
    names = [
        ("cat.jpg", "PNG"),
        ("a/b\\dog.JPEG", "JPEG"),
        (None, "WEBP"),
        ("no ending", "GIF"),
        ('c:<*>"?|.png', "PNG"),
    ]
    found = [
        row | {"image": {"bytes": picture(1, kind), "path": path}}
        for row, (path, kind) in zip(ROWS, names, strict=False)
    ]
    source = opened(write_parquet(tmp_path / "set", found))
    listed = [file.name for file in source.list().files]
    assert listed[:4] == ["000000-cat.png", "000001-dog.JPEG", "000002.webp", "000003-no ending.gif"]
    assert listed[4].startswith("000004-")
    assert not set(listed[4]) & set('<>:"/\\|?*')
    assert [file.name for file in opened(tmp_path / "set", dataset_split="train[2:]").list().files] == listed[2:]


@pytest.mark.parametrize(
    ("split", "taken"),
    [
        ("train", [0, 1, 2, 3, 4, 5]),
        ("train[:2]", [0, 1]),
        ("train[-2:]", [4, 5]),
        ("train[50%:]", [3, 4, 5]),
        ("train[1:100]", [1, 2, 3, 4, 5]),
    ],
)
def test_a_split_takes_its_rows(opened: Any, tmp_path: Path, split: str, taken: list[int]) -> None:
    source = opened(write_parquet(tmp_path / "set", ROWS), dataset_split=split)
    assert content(source) == [(ROWS[row]["image"]["bytes"], (ROWS[row]["caption"],)) for row in taken]


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 200),
    st.sampled_from(["", "%"]),
    st.none() | st.integers(-100, 100),
    st.none() | st.integers(-100, 100),
)
def test_slices_are_those_of_the_library(count: int, unit: str, low: int | None, high: int | None) -> None:
    import datasets

    text = "train[" + ":".join("" if bound is None else f"{bound}{unit}" for bound in (low, high)) + "]"
    try:
        expected = datasets.ReadInstruction.from_spec(text).to_absolute({"train": count})[0]
        rows_taken = list(range(count))[expected.from_ : expected.to]
    except (ValueError, AssertionError):
        rows_taken = []
    try:
        first, behind = parse(text)[0].rows(count)
    except SourceError:
        assert rows_taken == []
    else:
        assert list(range(count))[first:behind] == rows_taken


def test_several_splits_are_told_apart_by_name(opened: Any, tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "set", ROWS[:4], files=1)
    parquet.write_table(table(ROWS[4:]), folder / "data" / "test-00000-of-00001.parquet")
    names = [file.name for file in opened(folder, dataset_split="train[:1]+test").list().files]
    assert names == ["test/000000-4-ball.png", "test/000001-5-ball.png", "train/000000-0-ball.png"]
    with pytest.raises(SourceError, match='no split tran; did you mean "train"') as error:
        opened(folder, dataset_split="tran").list()
    assert error.value.hint == '"dataset_split" can be train, test'


def test_captions_come_from_the_named_columns(opened: Any, tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "set", ROWS)
    source = opened(folder, caption_column=("caption", "tags", "kind"))
    assert source.captions(source.list().files[1]) == ("ball number 1", "round", "ball 1", "box")
    assert opened(folder, caption_strategy="filename", caption_column="none").list().files


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"image_column": "imag"}, 'no column imag; did you mean "image"?', '"image_column" can be image, second'),
        ({"image_column": "caption"}, "holds text; pictures given as addresses", "set it to image, second"),
        ({}, "several columns with pictures: image, second", 'one of them with "image_column"'),
        ({"image_column": "image", "caption_column": "kind of"}, "no column kind of", "can be caption, tags, kind"),
        ({"image_column": "image", "caption_column": "second"}, "second of", "text is in caption, tags, kind"),
        ({"dataset_config": "other"}, "no configuration other", '"dataset_config" can be default'),
        ({"dataset_split": "train[5:2]"}, "takes no rows", "train[:500]"),
        ({"dataset_split": "train[5:20%]"}, "one bound in rows and one in per cent", "train[:500]"),
        ({"dataset_split": "train["}, "can't be read", "train[:500]"),
        ({"dataset_split": "train+train[:1]"}, "names a split twice", "one data set for each part"),
    ],
)
def test_what_isnt_there_is_said_with_what_is(
    opened: Any, tmp_path: Path, changes: dict[str, Any], message: str, hint: str
) -> None:
    both = [row | {"second": row["image"]} for row in ROWS]
    (tmp_path / "set" / "data").mkdir(parents=True)
    import hub_sets

    features = hub_sets.FEATURES | {"second": {"_type": "Image"}}
    kinds = hub_sets.KINDS | {"second": hub_sets.KINDS["image"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_sets, "KINDS", kinds)
        parquet.write_table(table(both, features), tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(SourceError) as error:
        opened(tmp_path / "set", **changes).list()
    assert message in error.value.message
    assert hint in error.value.hint


def test_a_column_of_addresses_is_refused(opened: Any, tmp_path: Path) -> None:
    path = tmp_path / "urls.parquet"
    parquet.write_table(table([{"url": "https://example.org/1.png", "caption": "one"}], {}), path)
    with pytest.raises(SourceError, match="no column with pictures; there is url, caption") as error:
        opened(path).list()
    assert "addresses (URLs)" in error.value.hint


def test_columns_of_bytes_need_no_description(opened: Any, tmp_path: Path) -> None:
    import pyarrow

    path = tmp_path / "plain.parquet"
    parquet.write_table(pyarrow.table({"jpg": [picture(3, "JPEG")], "prompt": ["three"]}), path)
    source = opened(path)
    assert content(source) == [(picture(3, "JPEG"), ("three",))]
    assert source.list().files[0].name == "000000.jpg"


def test_rows_that_hold_no_picture_are_named_with_the_reason(opened: Any, tmp_path: Path) -> None:
    bad = [None, {"bytes": b"", "path": "b.png"}, {"bytes": None, "path": "https://example.org/c.png"}]
    bad += [{"bytes": None, "path": "/etc/passwd"}, {"bytes": b"no picture", "path": "e.png"}]
    found = [row | {"image": image} for row, image in zip(ROWS, bad, strict=False)]
    result = scan(
        opened(
            write_parquet(tmp_path / "set", [*found, ROWS[5]]),
        )._image_set,
        16,
        0,
    )
    assert [sample.name for sample in result.samples] == ["000005-5-ball.png"]
    details = {exclusion.name: exclusion.detail for exclusion in result.excluded}
    assert details["000000"] == "its row holds no picture"
    assert details["000001-b.png"] == "its row holds no bytes"
    assert "address (URL)" in details["000002-c.png"]
    assert "a file that isn't part of it" in details["000003-passwd"]
    assert "000004-e.png" in details


def test_a_changed_file_changes_the_stamps_of_its_rows_only(opened: Any, tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "set", ROWS)
    source = opened(folder)
    before = source.list().files
    path = folder / "data" / "train-00001-of-00002.parquet"
    parquet.write_table(table([row | {"caption": "other"} for row in ROWS[3:]]), path)
    assert source.stamp(before[3].name) != before[3].stamp, "asked of a source that is open"
    after = opened(folder).list().files
    same = [new.stamp == old.stamp for new, old in zip(after, before, strict=True)]
    assert same == [True, True, True, False, False, False]


def test_pictures_are_looked_through_once(opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_parquet(tmp_path / "set", ROWS)
    told = Told()
    source = opened(folder)
    source.list()
    assert not (tmp_path / "cache").exists(), "listing writes nothing"
    source.fetch(told)
    assert told.phases == [f"looking through {folder}"]
    expected = source.list()
    assert [path.suffix for path in (tmp_path / "cache").rglob("*.*")] == [".arrow"] * 2
    monkeypatch.setattr(hub_shards.Shard, "index", None)
    again = opened(folder)
    again.fetch(told)
    assert again.list() == expected
    assert len(told.phases) == 1


def test_a_copy_in_another_process_and_many_threads_read_the_same(opened: Any, tmp_path: Path) -> None:
    source = opened(write_parquet(tmp_path / "set", ROWS * 5))
    files = source.list().files
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda file: (copy.read(file.name), copy.captions(file)), files * 4))
    assert read == content(source) * 4


def test_a_missing_file_is_told(opened: Any, tmp_path: Path) -> None:
    folder = write_saved(tmp_path / "set", ROWS)
    (folder / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(SourceError, match=r"set can't be read as a data set: .*No such file"):
        opened(folder).list()


def test_a_truncated_file_is_told(opened: Any, tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "set", ROWS, files=1)
    path = folder / "data" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"train-00000-of-00001\.parquet can't be read") as error:
        opened(path).list()
    assert "whole" in error.value.hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/at/all", "neither a folder or file here nor a name on the hub"),
        ("owner/name", "isn't on this machine yet"),
    ],
)
def test_a_name_that_is_no_path_is_one_of_the_hub(opened: Any, name: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        opened(Path(name)).list()


def test_other_folders_are_refused_with_what_they_hold(opened: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no files of a data set"):
        opened(tmp_path / "empty").list()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SourceError, match="holds csv files, and no pictures"):
        opened(tmp_path / "text").list()
    (tmp_path / "notes.txt").write_text("no table")
    with pytest.raises(SourceError, match=r"notes\.txt can't be read"):
        opened(tmp_path / "notes.txt").list()


def test_tables_beside_pictures_are_judged_row_by_row(opened: Any, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", ROWS[:3])
    lines = ['{"file_name": "0-ball.png", "text": "zero"}', '{"file_name": "../../secret.png", "text": "out"}']
    lines += ['{"file_name": "gone.png", "text": "gone"}', "{broken"]
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines))
    write_pictures(folder, ROWS[3:], "test")
    source = opened(folder)
    listing = source.list()
    assert [file.name for file in listing.files] == ["train/0-ball.png", "train/1-ball.png", "train/2-ball.png"]
    assert [source.captions(file) for file in listing.files] == [("zero",), (), ()]
    rejected = dict(listing.rejected)
    assert "no such picture" in rejected["train/gone.png"].detail
    said = " ".join(reject.detail for name, reject in listing.rejected if name == "train/metadata.jsonl")
    assert "secret.png" in said
    assert "not usable" in said
    assert [file.name for file in opened(folder, dataset_split="test[:2]").list().files] == [
        "test/3-ball.png",
        "test/4-ball.png",
    ]


def test_pictures_without_a_table_need_another_strategy(opened: Any, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", ROWS)
    (folder / "train" / "metadata.jsonl").unlink()
    with pytest.raises(SourceError, match=r"has no metadata\.jsonl") as error:
        opened(folder).list()
    assert "another caption_strategy" in error.value.hint
    assert len(opened(folder, caption_strategy="filename").list().files) == len(ROWS)


@pytest.mark.parametrize("layout", ["file", "saved"])
@pytest.mark.parametrize(
    ("rows_with", "taken"),
    [
        ({"kind": "box"}, [1, 3, 5]),
        ({"kind": ["ball", "box"], "tags": ["ball 1", "ball 4"]}, [1, 4]),
        ({"kind": "ball", "caption": ["ball number 2", "ball number 3"]}, [2]),
    ],
)
def test_a_filter_takes_the_rows_that_fit_all_its_columns(
    opened: Any, tmp_path: Path, layout: str, rows_with: dict[str, Any], taken: list[int]
) -> None:
    whole, some = opened(write(layout, tmp_path / "set")), opened(tmp_path / "set", dataset_filter=rows_with)
    if layout == "file":
        some = opened(tmp_path / "set/data/train-00000-of-00001.parquet", dataset_filter=rows_with)
    some.fetch(Told())
    assert content(some) == [(ROWS[row]["image"]["bytes"], (ROWS[row]["caption"],)) for row in taken]
    names = [file.name for file in whole.list().files]
    assert [file.name for file in some.list().files] == [names[row] for row in taken]


@pytest.mark.parametrize(
    ("rows_with", "message", "hint"),
    [
        ({"captoin": "box"}, 'has no column captoin; did you mean "caption"', "caption, tags, kind"),
        ({"image": "box"}, "the column image of .* holds neither text nor labels", "caption, tags, kind"),
        (
            {"kind": ["box", "balls"]},
            'balls is no label of the column kind .*did you mean "ball"',
            "2 labels: ball, box",
        ),
        ({"caption": "ball numbr 2"}, 'is no value of the column caption .*did you mean "ball number', "its 6 values"),
        ({"kind": "ball", "caption": "ball number 1"}, "no row taken of .* has kind ball and caption", "all columns"),
    ],
)
def test_a_filter_that_nothing_can_fit_says_why(
    opened: Any, tmp_path: Path, rows_with: dict[str, Any], message: str, hint: str
) -> None:
    source = opened(write_saved(tmp_path / "set", ROWS), dataset_filter=rows_with)
    with pytest.raises(SourceError, match=message) as error:
        source.list()
    assert hint in error.value.hint
    assert error.value.key == "dataset_filter"


def test_a_filter_on_pictures_in_folders_is_refused(opened: Any, tmp_path: Path) -> None:
    source = opened(write_pictures(tmp_path / "set", ROWS), dataset_filter={"kind": "box"})
    with pytest.raises(SourceError, match="pictures in folders, which have no columns") as error:
        source.list()
    assert "save_to_disk" in error.value.hint
