"""What every test may ask for: the tiny model, built once for the whole run, and a cache that isn't the user's."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from loopback import left_open

# The same examples each time, so that what passed once passes again; HYPOTHESIS_EXPLORE=1 looks at others. No deadline:
# other work may run beside the tests.
settings.register_profile("repeatable", derandomize=True, deadline=None)
if not os.environ.get("HYPOTHESIS_EXPLORE"):
    settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """What was imported for the tests stays, so the collector need not look at it each time: 0.3 s, twice a run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder shared by all workers of this run, instead of the one in the home folder."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMPLETUNE_CACHE", str(shared / "user-cache"))
        yield shared / "user-cache"


@pytest.fixture(scope="session")
def tiny_model(user_cache: Path) -> Path:
    """The tiny flavour's pipeline folder; tests must not write into it."""
    from simpletune.models.tiny import tiny_folder

    return tiny_folder()


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    """A connection that a module leaves open fails that module, not whichever test runs when it is found."""
    yield
    left = left_open()
    assert not left, "left open: " + "; ".join(left)
