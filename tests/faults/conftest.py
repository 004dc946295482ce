"""The warmed process, one for all tests of a pytest process, and a run that nobody disturbed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "trainer"))
pytest.register_assert_rewrite("harness")

from harness import Reference, Zygote, make_reference, recorded  # noqa: E402
from points import Point  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: at the end nobody waits for it."""
    items.sort(key=lambda item: item.name != "test_nothing_grows")


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    if sys.platform != "linux":
        pytest.skip("forks processes that have torch loaded, and looks into /proc")
    warmed = Zygote(tmp_path_factory.mktemp("zygote"))
    yield warmed
    warmed.close()


@pytest.fixture(scope="session")
def hasty(zygote: Zygote) -> Zygote:
    """For runs by the hundred."""
    return zygote.hasty()


@pytest.fixture(scope="session")
def reference(hasty: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Twelve steps, with held-out losses, by hasty runs."""
    return make_reference(hasty, tmp_path_factory.mktemp("reference") / "project")


@pytest.fixture(scope="session")
def pictured(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The same with sample pictures, and nothing left out."""
    return make_reference(zygote, tmp_path_factory.mktemp("pictured") / "project", validation_prompt="a red ball")


@pytest.fixture(scope="session")
def short(hasty: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Six steps, three checkpoints, two validations: everything a run does, and soon done, by hasty runs."""
    keys = {"max_train_steps": 6, "checkpoint_step_interval": 2, "validation_step_interval": 3}
    folder = tmp_path_factory.mktemp("short") / "project"
    return make_reference(hasty, folder, validation_prompt="a red ball", gradient_accumulation_steps=1, **keys)


@pytest.fixture(scope="session")
def calls(hasty: Zygote, short: Reference, tmp_path_factory: pytest.TempPathFactory) -> list[Point]:
    """Those of a short run that change a file."""
    return recorded(hasty, short, tmp_path_factory.mktemp("calls"))
