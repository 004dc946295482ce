"""One run at a time in an output folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simpletune import locks
from simpletune.config.problems import shown
from simpletune.disk_words import explain
from simpletune.errors import EnvironmentNotReady, UsageError
from simpletune.lock_holder import Holder, read_holder
from simpletune.results.run_folder import LOCK_FILE


@contextmanager
def run_lock(output_dir: Path) -> Iterator[None]:
    """Hold the folder for this process while the block runs; a killed run's lock is taken over.

    Raises UsageError, naming the other process, when a run holds the folder, and EnvironmentNotReady where the folder
    takes no file.
    """
    path = output_dir / LOCK_FILE

    def busy(name: str) -> UsageError:
        holder = read_holder(path)
        words = name if holder is None else shown(holder.described())
        return UsageError(f"{output_dir} is in use by another run ({words})", hint=_way_out(holder, path))

    try:
        with locks.hold(path, busy):
            yield
    except OSError as error:
        if error.filename is None or Path(error.filename) != path:
            raise
        said, remedy = explain(error)
        raise EnvironmentNotReady(
            f"output_dir: {output_dir} can't be written to: {said}",
            f"{remedy or 'see to its permissions and to free space'}, or name another output_dir",
        ) from error


def check_free(output_dir: Path) -> None:
    """Raise what `run_lock` does where another run holds the folder: for those who ask before anything heavy is
    imported. A killed run's lock is removed."""
    if (output_dir / LOCK_FILE).exists():
        with run_lock(output_dir):
            pass


def _way_out(holder: Holder | None, path: Path) -> str:
    if holder is None or holder.is_here:
        return "Wait for it to end or stop it, or set another output_dir."
    return (
        f"Wait for it to end or stop it on {shown(holder.host)}, or set another output_dir; "
        f"if that machine is gone, remove {path} and run the same command again."
    )
