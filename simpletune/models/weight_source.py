"""Tensors in .safetensors files, read by name when they are asked for. Pickle is never read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from simpletune import outside
from simpletune.disk_words import in_words
from simpletune.errors import ModelUnavailable

View = Callable[["WeightSource"], Tensor]
"""Computes one tensor of a model from a source's `raw` tensors and `rows`."""

_WHOLE_FILE_BYTES = 64 << 20
_SAMPLES, _SAMPLE_BYTES = 256, 64 << 10
_STEMS = ("diffusion_pytorch_model", "model")  # diffusers' and transformers' names for a folder's weights


class WeightSource:
    """Tensors by name over one or more .safetensors files, read when asked for.

    `viewed` gives files of another layout the names a model expects: each is computed from the files' own, for example
    by `source.rows("qkv.weight", 0, 1536)`. Then only the views' names are seen.

    Every method that reads raises ModelUnavailable naming the file when it is missing, damaged or lacks the tensor.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        """`files`: tensor name -> the file that holds it."""
        self._files = dict(files)
        self._views: Mapping[str, View] | None = None
        self._opened: dict[Path, tuple[Any, frozenset[str]]] = {}  # and the names in it

    @classmethod
    def open(cls, path: Path) -> WeightSource:
        """A .safetensors file, an index of shards (`...safetensors.index.json`), or a folder that holds either."""
        path = _weights_in(path) if path.is_dir() else path
        if path.name.endswith(".index.json"):
            return cls(_indexed(path))
        if path.suffix != ".safetensors":
            raise ModelUnavailable(f"{path} is not a .safetensors file", outside.conversion([path]))
        return cls(dict.fromkeys(_open(path).keys(), path))

    def viewed(self, views: Mapping[str, View]) -> WeightSource:
        """The same files under a model's own names."""
        source = WeightSource(self._files)
        source._views = dict(views)
        return source

    def names(self) -> frozenset[str]:
        return frozenset(self._files if self._views is None else self._views)

    def __contains__(self, name: str) -> bool:
        return name in (self._files if self._views is None else self._views)

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(self._files.values()))

    @property
    def total_bytes(self) -> int:
        """Size of the files, headers included."""
        return sum(map(_size, self.paths))

    def read(self, name: str) -> Tensor:
        """The tensor on the CPU, in the file's dtype; it may share the mapped file's memory, so copy it to keep it."""
        if self._views is None:
            return self.raw(name)
        if name not in self._views:
            raise self._missing(name)
        return self._views[name](self)

    def raw(self, name: str) -> Tensor:
        """A tensor by the name it has in the files, for views to use."""
        return self._file(name).get_tensor(name)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of a tensor by its name in the files, without reading the others."""
        return self._file(name).get_slice(name)[start:stop]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The tensor's shape from the file's header; None for a view, whose shape only reading it tells."""
        return tuple(self._file(name).get_slice(name).get_shape()) if self._views is None else None

    def where(self, name: str) -> str:
        """The file a tensor is in, for messages."""
        return str(self._files.get(name) or ", ".join(str(path) for path in self.paths))

    def close(self) -> None:
        """Unmap the files; reading again opens them again."""
        self._opened.clear()

    def _file(self, name: str) -> Any:
        path = self._files.get(name)
        if path is None:
            raise self._missing(name)
        if path not in self._opened:
            file = _open(path)
            self._opened[path] = file, frozenset(file.keys())
        file, names = self._opened[path]
        if name not in names:
            raise self._missing(name)
        return file

    def _missing(self, name: str) -> ModelUnavailable:
        return ModelUnavailable(f"{self.where(name)} has no tensor {name!r}", "is this the model the flavour names?")


def _open(path: Path) -> Any:
    try:
        outside.check_tensors(path)
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise ModelUnavailable(f"{path} doesn't exist", "check the path, or download the model again") from error
    except (SafetensorError, OSError, ValueError) as error:
        if outside.is_pickle(path):
            raise ModelUnavailable(f"{path} is a pickle", outside.conversion([path])) from error
        raise ModelUnavailable(
            f"{path} can't be read: {in_words(error)}", "it may be incomplete: download it again"
        ) from error


def _weights_in(folder: Path) -> Path:
    candidates = [folder / f"{stem}.safetensors{suffix}" for stem in _STEMS for suffix in ("", ".index.json")]
    found = next((path for path in candidates if path.is_file()), None)
    others = sorted(folder.glob("*.safetensors"))
    if found is None and len(others) == 1:
        return others[0]
    if found is None:
        pickles = [] if others else outside.pickles_in(folder)
        reason = "several .safetensors files and no index" if others else "no .safetensors file"
        hint = outside.conversion(pickles) if pickles else "download the model again"
        raise ModelUnavailable(f"{folder} has {reason}" + (f", only {pickles[0].name}" if pickles else ""), hint)
    return found


def _indexed(index: Path) -> dict[str, Path]:
    try:
        weight_map = outside.read_json(index)["weight_map"]
        shards = {str(name): Path(str(shard)).name for name, shard in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnavailable(f"{index} is not an index of weights: {error}", "download the model again") from error
    missing = sorted({shard for shard in shards.values() if not (index.parent / shard).is_file()})
    if missing:
        raise ModelUnavailable(f"{index.parent} lacks {', '.join(missing)}", "download the model again")
    return {name: index.parent / shard for name, shard in shards.items()}


def fingerprint(path: Path) -> str:
    """Hex SHA-256 that tells weights files apart: of all bytes below 64 MiB, of samples above.

    A large file's digest covers its size, its safetensors header (names, shapes, types) and 256 evenly spread
    pieces of 64 KiB, first and last included; it takes milliseconds. Raises ModelUnavailable if it can't be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.sha256(str(size).encode())
            if size < _WHOLE_FILE_BYTES:
                digest.update(file.read())
                return digest.hexdigest()
            header_bytes = int.from_bytes(file.read(8), "little")
            digest.update(file.read(min(header_bytes, _WHOLE_FILE_BYTES)))
            for sample in range(_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
            return digest.hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ModelUnavailable:
    return ModelUnavailable(f"{path} can't be read: {error.strerror}", "check the path and its permissions")
