"""Every example validates and trains, through the commands the README names."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from simpletune.cli.main import run
from simpletune.config.load import load
from simpletune.data.preflight import preflight

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("example", [path.parent.name for path in sorted(EXAMPLES.glob("*/config.json"))])
def test_an_example_validates(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", str(EXAMPLES / example / "config.json")]) == 0
    assert "are valid" in capsys.readouterr().out


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


def test_the_quickstart_is_small_and_says_where_it_comes_from() -> None:
    pictures = list((EXAMPLES / "quickstart" / "pictures").glob("*.[pj]*"))
    assert len(pictures) >= 16
    assert sum(path.stat().st_size for path in (EXAMPLES / "quickstart" / "pictures").iterdir()) < 2_000_000
    sources = (EXAMPLES / "quickstart" / "SOURCES.md").read_text()
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
