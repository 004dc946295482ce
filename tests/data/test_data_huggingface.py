"""Data sets of the hub, served here: fetched, streamed, stopped and gone on with, refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from data_helpers import Told
from hub_server import Hub, serve
from hub_sets import hub_set, rows, write_parquet, write_pictures, write_saved, write_shards

from simpletune.data.sources import SourceError
from simpletune.data.sources.hub import stream as hub_stream
from simpletune.data.sources.huggingface import HuggingFace

ROWS = rows()
EXPECTED = [(row["image"]["bytes"], (row["caption"],)) for row in ROWS]


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches that aren't the user's, and leave to ask the hub."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_ENDPOINT", "HF_DATASETS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def served(folder: Path) -> Iterator[Hub]:
    """A hub with the data set owner/set; what a commit holds is remembered by the client, so each has its own."""
    with serve(folder, "datasets", "owner/set") as hub:
        hub.commit = hashlib.sha1(os.fspath(folder).encode()).hexdigest()
        yield hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with served(write_parquet(tmp_path / "repository", ROWS)) as hub:
        yield hub


@pytest.fixture
def asked(tmp_path: Path, hub: Hub) -> Any:
    def make(**changes: Any) -> HuggingFace:
        return HuggingFace(hub_set("owner/set", tmp_path / "cache", **changes), hub.endpoint)

    return make


def content(source: Any) -> list[tuple[bytes, tuple[str, ...]]]:
    return [(source.read(file.name), source.captions(file)) for file in source.list().files]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("write", [write_parquet, write_saved, write_pictures, write_shards])
def test_every_layout_comes_over_the_network_unchanged(tmp_path: Path, write: Any, streaming: bool) -> None:
    column = "txt" if write is write_shards else None
    entry = hub_set("owner/set", tmp_path / "cache", streaming=streaming, caption_column=column)
    with served(write(tmp_path / "repository", ROWS)) as hub:
        source = HuggingFace(entry, hub.endpoint)
        source.fetch(Told())
    assert content(source) == EXPECTED, "with the server gone"
    assert content(pickle.loads(pickle.dumps(source))) == EXPECTED
    assert content(HuggingFace(entry)) == EXPECTED


def test_fetched_and_streamed_pictures_have_the_same_names(asked: Any) -> None:
    names = []
    for streaming in (False, True):
        source = asked(streaming=streaming)
        source.fetch(Told())
        names.append([file.name for file in source.list().files])
    assert names[0] == names[1] == [f"{row:06d}-{row}-ball.png" for row in range(6)]


@pytest.mark.parametrize("streaming", [False, True])
def test_before_it_is_fetched_it_says_what_will(asked: Any, hub: Hub, streaming: bool) -> None:
    with pytest.raises(SourceError, match="owner/set isn't on this machine yet") as error:
        asked(streaming=streaming).list()
    assert "`simpletune train` fetches it" in error.value.hint
    assert hub.asked == [], "and doesn't ask the hub"


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_here_is_not_fetched_again(asked: Any, hub: Hub, streaming: bool) -> None:
    told = Told()
    asked(streaming=streaming).fetch(told)
    shown = list(told.phases)
    hub.served.clear()
    again = asked(streaming=streaming)
    again.fetch(told)
    assert content(again) == EXPECTED
    assert hub.served == []
    assert told.phases == shown
    assert told.notes == []


def test_progress_is_in_bytes_and_rows(asked: Any) -> None:
    told = Told()
    asked().fetch(told)
    assert told.phases[:2] == ["downloading owner/set", "preparing owner/set"]
    asked(streaming=True).fetch(told)
    assert told.phases[-1] == "fetching owner/set"


def test_offline_what_is_here_is_used_and_nothing_else(asked: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked().fetch(Told())
    hub.asked.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    source = asked()
    source.fetch(Told())
    assert content(source) == EXPECTED
    for streaming in (False, True):
        with pytest.raises(SourceError, match="HF_HUB_OFFLINE forbids") as error:
            asked(dataset_revision="v1", streaming=streaming).fetch(Told())
        assert "unset HF_HUB_OFFLINE" in error.value.hint
    assert hub.asked == []


def test_the_environments_endpoint_wins(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    source = HuggingFace(hub_set("owner/set", tmp_path / "cache"), "http://127.0.0.1:9")
    source.fetch(Told())
    assert content(source) == EXPECTED


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("refusal", "message", "hint"),
    [
        (
            (403, "GatedRepo"),
            "owner/set is gated",
            "https://huggingface.co/datasets/owner/set, then run `hf auth login`",
        ),
        ((404, "RepoNotFound"), "no data set owner/set, or it is private", "hf auth login"),
        ((404, "RevisionNotFound"), "owner/set has no revision v9", '"dataset_revision"'),
        ((500, "Broken"), "can't be fetched from http://127.0.0.1:", "goes on where it stopped"),
    ],
)
def test_a_refusal_says_what_to_do(
    asked: Any, hub: Hub, streaming: bool, refusal: tuple[int, str], message: str, hint: str
) -> None:
    hub.refusal = refusal
    with pytest.raises(SourceError) as error:
        asked(dataset_revision="v9", streaming=streaming).fetch(Told())
    assert message in error.value.message
    assert hint in error.value.hint


def test_a_gated_set_is_given_to_those_with_a_token(asked: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.accepted = {"hf_" + "a" * 30}
    with pytest.raises(SourceError, match="owner/set is gated"):
        asked().fetch(Told())
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 30)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)  # a mirror that only the settings name gets no login
    for streaming in (False, True):
        source = asked(streaming=streaming)
        source.fetch(Told())
        assert content(source) == EXPECTED


def test_no_network_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"can't be fetched from http://127\.0\.0\.1:9") as error:
        HuggingFace(hub_set("owner/set", tmp_path / "cache"), "http://127.0.0.1:9").fetch(Told())
    assert "check the network" in error.value.hint


@pytest.mark.parametrize("streaming", [False, True])
def test_a_missing_column_ends_it_before_anything_is_fetched(
    asked: Any, hub: Hub, tmp_path: Path, streaming: bool
) -> None:
    for changes in ({"image_column": "nothing"}, {"caption_column": "nothing"}):
        with pytest.raises(SourceError, match="owner/set has no column nothing"):
            asked(streaming=streaming, **changes).fetch(Told())
    with pytest.raises(SourceError, match="owner/set has no split test"):
        asked(streaming=streaming, dataset_split="test").fetch(Told())
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("streaming", [False, True])
def test_something_newer_on_the_hub_is_told_and_left(asked: Any, hub: Hub, tmp_path: Path, streaming: bool) -> None:
    asked(streaming=streaming).fetch(Told())
    old, hub.commit = hub.commit, "e" * 40
    write_parquet(hub.folder, ROWS[:2], files=2)
    told = Told()
    source = asked(streaming=streaming)
    source.fetch(told)
    assert content(source) == EXPECTED
    assert len(told.notes) == 1
    assert f"({old[:12]})" in told.notes[0]
    assert '"dataset_revision": "' + "e" * 40 in told.notes[0]
    newer = asked(streaming=streaming, dataset_revision="e" * 40)
    newer.fetch(told)
    assert content(newer) == EXPECTED[:2]
    assert "also holds owner/set train at" in told.notes[1]


def test_other_rows_of_what_is_here_need_no_fetch(asked: Any) -> None:
    asked(dataset_split="train[:2]").fetch(Told())
    assert content(asked(dataset_split="train[3:]")) == EXPECTED[3:]


class Stopped(Exception):
    """The end of a process, as far as one can be played within another."""


def test_an_interrupted_preparation_keeps_what_is_whole(
    asked: Any, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simpletune.data.sources.hub import prepare as hub_prepare

    whole, made = hub_prepare._convert_one, []

    def fails_later(source: str, *rest: Any) -> None:
        if len(made) == 1:
            raise Stopped
        made.append(source)
        whole(source, *rest)

    monkeypatch.setattr(hub_prepare, "_convert_one", fails_later)
    with pytest.raises(SourceError):
        asked().fetch(Told())
    with pytest.raises(SourceError, match=r"owner/set \(.* GB\) isn't fully on this machine yet"):
        asked().list()
    monkeypatch.setattr(hub_prepare, "_convert_one", lambda *arguments: (made.append(arguments[0]), whole(*arguments)))
    hub.commit, commit = "e" * 40, hub.commit
    hub.branches = ("main", commit)
    hub.served.clear()
    source = asked()
    source.fetch(Told())
    assert len(made) == len(set(made)) == 2, "each file once"
    assert content(source) == EXPECTED, "of the commit that was begun"
    assert [name for name, _ in hub.served if name.endswith("00001-of-00002.parquet")] == []


def test_a_stopped_stream_goes_on_behind_the_last_whole_piece(
    asked: Any, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_stream, "_PIECE_ROWS", 2)
    written = []
    write_bytes = hub_stream.files.write_bytes

    def stops_later(path: Path, data: bytes) -> None:
        if path.suffix == ".png" and len(written) >= 5:
            raise Stopped
        written.append(path.name)
        write_bytes(path, data)

    monkeypatch.setattr(hub_stream.files, "write_bytes", stops_later)
    with pytest.raises(SourceError):
        asked(streaming=True).fetch(Told())
    with pytest.raises(SourceError, match="isn't fully on this machine yet"):
        asked(streaming=True).list()
    first = set(written)
    assert "rows-000000000000.jsonl" in first
    monkeypatch.setattr(
        hub_stream.files, "write_bytes", lambda path, data: (written.append(path.name), write_bytes(path, data))
    )
    hub.served.clear()
    source = asked(streaming=True)
    source.fetch(Told())
    assert content(source) == EXPECTED
    pictures = [name for name in written if name.endswith(".png")]
    assert len(pictures) == len(set(pictures)) == 6, "none is written twice"
    assert [name for name in written if name == "rows-000000000000.jsonl"] == ["rows-000000000000.jsonl"]
    homes = list((tmp_path / "cache").iterdir())
    assert [sorted(path.name for path in home.iterdir()) for home in homes] == [
        ["fetched.json", "pictures", "rows.jsonl"]
    ]


def test_a_stream_stopped_at_its_very_end_has_each_row_once(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops_at_the_end(*arguments: Any, whole: bool) -> None:
        if whole:
            raise Stopped
        mark(*arguments, whole=whole)

    mark = hub_stream._mark
    monkeypatch.setattr(hub_stream, "_PIECE_ROWS", 2)
    monkeypatch.setattr(hub_stream, "_mark", stops_at_the_end)
    with pytest.raises(SourceError):
        asked(streaming=True).fetch(Told())
    monkeypatch.setattr(hub_stream, "_mark", mark)
    source = asked(streaming=True)
    source.fetch(Told())
    assert content(source) == EXPECTED


def test_a_stopped_stream_doesnt_fetch_earlier_groups_again(tmp_path: Path) -> None:
    large = [row | {"image": {"bytes": os.urandom(20_000), "path": None}} for row in rows(60)]
    with served(write_parquet(tmp_path / "repository", large, files=2, group=10)) as hub:
        changes = {"streaming": True, "max_num_samples": 50}
        HuggingFace(hub_set("owner/set", tmp_path / "cache", **changes), hub.endpoint).fetch(Told())
        assert _groups(hub) == 5, "and not the sixth, which isn't wanted"
        hub.served.clear()
        source = HuggingFace(hub_set("owner/set", tmp_path / "cache", streaming=True), hub.endpoint)
        source.fetch(Told())
    assert _groups(hub) == 1, "the last of six"
    assert [data for data, _ in content(source)] == [row["image"]["bytes"] for row in large]


def _groups(hub: Hub) -> int:
    """How many groups of rows, of 200 kB, were sent."""
    ranges = [asked.removeprefix("bytes=").split("-") for _, asked in hub.served if asked is not None]
    assert len(ranges) == len(hub.served), "no file was sent whole"
    return sum(int(last) - int(first) > 150_000 for first, last in ranges)


@pytest.mark.parametrize("write", [write_parquet, write_pictures])
def test_max_num_samples_bounds_a_stream_and_more_can_follow(tmp_path: Path, write: Any) -> None:
    with served(write(tmp_path / "repository", ROWS)) as hub:

        def asked(limit: int | None) -> HuggingFace:
            changes = {"streaming": True, "max_num_samples": limit}
            return HuggingFace(hub_set("owner/set", tmp_path / "cache", **changes), hub.endpoint)

        few = asked(2)
        few.fetch(Told())
        assert content(few) == EXPECTED[:2]
        hub.served.clear()
        fewer = asked(1)
        fewer.fetch(Told())
        assert hub.served == []
        with pytest.raises(SourceError, match="isn't fully on this machine yet: 2 pictures are"):
            asked(4).list()
        for limit, count in ((4, 4), (None, 6)):
            more = asked(limit)
            more.fetch(Told())
            assert content(more) == EXPECTED[:count]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_filter_keeps_and_a_stream_writes_only_what_fits(asked: Any, tmp_path: Path, streaming: bool) -> None:
    source = asked(streaming=streaming, dataset_filter={"kind": "box"})
    source.fetch(Told())
    assert content(source) == EXPECTED[1::2]
    assert len(list(tmp_path.glob("cache/*/pictures/*"))) == (3 if streaming else 0)
    whole = asked(streaming=streaming)
    whole.fetch(Told())
    assert content(whole) == EXPECTED
    assert len(list(tmp_path.glob("cache/*/fetched.json"))) == (2 if streaming else 1)


def test_a_streams_limit_counts_the_pictures_that_fit(asked: Any) -> None:
    for limit, taken in ((1, EXPECTED[1:2]), (2, [EXPECTED[1], EXPECTED[3]]), (None, EXPECTED[1::2])):
        source = asked(streaming=True, dataset_filter={"kind": "box"}, max_num_samples=limit)
        source.fetch(Told())
        assert content(source) == taken


@pytest.mark.parametrize("streaming", [False, True])
def test_a_label_that_there_isnt_ends_it_before_anything_is_fetched(asked: Any, hub: Hub, streaming: bool) -> None:
    with pytest.raises(SourceError, match=r'balls is no label .*did you mean "ball"'):
        asked(streaming=streaming, dataset_filter={"kind": "balls"}).fetch(Told())
    assert not any(path.endswith(".parquet") and wanted is None for path, wanted in hub.served)


def test_a_stream_of_which_nothing_fits_says_so_and_isnt_repeated(asked: Any, hub: Hub) -> None:
    source = asked(streaming=True, dataset_filter={"caption": "Ball number 1"})
    for _ in range(2):
        with pytest.raises(SourceError, match="no row taken of owner/set has caption Ball number 1") as error:
            source.fetch(Told())
        assert "capitals" in error.value.hint
        hub.served, served = [], hub.served
    assert served == []


def test_a_filter_transfers_pictures_of_the_groups_that_fit_only(tmp_path: Path) -> None:
    content_of = [row | {"image": {"bytes": os.urandom(100_000), "path": "x.png"}, "kind": 0} for row in rows(8)]
    content_of[5]["kind"] = 1
    with served(write_parquet(tmp_path / "repository", content_of, files=1)) as hub:
        changes = {"streaming": True, "dataset_filter": {"kind": "box"}}
        source = HuggingFace(hub_set("owner/set", tmp_path / "cache", **changes), hub.endpoint)
        source.fetch(Told())
        assert [file.name for file in source.list().files] == ["000005-x.png"]
        assert _groups(hub) == 1


@pytest.mark.parametrize("split", ["train[2:4]", "train[4:]", "train[:1]"])
def test_a_stream_takes_the_rows_of_its_split(asked: Any, split: str) -> None:
    source = asked(streaming=True, dataset_split=split)
    source.fetch(Told())
    taken = {"train[2:4]": slice(2, 4), "train[4:]": slice(4, 6), "train[:1]": slice(0, 1)}[split]
    assert content(source) == EXPECTED[taken]


def test_a_stream_says_what_it_cant_take(asked: Any) -> None:
    with pytest.raises(SourceError, match="needs the number of rows") as error:
        asked(streaming=True, dataset_split="train[50%:]").fetch(Told())
    assert "count rows from the start" in error.value.hint


def test_rows_without_a_picture_dont_end_a_stream(asked: Any, hub: Hub) -> None:
    bad = [None, {"bytes": b"", "path": "b.png"}, {"bytes": None, "path": "https://example.org/c.png"}]
    bad += [{"bytes": b"no picture", "path": "e.png"}]
    found = [row | {"image": image} for row, image in zip(ROWS, bad, strict=False)]
    write_parquet(hub.folder, [*found, ROWS[4]])
    source = asked(streaming=True, max_num_samples=2)
    source.fetch(Told())
    listing = source.list()
    assert [file.name for file in listing.files] == ["000003-e.png", "000004-4-ball.png"]
    assert source.read("000003-e.png") == b"no picture"
    assert [(name, rejected.detail.split(",")[0]) for name, rejected in listing.rejected] == [
        ("000000", "its row holds no picture"),
        ("000001-b.png", "its row holds no bytes"),
        ("000002-c.png", "its row holds only an address (URL) or a path"),
    ]


def test_a_connection_that_breaks_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_stream, "_PAUSE_SECONDS", 0.01)
    with served(write_parquet(tmp_path / "repository", ROWS)) as hub:
        hub.broken = 1
        source = HuggingFace(hub_set("owner/set", tmp_path / "cache", streaming=True), hub.endpoint)
        source.fetch(Told())
    assert content(source) == EXPECTED


def test_pictures_that_vanish_from_the_folder_are_named(asked: Any, tmp_path: Path) -> None:
    source = asked(streaming=True)
    source.fetch(Told())
    next((tmp_path / "cache").glob("*/pictures/000002-*")).unlink()
    listing = asked(streaming=True).list()
    assert len(listing.files) == 5
    assert [(name, rejected.detail) for name, rejected in listing.rejected] == [
        ("000002-2-ball.png", "it was fetched, and is gone from the folder")
    ]


def test_a_folder_of_pictures_that_is_gone_is_said_in_words(asked: Any, tmp_path: Path) -> None:
    asked(streaming=True).fetch(Told())
    (pictures,) = (tmp_path / "cache").glob("*/pictures")
    shutil.rmtree(pictures)
    with pytest.raises(SourceError) as caught:
        asked(streaming=True).list()
    assert caught.value.message == f"what was fetched into {pictures.parent} can't be read: No such file or directory"


def test_a_lost_cache_is_fetched_again(asked: Any, tmp_path: Path) -> None:
    asked().fetch(Told())
    for path in (tmp_path / "cache").rglob("*.arrow"):
        path.unlink()
    with pytest.raises(SourceError, match="its files are gone from this machine"):
        asked().list()
    source = asked()
    source.fetch(Told())
    assert content(source) == EXPECTED


@pytest.mark.parametrize("streaming", [False, True])
def test_two_at_once_fetch_it_once(asked: Any, hub: Hub, streaming: bool) -> None:
    def fetch(told: Told) -> Any:
        source = asked(streaming=streaming)
        source.fetch(told)
        return content(source)

    both = [Told(), Told()]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(fetch, both)) == [EXPECTED, EXPECTED]
    assert sorted(bool(told.phases and "fetching" in " ".join(told.phases)) for told in both) == [False, streaming]
    assert sum("is waited for" in note for told in both for note in told.notes) == 1


def test_a_cache_that_cant_be_written_is_told(asked: Any, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SourceError, match="cache can't be written") as error:
        asked().fetch(Told())
    assert "cache_dir_pictures" in error.value.hint


def test_scripts_are_refused(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "set.py").write_text("raise SystemExit")
    with served(repository) as hub:
        with pytest.raises(SourceError, match="a data set's own code is never run") as error:
            HuggingFace(hub_set("owner/set", tmp_path / "cache"), hub.endpoint).fetch(Told())
    assert "refs/convert/parquet" in error.value.hint


def test_a_missing_package_is_named_with_its_extra(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SourceError, match="needs the package datasets") as error:
        asked().fetch(Told())
    assert error.value.hint == "pip install 'simpletune[huggingface]'"


def test_neither_the_module_nor_the_library_imports_torch(tmp_path: Path) -> None:
    code = (
        "import sys, simpletune.data.sources.huggingface; assert 'datasets' not in sys.modules\n"
        "from simpletune.data.sources.hub.library import library\n"
        "with library() as datasets:\n"
        "    builder = datasets.load_dataset_builder('imagefolder', data_dir=sys.argv[1])\n"
        "    assert len(list(builder.as_streaming_dataset(split='train').decode(False))) == 1\n"
        "print([name for name in ('torch', 'transformers', 'diffusers') if name in sys.modules])\n"
    )
    folder = write_pictures(tmp_path / "set", ROWS[:1])
    environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_killed_at_any_moment_it_goes_on(tmp_path: Path, streaming: bool) -> None:
    content_rows = rows(600)
    code = (
        "import sys, pathlib; sys.path[:0] = sys.argv[1].split(':')\n"
        "from hub_sets import hub_set; from data_helpers import Told\n"
        "from simpletune.data.sources.huggingface import HuggingFace\n"
        "print('begun', flush=True)\n"
        "HuggingFace(hub_set('owner/set', pathlib.Path(sys.argv[2]), streaming=sys.argv[4] == 'True'), sys.argv[3])"
        ".fetch(Told())\n"
    )
    with served(write_parquet(tmp_path / "repository", content_rows, files=6, group=10)) as hub:
        paths = f"{Path(__file__).parent}:{Path(__file__).parent.parent}"
        command = [sys.executable, "-c", code, paths, str(tmp_path / "cache"), hub.endpoint, str(streaming)]
        environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        kills = 0
        for moment in range(20):
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.9 + 0.12 * moment)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
            process.stdout.close()
            if process.returncode == 0:
                break
        assert kills > 1
        source = HuggingFace(hub_set("owner/set", tmp_path / "cache", streaming=streaming), hub.endpoint)
        source.fetch(Told())
    assert content(source) == [(row["image"]["bytes"], (row["caption"],)) for row in content_rows]
    assert json.loads(next((tmp_path / "cache").glob("*/fetched.json")).read_text())["commit"] == hub.commit
