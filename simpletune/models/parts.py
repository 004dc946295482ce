"""One part of a model on this machine, whatever layout its files have: its config, its weights, its identity."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simpletune import files as file_tools
from simpletune import outside
from simpletune.disk_words import in_words
from simpletune.errors import ModelUnavailable
from simpletune.models import components, single_file
from simpletune.models.family import ModelFiles
from simpletune.models.random_source import RandomFiles
from simpletune.models.weight_source import WeightSource, fingerprint

# What libraries note in a config about themselves; nothing computed depends on it.
_NOTES = frozenset({"_diffusers_version", "transformers_version", "_name_or_path", "torch_dtype", "dtype"})


@dataclass(frozen=True)
class Part:
    """A part with weights: text_encoder, _2, _3, vae or transformer."""

    name: str
    config: dict[str, Any]
    stored: WeightSource  # under the names of the files
    original: bool = False  # the names are those of the original layout, not diffusers'

    def empty_module(self) -> Any:
        """The module on the meta device."""
        return components.empty_module(self.name, self.config)

    def identity(self) -> dict[str, Any]:
        """What determines its outputs, read without loading it: the config and a digest of every weight file."""
        config = {key: value for key, value in self.config.items() if key not in _NOTES}
        return {"config": config, "weights": sorted(fingerprint(path) for path in self.stored.paths)}


def open_part(files: ModelFiles, name: str) -> Part:
    """Open a part's config and weights without reading any tensor.

    What the model itself lacks is taken from `pretrained_text_encoders_path`. Raises ModelUnavailable.
    """
    if isinstance(files, RandomFiles):
        return Part(name, files.config(name), files.weights(name))
    if files.layout == "single":
        source = WeightSource.open(files.root)
        if single_file.has_part(source, name):
            return Part(name, single_file.part_config(source, name), source, original=True)
    folder = part_folder(files, name)
    return Part(name, read_config(folder / "config.json"), WeightSource.open(folder))


def weights_for(part: Part, module: Any) -> WeightSource:
    """The part's tensors under the names of its module."""
    return single_file.part_source(part.stored, part.name, module.state_dict()) if part.original else part.stored


def part_folder(files: ModelFiles, name: str) -> Path:
    """The folder a part of the diffusers layout is in; raises ModelUnavailable when there is none."""
    roots = [files.root] if files.layout == "folder" else []
    roots += [files.text_encoders_root] if files.text_encoders_root is not None else []
    for root in roots:
        if (root / name).is_dir():
            return root / name
    raise ModelUnavailable(
        f"{files.source} has no {name}" + (f", nor has {files.text_encoders_root}" if files.text_encoders_root else ""),
        f'set "pretrained_text_encoders_path" to a folder that holds {name}/',
    )


def read_config(path: Path) -> dict[str, Any]:
    """A config of diffusers or transformers; raises ModelUnavailable when it is missing or damaged."""
    try:
        return outside.read_model_config(path)
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{path} can't be read: {in_words(error)}", "download the model again") from error


def folder_identity(folder: Path) -> dict[str, str]:
    """Digest of every file of a small folder (a tokenizer), by name."""
    return {path.name: file_tools.sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}


def digest(identity: Any) -> str:
    """Hex SHA-256 of a JSON value, independent of key order and spacing."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
