"""One run at a time in an output folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simpletune import locks
from simpletune.errors import UsageError
from simpletune.results.run_folder import LOCK_FILE


@contextmanager
def run_lock(output_dir: Path) -> Iterator[None]:
    """Hold the folder for this process while the block runs; a killed run's lock is taken over.

    Raises UsageError, naming the other process, when a run holds the folder.
    """

    def busy(holder: str) -> UsageError:
        return UsageError(
            f"{output_dir} is in use by another run ({holder})",
            hint="Wait for it to end or stop it, or set another output_dir.",
        )

    with locks.hold(output_dir / LOCK_FILE, busy):
        yield
