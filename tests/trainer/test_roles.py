"""What data sets are for, in whole runs: training, regularisation, evaluation, masks, and when each is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from project import Project

from simpletune.progress import SilentReporter
from simpletune.trainer import run
from simpletune.trainer.launch import launch
from simpletune.trainer.session import open_session

Make = Callable[..., Project]


class Told(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(text)


def train(project: Project, *overrides: str) -> list[str]:
    told = Told()
    assert launch(project.config, overrides, told) is not None
    return told.lines


def data_sets(project: Project, *extra: dict[str, Any], **changes: Any) -> None:
    """Change the first data set, and add others."""
    path = project.folder / "multidatabackend.json"
    first, text = json.loads(path.read_text())
    path.write_text(json.dumps([{**first, **changes}, *extra, text]))


def folder(project: Project, name: str, pictures: dict[str, str]) -> str:
    """A folder of pictures with captions, each a colour, or a copy of another picture."""
    made = project.folder / name
    made.mkdir()
    for file, colour in pictures.items():
        Image.new("RGB", (64, 64), colour).save(made / f"{file}.png")
        (made / f"{file}.txt").write_text(f"a {colour} square")
    return name


def data(project: Project) -> dict[str, Any]:
    return json.loads((project.output / "data.json").read_text())


def test_every_role_in_one_run(project: Make) -> None:
    """Balls with masks but for one, half of them an epoch; gray squares for regularisation from step 2 on; two squares
    to evaluate, which lie below the folder of the balls."""
    made = project(max_train_steps=5, train_batch_size=3)
    squares = folder(made, "class", {"c1": "gray", "c2": "silver"})
    masks = made.folder / "masks"
    masks.mkdir()
    for path in sorted((made.folder / "pictures").glob("*.png"))[1:]:
        mask = Image.new("L", (96, 64) if int(path.name[0]) % 2 else (64, 64), 0)
        mask.paste(255, (0, 0, 48, 48))
        mask.save(masks / path.name)
    judged = folder(made, "pictures/judged", {"e1": "gold", "e2": "navy"})
    data_sets(
        made,
        {"id": "class", "instance_data_dir": squares, "is_regularisation_data": True, "regularisation_weight": 0.5}
        | {"start_step": 2},
        {"id": "judged", "dataset_type": "eval", "instance_data_dir": judged},
        mask_source="folder",
        mask_data_dir="masks",
        probability=0.5,
    )
    said = train(made)
    described = data(made)
    assert {name: entry["role"] for name, entry in described["data_sets"].items()} == {
        "balls": "training",
        "class": "regularisation",
        "judged": "evaluation",
    }
    assert described["data_sets"]["class"]["loss_weight"] == 0.5
    assert described["data_sets"]["class"]["start_step"] == 2
    assert [(row["data_set"], row["name"]) for row in described["held_out"]] == [
        ("judged", "e1.png"),
        ("judged", "e2.png"),
    ]
    trained = [(row["data_set"], row["name"][0]) for row in described["trained"]]
    assert trained == [("balls", name) for name in "12345"] + [("class", "c")] * 2, "0-red has no mask"
    assert all(("masks" in row) == (row["data_set"] == "balls") for row in described["trained"])
    assert any("no mask in mask_data_dir" in line and "0-red.png" in line for line in said)
    lines = made.metrics()
    assert [line["validation_loss"] > 0 for line in lines.validations] == [True, True]
    assert [len(line["sigma"]) for line in lines.steps][:2] == [2, 1], "half of 3 wide and of 2 square balls"
    assert sum(len(line["sigma"]) for line in lines.steps[2:]) > 3, "from step 2 on the class is shown too"
    assert all(line["data_wait"] >= 0 for line in lines.steps)


def test_what_a_run_comes_to_is_told_again_where_pictures_drop_out_while_encoding(project: Make) -> None:
    made = project(max_train_steps=None, num_train_epochs=1, train_batch_size=1)
    path = made.folder / "pictures" / "0-red.png"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2] + bytes(20) + path.read_bytes()[size // 2 + 20 :])
    said = train(made)
    assert any(line.startswith("the run: 6 steps") for line in said)
    assert "1 of 6 pictures left out while encoding: an epoch is now 5 pictures, 5 steps; the run 5 steps" in said, said
    assert len(made.losses()) == 5


def test_cache_entries_that_are_damaged_while_a_run_begins_are_mended_on_the_way(
    project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = project(max_train_steps=4)

    def spoil_and_open(*arguments: Any) -> Any:
        entries = sorted((made.folder / "cache").rglob("*.safetensors"))
        latents, texts = ([path for path in entries if kind in path.parts] for kind in ("vae", "text"))
        latents[0].write_bytes(latents[0].read_bytes()[:-1] + b"!")
        for path in texts[:2]:  # one of the two may be the empty caption, which isn't needed
            path.unlink()
        return open_session(*arguments)

    monkeypatch.setattr(run, "open_session", spoil_and_open)
    said = train(made)
    assert len(made.losses()) == 4
    assert any("the cached latent of" in line for line in said)
    assert any("encoding of the caption" in line for line in said)
    texts = list((made.folder / "cache/text").rglob("*.safetensors"))
    assert len(texts) in {6, 7}
