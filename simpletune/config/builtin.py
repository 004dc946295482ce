"""The model that is shipped with the package: `tiny`, a trained SD3 in the diffusers layout. Imports no torch.

Its folder is loaded as any other. What else knows it: `config/families.py` (the flavour), `config/architecture.py`
(its shapes are those of its own config files), `models/locate.py` (a run that names no model means it).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simpletune import outside
from simpletune.disk_words import in_words
from simpletune.errors import ModelUnavailable

TINY = "tiny"
NAME_KEY = "_simpletune_model"
"""The key of model_index.json that names the trained model; diffusers passes over keys that begin with "_"."""

_FOLDER = Path(__file__).parent.parent / "builtin"
HINT = "install simpletune again, unpacked: the model is part of the package"
"""What to do about a built-in model that isn't whole."""


def tiny_folder() -> Path:
    """The tiny model's folder in the installed package, which is read only.

    Raises ModelUnavailable when there is none: a damaged installation, or one that runs from a zip file.
    """
    folder = _FOLDER / TINY
    if not folder.is_dir():
        raise ModelUnavailable(f"the built-in tiny model is missing: {folder} is no folder", HINT)
    return folder


def tiny_name() -> str:
    """What the model is called, its version in it ("tiny-2"): in a run's files, and to people.

    Raises ModelUnavailable when its model_index.json can't be read or doesn't say.
    """
    name = read_config("model_index.json").get(NAME_KEY)
    if not isinstance(name, str) or not name:
        raise ModelUnavailable(f"the built-in tiny model is damaged: {tiny_folder()} has no name", HINT)
    return name


def read_config(name: str) -> dict[str, Any]:
    """A JSON file of the tiny model. Raises ModelUnavailable when it is missing or damaged."""
    path = tiny_folder() / name
    try:
        config = outside.read_json(path)
    except (OSError, ValueError) as error:
        message = f"the built-in tiny model is damaged: {path} can't be read: {in_words(error)}"
        raise ModelUnavailable(message, HINT) from error
    if not isinstance(config, dict):
        raise ModelUnavailable(f"the built-in tiny model is damaged: {path} is no JSON object", HINT)
    return config
