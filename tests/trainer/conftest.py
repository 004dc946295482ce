"""Projects to train, and one that has been trained already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from project import Project, make_project


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Project]:
    """Make a project in this test's folder; keyword arguments are keys of config.json."""
    return lambda **keys: make_project(tmp_path / "project", **keys)
