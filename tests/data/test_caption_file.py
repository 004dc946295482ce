"""captions/ID.jsonl while it grows: resumed, repaired, sorted, and never robbed of what a person wrote."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.data.captioning.file import opened
from simpletune.data.captioning.sidecars import Sidecars
from simpletune.errors import UsageError


def written(path):
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def line(name, text, **more):
    return json.dumps({"file_name": name, "text": text, **more}, ensure_ascii=False) + "\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "captions" / "pics.jsonl"


def test_captions_are_kept_as_they_are_made_and_sorted_in_the_end(path):
    with opened(path) as store:
        store.add([("b.png", "two")])
        assert written(path) == [{"file_name": "b.png", "text": "two"}]
        store.add([("a.png", "one")])
        store.finish()
    assert path.read_text("utf-8") == line("a.png", "one") + line("b.png", "two")
    assert [found.name for found in path.parent.iterdir()] == ["pics.jsonl"]


def test_what_is_there_is_not_done_again(path):
    with opened(path) as store:
        store.add([("a.png", "one")])
    with opened(path) as store:
        assert store.has("a.png")
        assert not store.has("b.png")


@pytest.mark.parametrize(
    "torn", ['{"file_name": "b.p', '{"file_name": "b.png", "text": "tw\u00e9"'.encode()[:-3], b"\xf0\x9f", b"\0\0\0"]
)
def test_a_last_line_that_was_cut_off_is_taken_away(path, torn):
    path.parent.mkdir()
    path.write_bytes(line("a.png", "one").encode() + (torn.encode() if isinstance(torn, str) else torn))
    with opened(path) as store:
        assert (store.has("a.png"), store.has("b.png")) == (True, False)
        store.add([("b.png", "two")])
        store.finish()
    assert [entry["text"] for entry in written(path)] == ["one", "two"]


def test_a_whole_last_line_without_its_end_stays(path):
    path.parent.mkdir()
    path.write_text(line("a.png", "one").rstrip(), "utf-8")
    with opened(path) as store:
        store.add([("b.png", "two")])
    assert [entry["text"] for entry in written(path)] == ["one", "two"]


def test_lines_of_a_person_stay_with_all_their_columns(path):
    path.parent.mkdir()
    mine = [
        '\ufeff{"filename": "z.png", "caption": "mine", "rating": 5}',
        "",
        '{"file_name": "e.png", "text": ["x", "y"]}',
    ]
    path.write_text("\r\n".join([*mine, ""]), "utf-8", newline="")
    with opened(path) as store:
        assert store.has("z.png")
        assert store.has("e.png")
        store.add([("a.png", "one")])
        store.finish()
    assert written(path) == [
        {"file_name": "a.png", "text": "one"},
        {"file_name": "e.png", "text": ["x", "y"]},
        {"filename": "z.png", "caption": "mine", "rating": 5},
    ]


def test_an_empty_caption_is_none(path):
    path.parent.mkdir()
    path.write_text(line("a.png", "") + line("b.png", "") + '{"note": "mine"}\n', "utf-8")
    with opened(path) as store:
        assert not store.has("a.png")
        store.add([("a.png", "one")])
        store.finish()
    assert written(path) == [
        {"note": "mine"},
        {"file_name": "a.png", "text": "one"},
        {"file_name": "b.png", "text": ""},
    ]


@pytest.mark.parametrize("wrong", ["no json", "[1]", "3", '{"file_name": "a.png", "text": "b"} x', "[" * 2000])
def test_a_line_that_cannot_be_read_is_named_and_nothing_changes(path, wrong):
    path.parent.mkdir()
    content = line("a.png", "one") + wrong + "\n" + line("b.png", "two")
    path.write_text(content, "utf-8")
    with pytest.raises(UsageError, match=r"pics\.jsonl, line 2, is not a JSON object"), opened(path):
        pass
    assert path.read_text("utf-8") == content


def test_overwriting_leaves_the_old_captions_until_all_new_ones_are_there(path):
    path.parent.mkdir()
    old = line("a.png", "old", rating=5) + line("b.png", "old") + line("gone.png", "mine")
    path.write_text(old, "utf-8")
    with opened(path, overwrite="one") as store:
        assert not store.has("a.png")
        store.add([("b.png", "new")])
        store.pause()
    assert path.read_text("utf-8") == old
    with opened(path, overwrite="two") as store:  # other options: from the beginning
        assert not store.has("b.png")
    with opened(path, overwrite="one") as store:
        store.add([("b.png", "new")])
    with opened(path, overwrite="one") as store:  # the same: it goes on
        assert store.has("b.png")
        store.add([("a.png", "new")])
        store.finish()
    assert path.read_text("utf-8") == (line("a.png", "new", rating=5) + line("b.png", "new") + line("gone.png", "mine"))
    assert [found.name for found in path.parent.iterdir()] == ["pics.jsonl"]


def test_two_runs_do_not_write_the_same_file(path):
    with opened(path), pytest.raises(UsageError, match="being written by another run"), opened(path):
        pass


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=()), min_size=1, max_size=8)


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(NAMES, st.text(min_size=1, max_size=20), max_size=6), st.integers(0, 400))
def test_a_file_cut_anywhere_goes_on_to_the_same_captions(tmp_path_factory, captions, cut):
    path = tmp_path_factory.mktemp("cut") / "pics.jsonl"
    with opened(path) as store:
        store.add(captions.items())
    path.write_bytes(path.read_bytes()[:cut])
    with opened(path) as store:
        store.add([(name, text) for name, text in captions.items() if not store.has(name)])
        store.finish()
    assert {entry["file_name"]: entry["text"] for entry in written(path)} == captions
    assert [entry["file_name"] for entry in written(path)] == sorted(captions)


def test_sidecars_leave_text_files_alone(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    (tmp_path / "empty.txt").touch()
    store = Sidecars(tmp_path)
    assert store.has("a.png")
    assert store.has("empty.png")
    store.add([("a.png", "new"), ("b.png", "two"), ("b.jpg", "three")])
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "a.txt": "mine",
        "empty.txt": "",
        "b.txt": "two\n",
    }
    again = Sidecars(tmp_path, overwrite=True)
    assert not again.has("a.png")
    again.add([("a.png", "new")])
    assert again.has("a.png")
    assert (tmp_path / "a.txt").read_text() == "new\n"
