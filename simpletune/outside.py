"""Files that somebody else made: which kinds are never read, and how much is read of the others.

A pickle can run code while it is read, so none is. JSON and the headers of safetensors are read up to a size that no
real one comes near, as a few kilobytes can make a reader fill the memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"})
"""What files are called that are pickles, or hold one."""

LARGEST_JSON = 16 << 20
"""Bytes. The largest configs and indexes of weights that are published have some hundred kilobytes."""

LARGEST_VOCABULARY = 128 << 20
"""Bytes. A tokenizer.json of 260,000 pieces has 33 MB."""

LARGEST_HEADER = 16 << 20
"""Bytes of a safetensors header; that of a model of 10,000 tensors has 1 MB."""

MOST_LAYERS = 1000
_COUNTED = ("layers", "num_blocks", "depth", "n_layer", "num_experts")
_LONG_LISTS = frozenset({"vocab", "bad_words_ids", "suppress_tokens"})

_PICKLE_STARTS = (b"PK\x03\x04", *(bytes((0x80, protocol)) for protocol in range(2, 6)))
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state")
_CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; o = {}; "
    "[o.update(d.get('state_dict', d)) for d in "
    "(torch.load(f, map_location='cpu', weights_only=True) for f in sys.argv[1:-1])]; "
    "save_file({k: v.contiguous().clone() for k, v in o.items() if hasattr(v, 'contiguous')}, sys.argv[-1], "
    "metadata={'format': 'pt'})"
)


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle by its name, or by its first bytes under the name of another kind."""
    if path.suffix.lower() in PICKLES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(4).startswith(_PICKLE_STARTS)
    except OSError:
        return False


def pickles_in(folder: Path) -> list[Path]:
    """The files of a folder that are named as pickles are, without what trainers leave beside the weights."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix.lower() in PICKLES and path.is_file())
    return sorted(path for path in found if not path.stem.startswith(_NO_WEIGHTS))


def conversion(pickles: Iterable[Path]) -> str:
    """What to do about pickled weights: a command that writes one .safetensors beside them, of all of them.

    It reads them as numbers alone, which torch 2.6 and later refuse where there is more in them.
    """
    paths = list(pickles)
    stem = paths[0].stem.partition("-0")[0]
    target = paths[0].with_name(f"{'model' if stem == 'pytorch_model' else stem}.safetensors")
    named = " ".join(f'"{path}"' for path in (*paths, target))
    return (
        "such files can run code when they are read: get the .safetensors version, or convert it: "
        f'python -c "{_CONVERT}" {named}'
    )


def read_json(path: Path, limit: int = LARGEST_JSON) -> Any:
    """The value of a JSON file. Raises OSError, and ValueError for one that is damaged, too large or too deep."""
    return parse_json(read_bytes(path, limit))


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, for brackets that are too deep inside each other too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are too deep inside each other") from None


def read_model_config(path: Path) -> dict[str, Any]:
    """The config.json of a model's part.

    Raises OSError, and ValueError for one that is damaged, too large, or of a model that nobody could build: a library
    makes as many layers as it says, one after the other.
    """
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError("it is not a JSON object")
    check_model_config(config)
    return config


def check_model_config(config: dict[str, Any]) -> None:
    """Raise ValueError for more layers, or longer lists, than any model has."""
    for key, value in config.items():
        if isinstance(value, dict):
            check_model_config(value)
        many = isinstance(value, int | float) and value > MOST_LAYERS and any(word in key for word in _COUNTED)
        long = isinstance(value, list) and len(value) > MOST_LAYERS and key not in _LONG_LISTS
        if many or long:
            said = f"{value:,}" if many else f"a list of {len(value):,}"
            raise ValueError(f"its {key} is {said}, and no model has more than {MOST_LAYERS:,}")


def read_bytes(path: Path, limit: int = LARGEST_JSON) -> bytes:
    """A file's bytes. Raises OSError, and ValueError for one of more than `limit`."""
    with path.open("rb") as file:
        _check_size(os.fstat(file.fileno()).st_size, limit)
        data = file.read(limit + 1)  # it may grow, and what is no ordinary file has no size
    _check_size(len(data), limit)
    return data


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"it has {size / (1 << 20):,.0f} MiB, more than the {limit >> 20} that are read")


def check_vocabulary(path: Path) -> None:
    """Raise OSError, and ValueError where a file is larger than any tokenizer's that a library may read whole."""
    _check_size(path.stat().st_size, LARGEST_VOCABULARY)


def check_model_files(folder: Path) -> None:
    """Raise OSError, and ValueError beginning with a file's name, for a model's folder that a library mustn't be given.

    Libraries read its tokenizer whole, and its weights from wherever an index says that they are.
    """
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        try:
            if path.suffix == ".safetensors":
                check_tensors(path)
            elif path.name.endswith(".index.json"):
                _check_index(path)
            elif path.suffix in {".json", ".jinja", ".txt", ".model"}:
                check_vocabulary(path)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error


def _check_index(path: Path) -> None:
    index = read_json(path)
    shards = index.get("weight_map", {}) if isinstance(index, dict) else None
    if not isinstance(shards, dict):
        raise ValueError("it is not an index of weights")
    for shard in set(map(str, shards.values())):
        if shard in {"", ".", ".."} or set(shard) & set("/\\:"):
            raise ValueError(f"it names {shard[:80]!r}, which isn't a file of this folder")


def check_tensors(path: Path) -> None:
    """Raise ValueError, saying why, where a file can't be .safetensors or its header would take too much memory.

    What the header says is left to the library: tensors that overlap, that end behind the file, unknown types.
    Raises OSError when the file can't be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
    length = int.from_bytes(start, "little")
    if start.startswith(_PICKLE_STARTS):
        raise ValueError("it is a pickle under the name of another kind")
    if len(start) < 8 or length > size - 8:
        raise ValueError("it ends before its header does: the file is damaged, or not .safetensors")
    if length > LARGEST_HEADER:
        raise ValueError(f"its header has {length / (1 << 20):,.0f} MiB, more than the {LARGEST_HEADER >> 20} read")
