"""A folder in which the files of valid_files.py are valid, on a machine that lacks nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from valid_files import Write

from simpletune.config import rules_environment
from simpletune.config.installed import TorchBuild


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder, which is the current one too."""
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("pictures/one.png", "held/one.png", "masks/one.png", "shards/0.tar", "captions.csv",
                 "model.safetensors"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / "prompts.json").write_text('{"dog": "a photo of a dog"}', encoding="utf-8")
    before = Path.cwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_ENDPOINT", raising=False)
        patch.setattr(rules_environment, "torch_build", lambda: TorchBuild("2.13.0", "12.8", None))
        patch.setattr(rules_environment, "is_installed", lambda _name: True)
        patch.setattr(rules_environment.platform, "system", lambda: "Linux")
        yield folder
    os.chdir(before)


@pytest.fixture
def write(place: Path) -> Write:
    """Write both files; the path of config.json."""

    def both(config: str | bytes, data: str | bytes) -> Path:
        for name, content in (("config.json", config), ("multidatabackend.json", data)):
            (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return place / "config.json"

    return both
