"""docs/first-run.md: what it says to type in Python is run, on the tiny model and a processor."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from project import Project

from simpletune.progress import SilentReporter
from simpletune.trainer.launch import launch

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "first-run.md"


def replaced(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in text, f"the guide has no {old!r} any more"
        text = text.replace(old, new)
    return text


@pytest.mark.filterwarnings("ignore")  # what diffusers says of its own parts
def test_the_lora_is_used_as_the_guide_says(
    project: Callable[..., Project], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = project(max_train_steps=1)
    assert launch(made.config, [], SilentReporter()) is not None
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    smaller = replaced(
        program,
        ("stabilityai/stable-diffusion-3-medium-diffusers", tiny_model.as_posix()),
        ("output/paintings", "output"),
        ('pipeline.to("cuda")', 'pipeline.to("cpu")'),
        ("num_inference_steps=28", "num_inference_steps=2, width=64, height=64, max_sequence_length=32"),
    )
    monkeypatch.chdir(made.folder)
    exec(compile(smaller, GUIDE.name, "exec"), {})
    assert np.asarray(Image.open("balloon.png")).shape == (64, 64, 3)
