"""The end of a training: a card whose program makes the picture it shows, and the way to the hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hub_uploads import Fault, serve_uploads
from PIL import Image
from project import Project

from simpletune.errors import EnvironmentNotReady, UploadFailed
from simpletune.progress import SilentReporter
from simpletune.trainer import run
from simpletune.trainer.launch import launch

TOKEN = "canary-in-a-run"
PROMPT = 'a "red" ball, *on* white'


@pytest.fixture(autouse=True)
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


@pytest.mark.filterwarnings("ignore")  # what diffusers says of its own parts
def test_a_run_goes_to_the_hub_with_a_card_that_works(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_uploads(TOKEN) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        made = project(
            max_train_steps=2,
            validation_prompt=PROMPT,
            validation_negative_prompt="blue",
            validation_guidance=2.0,
            push_to_hub=True,
        )
        hub.faults.append(Fault("/commit/", 1, status=403))
        with pytest.raises(UploadFailed) as failed:
            launch(made.config, [], SilentReporter())
        assert "simpletune push output --repo ada/project" in (failed.value.hint or "").replace(f"{made.folder}/", "")
        again = launch(made.config, [], SilentReporter())  # the run is finished: only the upload is left
        assert again is not None
        files = hub.repos["ada/project"].files
    assert files["pytorch_lora_weights.safetensors"] == again.adapter.read_bytes()
    assert not any(TOKEN.encode() in path.read_bytes() for path in made.folder.rglob("*") if path.is_file())
    card = (made.output / "README.md").read_text(encoding="utf-8")
    assert card.encode() == files["README.md"]
    (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert 'adapter = "ada/project"' in program
    monkeypatch.chdir(made.output)  # where the hub isn't, the folder is as good
    exec(compile(program.replace('"ada/project"', '"."'), "README.md", "exec"), {})
    named = ("picture.png", "samples/step-000002/prompt-64x64-42.png", "samples/base/prompt-64x64-42.png")
    painted, ours, base = (pixels(Path(name)).astype(int) for name in named)
    assert np.abs(painted - ours).max() <= 1  # a level: processors round differently
    assert np.abs(painted - base).max() > 20


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_login_that_does_not_write_is_found_before_anything_is_loaded(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "train", lambda *_all: pytest.fail("it was trained"))
    with serve_uploads(TOKEN) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.role = "read"
        made = project(push_to_hub=True)
        with pytest.raises(EnvironmentNotReady, match="may only read"):
            launch(made.config, [], SilentReporter())
        assert hub.repos == {}
        assert launch(made.config, [], SilentReporter(), dry_run=True) is None
        assert hub.count("whoami") == 1
    assert not made.output.exists()


def test_only_the_main_process_asks_the_hub(project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(run, "train", lambda *_all: None)
    with serve_uploads(TOKEN) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        made = project(push_to_hub=True)
        launch(made.config, [], SilentReporter())
        assert hub.asked == []
