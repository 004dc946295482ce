"""Projects to train, and one that has been trained already."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import Project, make_project

FAST: dict[str, Any] = {"pictures": 3, "train_batch_size": 1, "checkpoint_step_interval": 2, "lr_scheduler": "constant"}


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Project]:
    """Make a project in this test's folder; keyword arguments are keys of config.json."""
    return lambda **keys: make_project(tmp_path / "project", **keys)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run of four steps with checkpoints after two and four, for copies of it."""
    from simpletune.progress import SilentReporter
    from simpletune.trainer.launch import launch

    made = make_project(tmp_path_factory.mktemp("resume") / "project", max_train_steps=4, **FAST)
    launch(made.config, (), SilentReporter())
    return made


@pytest.fixture
def run(trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of that run, and its folder is the current one."""
    shutil.copytree(trained.folder, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return Project(tmp_path / "project")


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing heavy may be loaded while a start is refused."""
    from simpletune.models.sd3 import SD3

    for name in ("load_text_encoders", "load_vae", "load_transformer"):
        monkeypatch.setattr(SD3, name, None)
    monkeypatch.setitem(sys.modules, "simpletune.trainer.run", None)
