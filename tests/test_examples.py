"""Every example validates and trains, through the commands the README names."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest
from hub_server import serve
from wikiart_set import SARGENT, write_wikiart

from simpletune.cli.main import run
from simpletune.config.load import load
from simpletune.data.forecast import plan_of
from simpletune.data.preflight import preflight
from simpletune.machine.devices import usable_memory
from simpletune.machine.forecast import forecast

EXAMPLES = Path(__file__).parents[1] / "examples"


CARDS = (6, 8, 12, 16, 24)  # GB


@pytest.mark.parametrize(
    "example",
    [
        str(path.parent.relative_to(EXAMPLES))
        for path in sorted(EXAMPLES.rglob("config.json"))
        if "sargent" not in path.parts  # its pictures are to be fetched first, as below
    ],
)
def test_an_example_validates(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On this machine, which has no card: the device is the only thing that is put aside."""
    aside = ["--set", "device=cpu"] if example.startswith("sd3") else []
    assert run(["validate", str(EXAMPLES / example / "config.json"), *aside]) == 0
    assert "are valid" in capsys.readouterr().out


@pytest.mark.parametrize("size", CARDS)
def test_a_cards_example_is_what_its_preset_writes(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command in examples/README.md; so it stays true when the recommendations change."""
    shutil.copytree(EXAMPLES / "quickstart" / "pictures", tmp_path / "examples" / "quickstart" / "pictures")
    monkeypatch.chdir(tmp_path)
    text = (EXAMPLES / "README.md").read_text().replace("\\\n", " ")
    command = next(line for line in text.splitlines() if "--preset ${size}gb" in line).replace("${size}", str(size))
    words = shlex.split(command.strip().removesuffix("; done"))[1:]
    assert run(words) == 0
    name = f"sd3-medium-{size}gb"
    written = {path.name: path.read_text() for path in (tmp_path / "examples" / name).glob("*.json")}
    assert written == {path.name: path.read_text() for path in (EXAMPLES / name).glob("*.json")}


@pytest.mark.parametrize("size", CARDS)
def test_a_cards_example_fits_its_card(size: int) -> None:
    settings, _ = load(EXAMPLES / f"sd3-medium-{size}gb" / "config.json", ["device=cpu"])
    usable = usable_memory(size << 30)
    expected = forecast(replace(plan_of(settings, preflight(settings)), device="cuda", device_bytes=usable))
    assert expected.peak.bytes <= usable


def test_sargents_examples_validate_and_fit_their_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a data set like that of the hub, of which theirs are a third of the pictures."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    shutil.copytree(EXAMPLES / "sargent", tmp_path / "sargent", ignore=shutil.ignore_patterns("output", "cache"))
    artists = ["claude-monet", SARGENT, "mary-cassatt"] * 24
    write_wikiart(tmp_path / "repository", artists, (900, 900))
    for size in (16, 24):
        config = tmp_path / "sargent" / f"{size}gb" / "config.json"
        assert run(["validate", str(config), "--set", "device=cpu"]) == 3
        assert "huggan/wikiart isn't on this machine yet" in capsys.readouterr().out
        with serve(tmp_path / "repository", "datasets", "huggan/wikiart") as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
            assert run(["data", str(config), "--set", "device=cpu", "--no-duplicates"]) == 0
        assert run(["validate", str(config), "--set", "device=cpu"]) == 0
        assert "are valid" in capsys.readouterr().out
        settings, _ = load(config, ["device=cpu"])
        look, usable = preflight(settings), usable_memory(size << 30)
        assert len(look.training) + len(look.held_out) == 24
        expected = forecast(replace(plan_of(settings, look), device="cuda", device_bytes=usable))
        assert 0.4 * usable < expected.peak.bytes < 0.8 * usable


def test_the_quickstart_lowers_the_loss_of_pictures_it_never_saw(tmp_path: Path) -> None:
    here = tmp_path / "quickstart"
    shutil.copytree(EXAMPLES / "quickstart", here, ignore=shutil.ignore_patterns("output", "cache"))
    shorter = ["max_train_steps=30", "validation_step_interval=1000", "validation_prompt=null"]
    command = ["train", str(here / "config.json"), *(word for value in shorter for word in ("--set", value))]
    assert run([*command, "--dry-run"]) == 0
    assert not (here / "output").exists()
    assert run(command) == 0
    lines = [json.loads(line) for line in (here / "output" / "metrics.jsonl").read_text().splitlines()]
    first, last = [line["validation_loss"] for line in lines if line["kind"] == "validation"]
    assert last < 0.95 * first
    held_out = json.loads((here / "output" / "data.json").read_text())["held_out"]
    assert len(held_out) == 4


@pytest.mark.parametrize("example", ["quickstart", "styles/line-drawings"])
def test_a_style_set_is_small_and_says_where_it_comes_from(example: str) -> None:
    pictures = list((EXAMPLES / example / "pictures").glob("*.png"))
    assert 20 <= len(pictures) <= 40
    assert sum(path.stat().st_size for path in (EXAMPLES / example / "pictures").iterdir()) < 750_000
    sources = (EXAMPLES / example / "SOURCES.md").read_text()
    assert all(f"| {path.name} |" in sources for path in pictures)


def test_the_two_files_of_the_readme_load(tmp_path: Path) -> None:
    """As shown, but for the model, which is not on this machine."""
    blocks = re.findall(r"```json\n(.*?)```", (EXAMPLES.parent / "README.md").read_text(), re.DOTALL)
    config, data = (json.loads(block) for block in blocks)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "multidatabackend.json").write_text(json.dumps(data))
    shutil.copytree(EXAMPLES / "quickstart" / "pictures", tmp_path / data[0]["instance_data_dir"])
    settings, _ = load(tmp_path / "config.json", ["device=cpu"])
    assert preflight(settings).total_steps == config["max_train_steps"]
    assert settings.model_flavour == "sd3-medium"
