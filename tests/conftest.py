"""What every test may ask for: the built-in tiny model, and a tally of what was tried."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from loopback import left_open
from tallies import pytest_terminal_summary, tally  # noqa: F401, a hook and a fixture

from simpletune.config.builtin import tiny_folder

# Tests that a script starts in the background ignore Ctrl-C, and hang-ups under nohup: so would the programs they stop.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The same examples each time, so that what passed once passes again; HYPOTHESIS_EXPLORE=1 looks at others. No deadline:
# other work may run beside the tests.
settings.register_profile("repeatable", derandomize=True, deadline=None)
if not os.environ.get("HYPOTHESIS_EXPLORE"):
    settings.load_profile("repeatable")


# No test sees the hub's login of whoever runs it.
os.environ.pop("HF_TOKEN", None)
os.environ["HF_TOKEN_PATH"] = str(Path(__file__).parent / "nobody-is-logged-in")


def pytest_collection_finish() -> None:
    """What was imported for the tests stays, so the collector need not look at it each time: 0.3 s, twice a run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The tiny flavour's pipeline folder, as it is shipped; tests must not write into it."""
    return tiny_folder()


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    """A connection that a module leaves open fails that module, not whichever test runs when it is found."""
    yield
    left = left_open()
    assert not left, "left open: " + "; ".join(left)
