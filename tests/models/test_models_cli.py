"""`simpletune model build`, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from simpletune.cli.main import run
from simpletune.config.settings import Settings
from simpletune.models.locate import locate


def test_build_writes_a_folder_that_locates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_settings: Callable[..., Settings]
) -> None:
    assert run(["model", "build", str(tmp_path / "tiny"), "--flavour", "tiny", "--without-t5"]) == 0
    assert "pretrained_model_name_or_path" in "".join(capsys.readouterr())
    settings = make_settings(pretrained_model_name_or_path=str(tmp_path / "tiny"), use_t5=False)
    assert locate(settings).root == tmp_path / "tiny"


def test_parts_are_all_that_is_built(tmp_path: Path) -> None:
    assert run(["model", "build", str(tmp_path / "part"), "--flavour", "tiny", "--parts", "vae"]) == 0
    index = json.loads((tmp_path / "part" / "model_index.json").read_text())
    assert index["vae"] == ["diffusers", "AutoencoderKL"]
    assert index["transformer"] == [None, None]
    assert {path.parent.name for path in (tmp_path / "part").rglob("*.safetensors")} == {"vae"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{here}", "--flavour", "tiny"], "exists already"),
        (["{here}/no/folder", "--flavour", "tiny"], "is not a folder"),
        (["{here}/new", "--flavour", "tiny", "--parts", "unet"], "unet: not one of"),
        (["{here}/new", "--flavour", "large"], "sd3.5-large"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["model", "build", *(argument.format(here=tmp_path) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err
