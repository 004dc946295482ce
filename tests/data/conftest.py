"""A folder of small pictures to fill, and a reporter that remembers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_helpers import Told, colours
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    return path


@pytest.fixture
def save(folder: Path) -> Callable[..., Path]:
    """Save a picture (by default a coloured 80x60 one) into the folder under a name."""

    def save_picture(name: str, picture: Image.Image | None = None, **options: Any) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (picture or colours(80, 60, len(name))).save(path, **options)
        return path

    return save_picture


@pytest.fixture
def told() -> Told:
    return Told()
