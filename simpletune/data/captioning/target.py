"""What `simpletune caption` is to caption: a folder of pictures or a data set, and where the captions go."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from simpletune.config.document import Keys, display
from simpletune.config.problems import shown
from simpletune.config.validate import check
from simpletune.data.captioning.settings import Edit, entry_edit, entry_source, refuse_errors
from simpletune.data.sources import Source
from simpletune.data.sources.local import Folder
from simpletune.errors import UsageError

FOLDER = "captions"


@dataclass(frozen=True)
class Target:
    """What is captioned. config_path and set_id are None without a config."""

    source: Source
    where: str  # the folder, bucket or data set, for people
    captions: Path | None  # the file they go into; None: .txt files beside the pictures
    config_path: Path | None = None
    set_id: str | None = None
    endpoint: str | None = None  # the mirror of the hub that the config names

    @property
    def folder(self) -> Path | None:
        """The pictures' folder on this machine, if that is what they are in."""
        return Path(self.source.root) if isinstance(self.source, Folder) else None

    def edit(self) -> Edit | None:
        """What the data file must say to use the captions; None without a config, or when it says so already.

        Made of the files as they are now. Raises ConfigError when they have problems then.
        """
        if self.config_path is None or self.set_id is None:
            return None
        return entry_edit(self.config_path, self.set_id, self.captions)


def find_target(
    named: Path,
    set_id: str | None = None,
    config: Path | None = None,
    output: Path | None = None,
    *,
    sidecar: bool = False,
) -> Target:
    """What `named` means: a config.json (or a folder with one), or a folder of pictures.

    For a folder of pictures `config` names the config.json that has a data set of them; None takes config.json here if
    it has one and no `output` is given. `output`: the file for the captions instead of captions/ID.jsonl beside
    config.json; `sidecar`: none, but .txt files beside the pictures.

    Raises UsageError when there is no such thing or several are meant, ConfigError when the files have problems.
    """
    if sidecar and output is not None:
        raise UsageError("--sidecar writes no file of captions, so --output has none to name", "leave out one of them")
    path, place = _absolute(named), _Place(output, sidecar)
    if path.is_file() and path.suffix.lower() != ".json":
        raise UsageError(f"{_name(path)} is neither a folder of pictures nor a config.json", "name one of those")
    if path.is_file() or (path / "config.json").is_file():
        if config is not None:
            raise UsageError("--config is for a folder of pictures, and this is a config already", "leave it out")
        return _of_config(path if path.is_file() else path / "config.json", set_id, place)
    if not path.is_dir():
        raise UsageError(f"there is no {_name(path)}", "name a folder of pictures, or a config.json")
    return _of_folder(path, set_id, config, place)


def captions_command(target: Path, *, set_id: str | None = None, output: Path | None = None) -> list[str]:
    """The command that captions a folder or a config's data set without asking, to be run as a process of its own.

    With a folder and `output` no config is read or changed. In that process the memory for the model is given back when
    it ends, and Ctrl-C keeps what is done. It shows its progress on stderr, a summary on stdout, and exits with 0 when
    the readable pictures have captions, 130 after Ctrl-C, 3 when the model or the device isn't there.
    """
    chosen = ["--dataset", set_id] if set_id is not None else []
    placed = ["--output", str(output)] if output is not None else []
    return [sys.executable, "-m", "simpletune", "caption", str(target), "--yes", *chosen, *placed]


@dataclass(frozen=True)
class _Place:
    """Where captions go, as it was asked for."""

    output: Path | None
    sidecar: bool

    def of(self, default: Path) -> Path | None:
        return None if self.sidecar else _absolute(self.output or default)


def _of_config(config: Path, set_id: str | None, place: _Place) -> Target:
    entries = [entry for entry in check(config).view.images if isinstance(entry["id"], str)]
    ids = [str(entry["id"]) for entry in entries]
    if not entries:
        refuse_errors(config)
    if set_id is None and len(ids) > 1:
        raise UsageError(f"{_name(config)} has {len(ids)} data sets", f"name one with --dataset: {_listed(ids)}")
    if not ids:
        hint = f"add one with `simpletune configure {_name(config)}`"
        raise UsageError(f"{_name(config)} has no data set with pictures", hint)
    if set_id is not None and set_id not in ids:
        raise UsageError(f'{_name(config)} has no data set "{shown(set_id)}"', f"it has {_listed(ids)}")
    return _of_entry(config, set_id or ids[0], place)


def _of_folder(folder: Path, set_id: str | None, config: Path | None, place: _Place) -> Target:
    path = _absolute(config or Path("config.json"))
    path = path / "config.json" if config is not None and path.is_dir() else path
    if config is not None or (path.is_file() and place.output is None):
        ids = [str(entry["id"]) for entry in check(path).view.images if _is_of(entry, folder)]
        chosen = [one for one in ids if set_id in (None, one)]
        if len(chosen) > 1:
            message = f"{len(chosen)} data sets of {_name(path)} have {_name(folder)}"
            raise UsageError(message, f"name one with --dataset: {_listed(chosen)}")
        if chosen:
            return _of_entry(path, chosen[0], place)
        if config is not None:
            refuse_errors(path)
            hint = f"add it with `simpletune configure {_name(path)}`, or leave out --config"
            raise UsageError(f"no data set of {_name(path)} has {_name(folder)}", hint)
    if set_id is not None:
        raise UsageError("--dataset is for a config, and there is none with that folder", "name it with --config")
    captions = place.of(Path(FOLDER) / f"{folder.name or 'pictures'}.jsonl")
    return Target(Folder(str(folder)), str(folder), captions)


def _of_entry(config: Path, set_id: str, place: _Place) -> Target:
    captions = place.of(config.parent / FOLDER / f"{set_id}.jsonl")
    source, where, endpoint = entry_source(config, set_id, captions)
    if captions is None and not isinstance(source, Folder):
        message = f"--sidecar writes .txt files into a folder, and {shown(where)} is none on this machine"
        raise UsageError(message, "leave it out: captions then go into a file of their own")
    return Target(source, where, captions, config, set_id, endpoint)


def _is_of(entry: Keys, folder: Path) -> bool:
    """Whether a data set is that of a folder, however it names it."""
    if entry["type"] != "local" or not isinstance(entry["id"], str) or not isinstance(entry["instance_data_dir"], str):
        return False
    path = entry.path("instance_data_dir")
    return path is not None and os.path.realpath(path) == os.path.realpath(folder)


def _listed(ids: list[str]) -> str:
    return ", ".join(map(shown, ids[:5])) + (" ..." if len(ids) > 5 else "")


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111


def _name(path: Path) -> str:
    return shown(display(path))
