"""Saves of a checkpoint that are killed, or refused by the disk, at each of their calls; prints what was found.

A program, because it forks, which a process with threads (pytest's) should not. Usage: saves.py FOLDER
Each line: {"do", "error", "at", "code", "newest", "damaged", "others"}: the newest checkpoint that a run would go on
from, those that don't verify, and what else lies in the folder once the next run has cleared up.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import points
import torch

from simpletune.results.run_folder import latest, list_checkpoints, verify
from simpletune.trainer import checkpoint, retention

LIMIT = 1


def save(folder: Path, step: int) -> None:
    tensors = {"layer": torch.full((4, 4), float(step))}
    made = checkpoint.save_checkpoint(
        folder,
        step,
        adapter=tensors,
        adapter_metadata={"lora_alpha": "4"},
        optimizer=(tensors, {"optimizer": "adamw"}),
        ema=tensors,
        state={"settings": {}},
    )
    retention.prune(folder, LIMIT, keep=made)


def forked(action: Callable[[], None]) -> int:
    """Its exit code: 0, 1 for an error, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        except Exception:
            code = 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def recorded(folder: Path) -> list[points.Point]:
    def action() -> None:
        seen = points.Points(folder, "record")
        points.watch(seen)
        save(folder, 3)
        Path(f"{folder}.json").write_text(json.dumps(seen.seen))

    assert forked(action) == 0
    return [(name, count) for name, count in json.loads(Path(f"{folder}.json").read_text())]


def tried(folder: Path, do: str, at: points.Point, error: int = 0) -> dict[str, object]:
    def action() -> None:
        points.watch(points.Points(folder, do, at, error))
        save(folder, 3)

    code = forked(action)
    newest = latest(folder, lambda warning: None)
    damaged = [path.name for _, path in list_checkpoints(folder) if verify(path)]
    checkpoint.remove_leftovers(folder)
    others = [path.name for path in folder.iterdir() if not path.name.startswith("checkpoint-")]
    return {
        "do": do,
        "error": errno.errorcode.get(error),
        "at": at,
        "code": code,
        "newest": newest.name if newest else None,
        "damaged": damaged,
        "others": others,
    }


def main(root: Path) -> None:
    torch.set_num_threads(1)
    before = root / "before"
    before.mkdir()
    for step in (1, 2):
        save(before, step)

    def fresh(name: str) -> Path:
        return shutil.copytree(before, root / name)

    for number, at in enumerate(recorded(fresh("recorded"))):
        kind = at[0].partition(" ")[0]
        for do in ("kill", "half") if kind == "write" else ("kill",):
            print(json.dumps(tried(fresh(f"{number}-{do}"), do, at)))
        for error in (error for error, kinds in points.FAILS.items() if kind in kinds):
            print(json.dumps(tried(fresh(f"{number}-{error}"), "fail", at, error)))


if __name__ == "__main__":
    os.fsync = lambda descriptor: None  # nothing is cut off here but processes
    main(Path(sys.argv[1]).resolve())
