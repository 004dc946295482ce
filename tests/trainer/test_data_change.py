"""A run that goes on with another data set: told in words, and only where that was said to be meant."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from project import Project
from resuming import commands, refused, run_command, train

from simpletune.models.sd3 import SD3
from simpletune.trainer.data_change import Data, compare


def change_captions(pictures: Path) -> None:
    (pictures / "0-red.txt").write_text("a scarlet ball")


def remove_one(pictures: Path) -> None:
    for path in pictures.glob("1-*"):
        path.unlink()


def add_one(pictures: Path) -> None:
    Image.new("RGB", (64, 64), "gold").save(pictures / "9-gold.png")
    (pictures / "9-gold.txt").write_text("gold")


def paint_over(pictures: Path) -> None:
    Image.new("RGB", (64, 64), "gold").save(pictures / "0-red.png")


def crop_otherwise(pictures: Path) -> None:
    Image.new("RGB", (70, 64), "gold").save(pictures / "0-red.png")


def repeat(pictures: Path) -> None:
    path = pictures.parent / "multidatabackend.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps([data[0] | {"repeats": 2}, *data[1:]]))


@pytest.mark.parametrize(
    ("change", "said", "early"),
    [
        (change_captions, "1 picture is captioned otherwise: balls/0-red.png", True),
        (remove_one, "1 picture is gone: balls/1-green.png", True),
        (add_one, "1 picture is new: balls/9-gold.png", False),
        (paint_over, "1 picture is of other content: balls/0-red.png", False),
        (crop_otherwise, "1 picture is cropped or sized otherwise: balls/0-red.png", True),
        (repeat, 'data set "balls": repeats: 0 -> 2', True),
    ],
)
def test_changed_data_is_told_and_has_to_be_accepted(
    run: Project, change: Callable[[Path], None], said: str, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(run.folder / "pictures")
    with monkeypatch.context() as patch:
        patch.setattr(SD3, "load_transformer", None)
        if early:
            patch.setitem(sys.modules, "simpletune.trainer.run", None)
        error = refused(run, "max_train_steps=5")
    assert "the data set has changed since output/checkpoint-4 was saved" in error.message
    assert said in error.message
    if change is change_captions:
        again = run_command(commands(error)[0])
        assert again.has("warning: the data set has changed since checkpoint-4 was saved")
        assert again.has(said)
        assert run.metrics().steps[-1]["step"] == 5
        assert not train(run, "max_train_steps=6").has("the data set has changed")


@pytest.mark.parametrize("change", [change_captions, paint_over])
def test_a_run_beside_it_is_proposed_where_it_has_seen_this_data(run: Project, change: Callable[[Path], None]) -> None:
    """With captions that is known before anything is encoded, with other content only then."""
    shutil.copytree(run.output, run.folder / "output-2")
    change(run.folder / "pictures")
    error = refused(run, "max_train_steps=5")
    assert "output-2" not in "".join(commands(error))
    assert train(run, "max_train_steps=1", new_folder=True).has("output-3")
    error = refused(run, "max_train_steps=5")
    (again,) = (line for line in commands(error) if "output_dir=" in line)
    assert again.endswith("output_dir=output-3")
    assert run_command(again).has("continuing from checkpoint-1: step 1 of 5")


def test_all_latents_at_once_are_no_matter_of_the_pictures() -> None:
    def data(vae: str) -> Data:
        return Data({}, {("a", name): {"captions": [name], "latents": [vae + name]} for name in "xyz"})

    change = compare(data("old"), data("new"))
    assert change.lines() == [
        "every picture has another latent: the model's VAE is another one, or this version prepares otherwise"
    ]
    assert not change.is_certain


@pytest.mark.slow
def test_what_was_accepted_is_still_told_after_a_kill(run: Project) -> None:
    """data.json is that of the new data by then, and the newest checkpoint has seen the old one."""
    change_captions(run.folder / "pictures")
    train(run, "max_train_steps=5", accept_data_change=True)
    shutil.rmtree(run.output / "checkpoint-5")
    (run.output / "finished.json").unlink()
    error = refused(run, "max_train_steps=5")
    assert "1 picture is captioned otherwise: balls/0-red.png" in error.message
    for path in run.output.glob("data-*.json"):
        path.unlink()
    assert "can't be told" in refused(run, "max_train_steps=5").message
