"""Sets of pictures of every kind in the wizard: what is typed, what is found out, what is asked and written then."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from s3_server import aws_environment, s3_server
from script import BACK, Stuck, Typed, Visit, always, draw, edit, facts, in_turn, visit, write
from walks import pack, tabulate

from simpletune.config.validate import Problem, check
from simpletune.errors import UsageError
from simpletune.wizard.question import NotUnderstood
from simpletune.wizard.questions.places import typed_place
from simpletune.wizard.start import parse_sets, read_base
from simpletune.wizard.state import Answer, Base
from simpletune.wizard.unattended import answer_all, dataset_answers

FIRST_TIME = [
    "depth", "hardware", "model", "data.0.folder", "data.0.captions", "data.0.resolution", "data.0.more", "lora.rank",
    "training.steps", "samples.prompts", "output", "review",
]  # fmt: skip
"""What somebody with a folder of pictures is asked for the tiny model; SD3 has three questions more."""


def asked_for(config: Path, place: str, **answers: Any) -> Visit:
    named = {name.replace("__", ".").replace("_0_", ".0."): value for name, value in answers.items()}
    return visit(config, always({"data.0.folder": Typed(place), **named}))


def problems(made: Visit) -> list[Problem]:
    """What validate says of the files, once they are written."""
    write(made)
    return [problem for problem in check(made.state.base.config_path).problems if problem.kind == "config"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "project" / "config.json"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("s3://bucket/a folder/", "s3://bucket/a folder"),
        ('"s3://bucket"', "s3://bucket"),
        ("hf://owner/name", "hf://owner/name"),
        ("hf://datasets/owner/name/", "hf://owner/name"),
        ("https://huggingface.co/datasets/owner/name", "hf://owner/name"),
        ("https://huggingface.co/datasets/owner/name/tree/main?x=1", "hf://owner/name"),
        ("/somewhere/pictures", "/somewhere/pictures"),
    ],
)
def test_places_as_they_are_typed(typed: str, meant: str) -> None:
    assert typed_place(typed) == meant
    assert typed_place(meant) == meant


@pytest.mark.parametrize(
    "typed", ["", "s3://", "s3://name:password@host/x", "hf://name", "hf://a b/c", "https://example.org/x", "gs://b/x"]
)
def test_places_that_are_none(typed: str) -> None:
    with pytest.raises(NotUnderstood):
        typed_place(typed)


def test_a_folder_of_pictures_asks_no_more_than_it_did(tmp_path: Path, config: Path) -> None:
    made = asked_for(config, str(draw(tmp_path / "pictures", 6)))
    assert [name for name in made.prompter.asked if name != "depth"] == FIRST_TIME[1:]
    assert made.state.images == [
        {
            "id": "pictures", "instance_data_dir": "../pictures", "type": "local", "dataset_type": "image",
            "caption_strategy": "textfile", "resolution": 128, "crop": False, "repeats": 0,
        }
    ]  # fmt: skip


def test_a_data_set_of_the_hub_needs_no_network(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    made = asked_for(config, "https://huggingface.co/datasets/some-one/paintings")
    assert [name for name in made.prompter.asked if name != "depth"] == FIRST_TIME[1:]
    [entry] = made.state.images
    assert (entry["type"], entry["dataset_name"], entry["id"]) == ("huggingface", "some-one/paintings", "paintings")
    assert entry["caption_strategy"] == "huggingface"
    assert "instance_data_dir" not in entry
    assert any("fetched when training starts" in line for line in made.prompter.said)
    assert problems(made) == []


def test_some_of_a_large_data_set(config: Path) -> None:
    turns = (("review", edit("data.0.part")), ("data.0.part", Typed("500 pictures")))
    policy = in_turn(*turns, then=always({"data.0.folder": Typed("hf://some-one/paintings")}))
    made = visit(config, policy)
    assert (made.state.images[0]["streaming"], made.state.images[0]["max_num_samples"]) == (True, 500)
    assert problems(made) == []


def test_a_folder_of_shards_is_one_of_type_webdataset(tmp_path: Path, config: Path) -> None:
    pack(tmp_path / "shards", draw(tmp_path / "pictures", 6))
    made = asked_for(config, str(tmp_path / "shards"))
    assert made.state.images[0]["type"] == "webdataset"
    assert made.state.images[0]["caption_strategy"] == "textfile"
    assert "6 pictures" in made.prompter.said
    assert problems(made) == []


def test_a_parquet_file_is_a_data_set(tmp_path: Path, config: Path) -> None:
    tabulate(tmp_path / "paintings.parquet", draw(tmp_path / "pictures", 6))
    made = asked_for(config, str(tmp_path / "paintings.parquet"))
    [entry] = made.state.images
    assert (entry["type"], entry["dataset_name"], entry["id"]) == ("huggingface", "../paintings.parquet", "paintings")
    assert entry["caption_strategy"] == "huggingface"
    assert any("6 with a caption in the data set" in line for line in made.prompter.said)
    assert problems(made) == []


def test_columns_are_asked_for_where_they_cannot_be_found(tmp_path: Path, config: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    picture = {"bytes": next(draw(tmp_path / "pictures", 1).glob("*.png")).read_bytes(), "path": None}
    table = {"before": [picture], "after": [picture], "english": ["a ball"], "german": ["ein Ball"]}
    parquet.write_table(pyarrow.table(table), tmp_path / "pairs.parquet")
    made = asked_for(config, str(tmp_path / "pairs.parquet"), data_0_image_column="after", data_0_column="german")
    assert {"data.0.image_column", "data.0.column"} <= set(made.prompter.asked)
    assert (made.state.images[0]["image_column"], made.state.images[0]["caption_column"]) == ("after", "german")
    assert problems(made) == []


def test_a_bucket(tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aws_environment(monkeypatch)
    with s3_server() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        folder = draw(tmp_path / "pictures", 3)
        server.fill("some-bucket", {f"balls/{path.name}": path.read_bytes() for path in folder.iterdir()})
        made = asked_for(config, "s3://some-bucket/balls/")
        with pytest.raises(Stuck, match="there is nothing below that"):
            refused(config, "s3://some-bucket/bals")
    [entry] = made.state.images
    assert (entry["type"], entry["s3_url"], entry["id"]) == ("s3", "s3://some-bucket/balls", "balls")
    assert entry["caption_strategy"] == "textfile"
    assert "3 pictures" in made.prompter.said
    assert problems(made) == []


def refused(config: Path, place: str) -> None:
    """Type a place that is refused; raises Stuck with what was said of it."""

    def twice(screen: Any) -> Any:
        raise Stuck(str(screen.problem))

    visit(config, in_turn(("data.0.folder", Typed(place)), ("data.0.folder", twice), then=always({})))


def test_a_server_that_is_not_there(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aws_environment(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(Stuck, match=r"127\.0\.0\.1:9.*AWS_ENDPOINT_URL"):
        refused(config, "s3://bucket/balls")
    assert time.monotonic() - began < 12


@pytest.mark.parametrize(("package", "place"), [("s3fs", "s3://bucket/balls"), ("pyarrow", "{}/set.parquet")])
def test_a_package_that_is_missing(
    package: str, place: str, tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tabulate(tmp_path / "set.parquet", draw(tmp_path / "pictures", 2))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Stuck, match=r"pip install 'simpletune\["):
        refused(config, place.format(tmp_path))


# --- captions, masks, roles


def test_a_table_of_captions_in_the_folder_is_found(tmp_path: Path, config: Path) -> None:
    folder = draw(tmp_path / "pictures", 4, texts=False, names="IMG_{}")
    rows = [json.dumps({"file_name": path.name, "text": "a ball"}) for path in folder.iterdir()]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    made = asked_for(config, str(folder))
    entry = made.state.images[0]
    assert (entry["caption_strategy"], entry["metadata_path"]) == ("jsonl", "../pictures/metadata.jsonl")
    assert problems(made) == []


def test_a_table_without_captions_is_refused(tmp_path: Path, config: Path) -> None:
    (tmp_path / "notes.csv").write_text("who,when\nme,now\n")
    turns = (
        ("data.0.folder", Typed(str(draw(tmp_path / "pictures", 4)))),
        ("data.0.captions", Typed(str(tmp_path / "notes.csv"))),
        ("data.0.captions", BACK),
    )
    made = visit(config, in_turn(*turns, then=always({})))
    said = [screen.problem for screen in made.prompter.screens if screen.id == "data.0.captions" and screen.problem]
    assert "no column named" in said[0]


def test_masks_beside_the_pictures_are_proposed_if_there_is_one_for_each(tmp_path: Path, config: Path) -> None:
    folder = draw(tmp_path / "pictures", 4)
    draw(tmp_path / "masks", 3, texts=False)
    assert "mask_source" not in asked_for(config, str(folder)).state.images[0]
    draw(tmp_path / "masks", 4, texts=False)
    made = asked_for(config, str(folder))
    assert (made.state.images[0]["mask_source"], made.state.images[0]["mask_data_dir"]) == ("folder", "../masks")
    assert problems(made) == []


def test_tags_may_be_shuffled(tmp_path: Path, config: Path) -> None:
    folder = draw(tmp_path / "pictures", 4)
    for path in folder.glob("*.txt"):
        path.write_text("ball, red ball, round, white background, no humans")
    policy = always({"depth": "everything", "data.0.folder": Typed(str(folder)), "data.0.orders": 4})
    made = visit(config, policy)
    assert made.state.images[0]["caption_shuffle_count"] == 4
    assert problems(made) == []


@pytest.mark.parametrize(
    ("role", "keys"),
    [
        ("train", {"dataset_type": "image"}),
        ("regularisation", {"dataset_type": "image", "is_regularisation_data": True}),
        ("eval", {"dataset_type": "eval"}),
    ],
)
def test_what_further_pictures_are_for(role: str, keys: dict[str, Any], tmp_path: Path, config: Path) -> None:
    folders = [Typed(str(draw(tmp_path / name, 6))) for name in ("ours", "others")]
    answers = {"data.0.folder": folders[0], "data.0.more": True, "data.1.folder": folders[1], "data.1.role": role}
    made = visit(config, always({**answers, "data.1.more": False}))
    assert "data.0.role" not in made.prompter.asked
    assert keys.items() <= made.state.images[1].items()
    assert ("repeats" in made.state.images[1]) == (role != "eval")
    assert problems(made) == []


@pytest.mark.parametrize(("role", "held_out"), [("train", 4), ("eval", 0)])
def test_pictures_to_measure_on_spare_holding_out_others(role: str, held_out: int, config: Path) -> None:
    ours, others = (draw(config.parent / name, count) for name, count in (("ours", 20), ("others", 4)))
    answers = {
        "data.0.folder": Typed(str(ours)),
        "data.0.more": True,
        "data.1.folder": Typed(str(others)),
        "data.1.role": role,
    }
    made = visit(config, always({**answers, "data.1.more": False}))
    assert made.state.value("num_eval_images") == held_out


# --- nobody asked


def unattended(config: Path, places: Sequence[str], sets: Sequence[str] = ()) -> list[dict[str, Any]]:
    base = Base(config, sets=parse_sets(sets))
    reached = answer_all(facts(config.parent), base, {**dataset_answers(places, base), "model": Answer("tiny")})
    assert "model" not in [step.answer.value for step in reached.steps if step.question.id.endswith(".captions")]
    return reached.state.images


def test_places_as_flags(tmp_path: Path, config: Path) -> None:
    folder = str(draw(tmp_path / "pictures", 4, texts=False, names="IMG_{}"))
    sets = ["dataset.1.dataset_type=eval", "dataset.1.dataset_split=test", "dataset.0.horizontal_flip=true"]
    first, second = unattended(config, [folder, "hf://some-one/paintings"], sets)
    assert (first["caption_strategy"], first["horizontal_flip"]) == ("instanceprompt", True)
    assert (second["dataset_name"], second["dataset_split"], second["dataset_type"]) == (
        "some-one/paintings", "test", "eval",
    )  # fmt: skip
    with pytest.raises(UsageError, match="bucket"):
        unattended(config, ["s3://"])
    with pytest.raises(UsageError, match="can't be a cache"):
        parse_sets(["dataset.1.dataset_type=text_embeds"])


def test_a_place_that_the_files_have_is_no_new_one(config: Path) -> None:
    made = asked_for(config, "hf://some-one/paintings")
    write(made)
    assert dataset_answers(["https://huggingface.co/datasets/some-one/paintings"], read_base(config)) == {}
