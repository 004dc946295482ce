"""Where a feature model's files are: a folder, a file, or a hub model, downloaded if it isn't here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletune import files, outside
from simpletune.disk_words import in_words
from simpletune.errors import ModelUnavailable
from simpletune.models import hub

if TYPE_CHECKING:
    from simpletune.progress import Reporter

_WANTED = ("*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors")
_UNWANTED = ("*/*",)
_KINDS = {"--clip": ("clip",), "--dino": ("dinov2", "dinov2_with_registers", "dinov3_vit")}


def find(option: str, name: str, endpoint: str | None, reporter: Reporter | None) -> Path:
    """The folder of the model that `option` ("--clip", "--dino") names, complete as far as can be seen unopened.

    Raises ModelUnavailable, with what to do, when it is out of reach, incomplete, of another kind or pickled.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if folder.is_file() or name.startswith((".", "/", "~")) or name.count("/") != 1:
            message = f"{option} is {name!r}: neither a folder nor a hub name"
            raise ModelUnavailable(message, f"give a folder, OWNER/NAME, or none: {option} none")
        local_way = f"or give a folder that has it ({option} FOLDER), or leave its metrics out: {option} none"
        mirror_way = "name a mirror with HF_ENDPOINT"
        asked = hub.Asked(name, None, endpoint, False, option, "the revision", mirror_way, local_way)
        folder = hub.fetch(asked, _WANTED, reporter, _UNWANTED)
    _check(option, folder)
    return folder


def identity(folder: Path) -> str:
    """Hex digest of all files that decide a model's features: its weights, configuration and tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".safetensors", ".json", ".txt", ".model"} and path.is_file():
            digest.update(f"{path.name} {files.sha256(path)}\n".encode())
    return digest.hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises ModelUnavailable."""
    path = folder / "config.json"
    try:
        return outside.read_model_config(path)
    except FileNotFoundError as error:
        raise ModelUnavailable(f"{folder} holds no model: it has no config.json", "name another folder") from error
    except (OSError, ValueError) as error:
        raise ModelUnavailable(
            f"{path} can't be read: {in_words(error)}", "take all files of the model, unchanged"
        ) from error


def _check(option: str, folder: Path) -> None:
    kind = str(read_config(folder).get("model_type", ""))
    if kind not in _KINDS[option]:
        said = f"is a model of the kind {kind!r}" if kind else "says nothing of its model's kind"
        raise ModelUnavailable(
            f"{option}: {folder} {said}, not {' or '.join(map(repr, _KINDS[option]))}", "name a model of that kind"
        )
    try:
        outside.check_model_files(folder)
    except (OSError, ValueError) as error:
        file = getattr(error, "filename", None) or folder  # a ValueError begins with the file's name
        message = f"{option}: {file} can't be read: {in_words(error)}"
        raise ModelUnavailable(message, "take all files of the model, unchanged") from error
    if not any(folder.glob("*.safetensors")):
        pickled = outside.pickles_in(folder)
        only = f", only {pickled[0].name}" if pickled else ""
        message = f"{option}: {folder} has no weights as .safetensors{only}"
        raise ModelUnavailable(message, outside.conversion(pickled) if pickled else "name another model")
