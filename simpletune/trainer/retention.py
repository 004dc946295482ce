"""Which checkpoints stay, and what of them.

`checkpoints_total_limit` bounds what a run can be resumed from. Of an older checkpoint the adapter stays, under the
same name, so that the best one can still be chosen: its manifest is replaced by one that lists the adapter alone, and
then the other files are removed. Whoever looks in between sees the one or the other, whole.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path

from simpletune import files
from simpletune.results.run_folder import (
    ADAPTER,
    ADAPTER_FILES,
    HOLDS,
    MANIFEST_FILE,
    SAMPLES_FOLDER,
    holds_only_adapter,
    is_resumable,
    list_checkpoints,
)

_HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{8}\.tmp(\.\w+)?")  # as files.write_with names them
_WRITTEN_BY_OTHERS = ".report."  # that page may be written while a run starts


def prune(output_dir: Path, total_limit: int, keep: Path) -> list[Path]:
    """Leave only the adapters of the oldest checkpoints, until `total_limit` are left that can be resumed from.

    `keep` is never touched, nor is one whose manifest can't be read. Returns those that were pruned. Raises OSError.
    """
    others = [path for _, path in list_checkpoints(output_dir) if path != keep and is_resumable(path)]
    surplus = others[: max(0, len(others) + 1 - total_limit)]
    for path in surplus:
        keep_adapter(path)
    return surplus


def keep_adapter(checkpoint: Path) -> None:
    """Make a checkpoint one that holds its adapter, and that of the averaged weights, and nothing else."""
    manifest = json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if name in ADAPTER_FILES}
    files.write_json(checkpoint / MANIFEST_FILE, {**manifest, HOLDS: ADAPTER})
    remove_unlisted(checkpoint)


def remove_unlisted(checkpoint: Path) -> None:
    """Remove what an adapter's manifest doesn't list: the rest of the checkpoint that it was."""
    for path in checkpoint.iterdir():
        if path.name not in {*ADAPTER_FILES, MANIFEST_FILE}:
            files.remove(path)


def set_aside_later(output_dir: Path, step: int) -> list[Path]:
    """Rename checkpoints beyond `step` to abandoned-...: a run that goes on from an earlier one must not take them up.

    Returns their new paths. Nothing is removed.
    """
    return [set_aside(path) for later, path in list_checkpoints(output_dir) if later > step]


def set_aside(checkpoint: Path) -> Path:
    """Rename it to the first abandoned-N-... that is free; returns the new path."""
    names = (checkpoint.with_name(f"abandoned-{n}-{checkpoint.name}") for n in itertools.count(1))
    return checkpoint.rename(next(name for name in names if not name.exists()))


def remove_leftovers(output_dir: Path) -> None:
    """Remove what a killed run left half-written or half-removed. Only the run that holds the lock may do this."""
    if not output_dir.is_dir():
        return
    for path in output_dir.glob(".checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)
    for folder in ("", "ema", "card", f"{SAMPLES_FOLDER}/*", "checkpoint-*"):
        for path in output_dir.glob(f"{folder}/.*.tmp*".lstrip("/")):
            if _HALF_WRITTEN.fullmatch(path.name) and not path.name.startswith(_WRITTEN_BY_OTHERS):
                files.remove(path)
    for _, path in list_checkpoints(output_dir):
        if holds_only_adapter(path):
            remove_unlisted(path)
