"""`simpletune configure` where something is already: another config, a data file, files for another card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from simpletune.cli.main import run


def configure(*words: str) -> int:
    return run(["configure", *words])


def pictures(folder: Path, *colours: str) -> Path:
    folder.mkdir()
    for colour in colours:
        Image.new("RGB", (160, 128), colour).save(folder / f"{colour}.png")
    return folder


def test_a_second_config_in_a_folder_has_a_data_file_of_its_own(tmp_path: Path) -> None:
    one, other = pictures(tmp_path / "one", "red", "blue"), pictures(tmp_path / "other", "green", "pink")
    flags = ("--defaults", "--preset", "cpu", "--yes")
    assert configure(str(tmp_path / "config.json"), "--dataset", str(one), *flags) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    assert configure(str(tmp_path / "second.json"), "--dataset", str(other), *flags) == 0
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert json.loads((tmp_path / "second.json").read_text())["data_backend_config"] == "second-multidatabackend.json"
    assert json.loads((tmp_path / "second-multidatabackend.json").read_text())[0]["instance_data_dir"] == "other"
    assert run(["validate", str(tmp_path / "second.json")]) == 0


def test_a_data_file_made_by_hand_is_a_beginning(tmp_path: Path) -> None:
    pictures(tmp_path / "mine", "red", "blue")
    (tmp_path / "multidatabackend.json").write_text('[{"id": "by-hand", "instance_data_dir": "mine", "crop": true}]')
    assert configure(str(tmp_path / "config.json"), "--defaults", "--preset", "cpu", "--yes") == 0
    (entry,) = json.loads((tmp_path / "multidatabackend.json").read_text())
    assert (entry["id"], entry["crop"]) == ("by-hand", True)


def test_a_folder_named_twice_is_one_data_set(tmp_path: Path) -> None:
    one = pictures(tmp_path / "one", "red", "blue")
    for _ in range(2):
        again = ("--dataset", str(one), "--dataset", f"{one}/", "--dataset", str(tmp_path / "x" / ".." / "one"))
        assert configure(str(tmp_path / "config.json"), *again, "--defaults", "--preset", "cpu", "--yes") == 0
        assert len(json.loads((tmp_path / "multidatabackend.json").read_text())) == 1


def test_a_preset_fits_files_to_another_card_and_leaves_what_no_card_decides(tmp_path: Path) -> None:
    config = str(tmp_path / "config.json")
    one = str(pictures(tmp_path / "one", "red", "blue"))
    tuned = ("--set", "max_train_steps=77", "--set", "learning_rate=5e-5")
    assert configure(config, "--dataset", one, "--defaults", "--preset", "24gb", *tuned, "--yes") == 0
    assert json.loads((tmp_path / "config.json").read_text())["base_model_precision"] == "no_change"
    assert configure(config, "--defaults", "--preset", "8gb", "--yes") == 0
    made = json.loads((tmp_path / "config.json").read_text())
    assert made["base_model_precision"] == "int8-quanto"
    assert (made["max_train_steps"], made["learning_rate"]) == (77, 5e-5)
    text = (tmp_path / "config.json").read_text()
    assert configure(config, "--defaults", "--preset", "8gb", "--yes") == 0
    assert (tmp_path / "config.json").read_text() == text


def test_a_cards_preset_puts_a_real_model_in_the_toys_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in an empty folder; who wants the toy on a card says so."""
    one = str(pictures(tmp_path / "one", "red", "blue"))

    def made(folder: str, *presets: str, flags: Sequence[str] = ()) -> list[object]:
        for preset in presets:
            config = str(tmp_path / folder / "config.json")
            assert configure(config, "--dataset", one, "--defaults", "--preset", preset, *flags, "--yes") == 0
        names = ("config.json", "multidatabackend.json")
        return [json.loads((tmp_path / folder / name).read_text()) for name in names]

    fresh = made("fresh", "8gb")
    assert made("first-tiny", "cpu", "8gb") == fresh
    assert "Model: tiny was for another machine or model: sd3-medium instead" in capsys.readouterr().err
    assert made("first-tiny", "8gb") == fresh
    kept: Any = made("kept", "cpu", "8gb", flags=("--set", "model_flavour=tiny"))
    assert (kept[0]["model_flavour"], kept[0]["learning_rate"], kept[0]["device_memory_gb"]) == ("tiny", 2e-3, 8)


def test_data_sets_are_counted_as_train_counts_them(tmp_path: Path) -> None:
    pictures(tmp_path / "one", "red", "blue")
    off = {"id": "off", "instance_data_dir": "one", "disabled": True}
    (tmp_path / "multidatabackend.json").write_text(json.dumps([off, {"id": "on", "instance_data_dir": "one"}]))
    flags = ("--defaults", "--preset", "cpu", "--set", "dataset.1.repeats=4", "--yes")
    assert configure(str(tmp_path / "config.json"), *flags) == 0
    assert [entry.get("repeats") for entry in json.loads((tmp_path / "multidatabackend.json").read_text())] == [None, 4]
