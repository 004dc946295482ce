"""A run on the built-in model of an earlier version, whose weights were random, isn't mistaken for one on today's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from project import Project
from safetensors import safe_open

from simpletune.config import builtin
from simpletune.errors import ConfigError
from simpletune.models import builder
from simpletune.progress import SilentReporter
from simpletune.trainer import manifest
from simpletune.trainer.launch import launch

BASE_PICTURE = "samples/base/prompt-64x64-42.png"


def train(project: Project, *overrides: str) -> None:
    launch(project.config, overrides, SilentReporter())


def entries(project: Project) -> set[str]:
    return {path.name for path in (project.folder / "cache").rglob("*.safetensors")}


@pytest.fixture
def earlier(project: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A run of one step on random weights, that names no version of its model, as there was none."""
    (tmp_path / "builtin").mkdir()
    builder.build(tmp_path / "builtin" / "tiny", "tiny", dtype="fp16", seed=1, name="tiny")
    made = project(pictures=2, max_train_steps=1, validation_prompt="a red ball", validation_num_inference_steps=1)
    bound = manifest.bound_settings
    with monkeypatch.context() as before:
        before.setattr(builtin, "_FOLDER", tmp_path / "builtin")
        before.setattr(
            manifest, "bound_settings", lambda s: {k: v for k, v in bound(s).items() if k != "built_in_model"}
        )
        train(made)
    return made


def test_it_is_neither_continued_nor_are_its_caches_and_pictures_used(earlier: Project) -> None:
    for overrides in ((), ("max_train_steps=2",)):
        with pytest.raises(ConfigError, match="another model than the one that is built in now") as error:
            train(earlier, *overrides)
        assert "an earlier one, with random weights" in error.value.message
        assert "output_dir" in (error.value.hint or "")
    old, before = entries(earlier), (earlier.output / BASE_PICTURE).read_bytes()
    for left in ("checkpoint-1", "finished.json", "pytorch_lora_weights.safetensors"):
        (earlier.output / left).rename(earlier.folder / f"aside-{left}")  # as if it had been killed before the first
    train(earlier)
    assert len(entries(earlier) - old) == len(old), "everything was encoded again"
    name = builtin.tiny_name()
    with Image.open(earlier.output / BASE_PICTURE) as picture:
        assert picture.text["model"] == name
    assert (earlier.output / BASE_PICTURE).read_bytes() != before
    assert json.loads((earlier.output / "run.json").read_text())["model"]["source"] == name
    with safe_open(earlier.output / "pytorch_lora_weights.safetensors", "pt") as adapter:
        assert json.loads(adapter.metadata()["simpletune"])["built_in_model"] == name
    train(earlier, "max_train_steps=2")  # today's run goes on
