"""Encoded pictures and captions on disk: one .safetensors file each, named by a key that holds all that determined it.

An entry carries a SHA-256 of its key and tensors. One that is damaged, or was renamed, reads as missing: it is
encoded again. Files lie in 256 folders by the key's first two digits.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from simpletune import files
from simpletune.data.caches.entries import entry_path
from simpletune.errors import DataError

_DIGEST = "sha256"


@dataclass(frozen=True)
class TensorCache:
    """A folder of entries. Safe for any number of readers and writers: an entry appears whole or not at all."""

    folder: Path

    def path(self, key: str) -> Path:
        """Where the entry of `key`, a hex digest, lies or would lie."""
        return entry_path(self.folder, key)

    def contains(self, key: str) -> bool:
        """Whether the entry is there and sound; reads all of it."""
        return self.get(key) is not None

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The entry's tensors, on the CPU; None when it is missing or damaged."""
        try:
            data = self.path(key).read_bytes()
        except OSError:
            return None
        try:
            tensors = safetensors.torch.load(data)
            metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
        except (SafetensorError, ValueError):
            return None
        return tensors if metadata.get(_DIGEST) == _digest(key, tensors) else None

    def trouble(self, key: str) -> str:
        """Why `get` gave nothing, as far as one can tell afterwards."""
        try:
            self.path(key).read_bytes()
        except FileNotFoundError:
            return "has vanished"
        except OSError as error:
            return f"can't be read ({error.strerror or error})"
        return "is damaged"

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Write an entry atomically. Raises DataError when the disk doesn't take it."""
        # A slice of a batch would be saved with the storage of the whole batch, hence the copies.
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        data = safetensors.torch.save(copies, {_DIGEST: _digest(key, copies)})
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(path, data)
        except OSError as error:
            hint = "make room there, or name another cache folder in multidatabackend.json"
            raise DataError(f"{self.folder}: a cache entry can't be written: {error.strerror}", hint) from error


@dataclass(frozen=True)
class Stored:
    """An encoded picture or caption: where it is kept, and under which key."""

    cache: TensorCache
    key: str

    def exists(self) -> bool:
        """Whether there is a file for it, sound or damaged."""
        return self.cache.path(self.key).is_file()

    def sound(self) -> bool:
        return self.cache.contains(self.key)

    def load(self) -> dict[str, Tensor]:
        """Its tensors, on the CPU. Raises DataError when the entry has gone or been damaged since it was encoded."""
        tensors = self.cache.get(self.key)
        if tensors is None:
            message = f"{self.cache.path(self.key)}: this cache entry {self.cache.trouble(self.key)}"
            raise DataError(message, hint="start the run again: it encodes what is missing and continues")
        return tensors


def _digest(key: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the key and all names, dtypes, shapes and bytes."""
    digest = hashlib.sha256(key.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
