"""The warmed process, one for all tests of a pytest process, and a run that nobody disturbed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "trainer"))
pytest.register_assert_rewrite("harness")

from harness import Reference, Zygote, make_reference  # noqa: E402


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    if sys.platform != "linux":
        pytest.skip("forks processes that have torch loaded, and looks into /proc")
    warmed = Zygote(tmp_path_factory.mktemp("zygote"))
    yield warmed
    warmed.close()


@pytest.fixture(scope="session")
def reference(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Twelve steps, with held-out losses."""
    return make_reference(zygote, tmp_path_factory.mktemp("reference") / "project")


@pytest.fixture(scope="session")
def pictured(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The same with sample pictures."""
    return make_reference(zygote, tmp_path_factory.mktemp("pictured") / "project", validation_prompt="a red ball")


@pytest.fixture(scope="session")
def short(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Six steps, three checkpoints, two validations: everything a run does, and soon done."""
    keys = {"max_train_steps": 6, "checkpoint_step_interval": 2, "validation_step_interval": 3}
    folder = tmp_path_factory.mktemp("short") / "project"
    return make_reference(zygote, folder, validation_prompt="a red ball", gradient_accumulation_steps=1, **keys)
