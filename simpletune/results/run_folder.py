"""What lies in a run's folder, for all who read it: its files, and checkpoints that are whole or are not.

A folder checkpoint-STEP holds all that a run needs to go on, or, once newer ones have come, the adapter alone
(trainer/retention.py): its manifest says which. The trainer writes them (trainer/outputs.py, trainer/checkpoint.py);
nothing here writes or loads a tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from simpletune import files, outside
from simpletune.disk_words import in_words

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
EMA_FILE = "ema.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
MANIFEST_FILE = "manifest.json"
RUN_FILE = "run.json"
DATA_FILE = "data.json"
METRICS_FILE = "metrics.jsonl"
PHASES_FILE = "phases.json"
FINISHED_FILE = "finished.json"
LOCK_FILE = ".run.lock"
SAMPLES_FOLDER, GENERATED_FOLDER = "samples", "generated"
FORMAT = 1
ADAPTER_FILES = frozenset({ADAPTER_FILE, EMA_FILE})
HOLDS, ADAPTER = "holds", "adapter"
"""What a manifest says of a checkpoint that holds its adapter alone."""
_NEEDED = frozenset({ADAPTER_FILE, OPTIMIZER_FILE, STATE_FILE})
_NAME = re.compile(r"checkpoint-(\d+)")


def list_checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint, oldest step first, whether intact or not."""
    if not output_dir.is_dir():
        return []
    named = ((_NAME.fullmatch(path.name), path) for path in output_dir.iterdir() if path.is_dir())
    return sorted((int(match[1]), path) for match, path in named if match)


def latest(output_dir: Path, warn: Callable[[str], None]) -> Path | None:
    """The checkpoint of the highest step that verifies and can be resumed from, None without any; damaged newer ones
    are named by `warn`."""
    for _, path in reversed(list_checkpoints(output_dir)):
        if holds_only_adapter(path):
            continue
        problems = verify(path)
        if not problems:
            return path
        warn(f"{path} is damaged and passed over: {'; '.join(problems)}")
    return None


def holds_only_adapter(path: Path) -> bool:
    """Whether a checkpoint's manifest says that it can't be resumed from; whether it is intact is another question."""
    return _manifest(path).get(HOLDS) == ADAPTER


def is_resumable(path: Path) -> bool:
    """Whether a checkpoint's manifest lists all that a run needs to go on; whether it is intact is another question."""
    listed = _manifest(path).get("files")
    return isinstance(listed, dict) and listed.keys() >= _NEEDED and not holds_only_adapter(path)


def verify(path: Path) -> list[str]:
    """What is wrong with a checkpoint or with the adapter that is left of one, in words; empty when every file that its
    manifest lists has its size and SHA-256."""
    if not path.is_dir():
        return ["there is no such folder"]
    try:
        manifest = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
        listed = {str(name): (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except FileNotFoundError:
        return [f"{MANIFEST_FILE} is missing"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{MANIFEST_FILE} is unreadable"]
    if manifest.get("format") != FORMAT:
        return [f"it was written in format {manifest.get('format')}, this version reads {FORMAT}"]
    if not ({ADAPTER_FILE} if manifest.get(HOLDS) == ADAPTER else _NEEDED) <= listed.keys():
        return [f"{MANIFEST_FILE} is incomplete"]
    problems = (_file_problem(path / Path(name).name, *entry) for name, entry in listed.items())
    return [problem for problem in problems if problem]


def unreadable(file: Path) -> str | None:
    """Why a file of tensors can't be read, in words, None for one that can be; its tensors aren't looked at."""
    try:
        outside.check_tensors(file)
        with safe_open(file, framework="np"):
            return None
    except FileNotFoundError:
        return "it is missing"
    except (SafetensorError, OSError, ValueError) as error:
        return in_words(error)


def _manifest(path: Path) -> dict[str, Any]:
    """Empty where there is none that can be read."""
    try:
        manifest = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _file_problem(path: Path, size: int, sha256: str) -> str | None:
    try:
        if path.stat().st_size != size:
            return f"{path.name} has {path.stat().st_size} bytes instead of {size}"
        return None if files.sha256(path) == sha256 else f"{path.name} does not have the SHA-256 it was saved with"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} can't be read ({error.strerror})"
