"""A run as its folder tells it: what the trainer wrote there, of a run that is finished, going on, or was cut off."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from simpletune import outside
from simpletune.errors import UsageError
from simpletune.lock_holder import is_held
from simpletune.results.curves import RunCurves, read_run
from simpletune.results.run_folder import (
    ADAPTER_FILE,
    DATA_FILE,
    FINISHED_FILE,
    LOCK_FILE,
    METRICS_FILE,
    PHASES_FILE,
    RUN_FILE,
    list_checkpoints,
)

_LARGEST_FILE = 512 << 20  # data.json names every picture


class State(Enum):
    """Where a run stands."""

    GOING = "going on"
    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Setting:
    """A value the run had, as JSON has it, and where it came from: "config.json:4", "--set", "default", ..."""

    key: str
    value: Any
    origin: str

    @property
    def given(self) -> bool:
        """Whether somebody wrote it; else it is a default, or follows from other settings."""
        return ":" in self.origin or self.origin.startswith(("--set", "environment"))


Settings = Mapping[str, Setting]


@dataclass(frozen=True)
class Picture:
    """A picture that was trained on or held out, as data.json has it; sizes in pixels, (width, height)."""

    data_set: str
    name: str
    captions: tuple[str, ...]
    size: tuple[int, int]
    bucket: tuple[int, int]


@dataclass(frozen=True)
class Run:
    """All that is known of a run. `folder` is absolute. What a file doesn't say, or can't be read, is empty; then
    `damaged` names the file."""

    folder: Path
    label: str
    state: State
    config: Settings
    data_sets: tuple[Settings, ...]
    facts: Mapping[str, Any]  # the rest of run.json: model, versions, device, total_steps
    numbers: RunCurves
    phases: tuple[Mapping[str, Any], ...]
    trained: tuple[Picture, ...]
    held_out: tuple[Picture, ...]
    roles: Mapping[str, Mapping[str, Any]]
    damaged: tuple[str, ...]

    @property
    def step(self) -> int:
        return self.numbers.last_step

    @property
    def total_steps(self) -> int | None:
        """None where an older version didn't write it and epochs were counted."""
        steps = self.facts.get("total_steps") or self.value("max_train_steps")
        return steps if isinstance(steps, int) else None

    def value(self, key: str, otherwise: Any = None) -> Any:
        """A setting's value; `otherwise` where the run has none."""
        setting = self.config.get(key)
        return otherwise if setting is None or setting.value is None else setting.value

    @property
    def seconds_in_steps(self) -> float:
        """The time that the steps of all starts took, by their rates; what lies between them doesn't count."""
        rate = self.numbers["samples_per_second"].values
        samples = self.value("train_batch_size", 1) * self.value("gradient_accumulation_steps", 1)
        usable = rate[np.isfinite(rate) & (rate > 0)]
        return float((samples / usable).sum()) if isinstance(samples, int) else 0.0

    @property
    def adapter(self) -> Path | None:
        """The final adapter, or the newest checkpoint's."""
        newest = [folder for _, folder in reversed(list_checkpoints(self.folder))]
        files = (folder / ADAPTER_FILE for folder in (self.folder, *newest))
        return next((file for file in files if file.is_file()), None)

    @cached_property
    def folders(self) -> Mapping[str, Path]:
        """Where the pictures of a data set are, for those in a folder of this machine."""
        found = {}
        for one in self.data_sets:
            values = {key: setting.value for key, setting in one.items()}
            if values.get("type") == "local" and isinstance(values.get("instance_data_dir"), str):
                found[str(values.get("id"))] = Path(values["instance_data_dir"])
        return found


def is_run(folder: Path) -> bool:
    """Whether a trainer has written into the folder."""
    return any((folder / name).is_file() for name in (RUN_FILE, METRICS_FILE))


def read(folder: Path, label: str | None = None) -> Run:
    """The run in `folder`. Raises UsageError when there is none."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", "name a config.json that was trained, or its output folder")
    if not is_run(folder):
        raise UsageError(
            f"{folder} is no run's folder: it has neither {RUN_FILE} nor {METRICS_FILE}",
            'name a config.json that was trained, or the folder its "output_dir" names',
        )
    damaged: list[str] = []
    described = _mapping(_json(folder / RUN_FILE, damaged))
    manifest = _mapping(_json(folder / DATA_FILE, damaged))
    phases = _json(folder / PHASES_FILE, damaged)
    return Run(
        folder=folder,
        label=label or name_of(folder),
        state=_state(folder),
        config=_settings(described.get("config")),
        data_sets=tuple(_settings(one) for one in _list(described.get("datasets"))),
        facts=described,
        numbers=read_run(folder / METRICS_FILE),
        phases=tuple(one for one in _list(phases) if isinstance(one, Mapping)),
        trained=_pictures(manifest.get("trained")),
        held_out=_pictures(manifest.get("held_out")),
        roles={str(name): _mapping(role) for name, role in _mapping(manifest.get("data_sets")).items()},
        damaged=tuple(damaged),
    )


def name_of(folder: Path) -> str:
    """What a run is called: its folder, and with the usual name "output" the folder that stands in."""
    return f"{folder.parent.name}/{folder.name}" if folder.name == "output" and folder.parent.name else folder.name


def labels(folders: Sequence[Path]) -> list[str]:
    """Names that tell runs apart, with as many folders above them as that takes."""
    found = [name_of(folder) for folder in folders]
    for depth in range(2, max((len(folder.parts) for folder in folders), default=0) + 1):
        if len(set(found)) == len(found):
            break
        found = [
            "/".join(folder.parts[-depth:]) if found.count(label) > 1 else label
            for folder, label in zip(folders, found, strict=True)
        ]
    return found


def _state(folder: Path) -> State:
    if is_held(folder / LOCK_FILE):
        return State.GOING
    return State.FINISHED if (folder / FINISHED_FILE).is_file() else State.STOPPED


def _json(path: Path, damaged: list[str]) -> Any:
    try:
        return outside.read_json(path, _LARGEST_FILE)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        damaged.append(path.name)
        return None


def _settings(described: Any) -> dict[str, Setting]:
    return {
        str(key): Setting(str(key), entry["value"], str(entry.get("origin", "default")))
        for key, entry in _mapping(described).items()
        if isinstance(entry, Mapping) and "value" in entry
    }


def _pictures(rows: Any) -> tuple[Picture, ...]:
    found = []
    for row in _list(rows):
        try:
            width, height = row["size"]
            bucket = row["bucket"][0], row["bucket"][1]
            captions = tuple(str(caption) for caption in row["captions"])
            found.append(Picture(str(row["data_set"]), str(row["name"]), captions, (int(width), int(height)), bucket))
        except (KeyError, TypeError, ValueError, IndexError):
            continue
    return tuple(found)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
