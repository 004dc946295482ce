"""Files that do something when they are loaded by a reader that runs what is in them: they leave a mark."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path

MARK = "was-executed"


class _Marks:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self._mark),)


def pickle_bytes(mark: Path) -> bytes:
    return pickle.dumps(_Marks(mark), protocol=2)


def write_pickle(path: Path, mark: Path) -> Path:
    """A plain pickle, as older checkpoints are."""
    path.write_bytes(pickle_bytes(mark))
    return path


def write_torch(path: Path, mark: Path) -> Path:
    """A zip with data.pkl, as torch.save writes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle_bytes(mark))
        archive.writestr("archive/version", "3\n")
    return path


def module_text(mark: Path) -> str:
    """Python that makes the mark when it is imported, and has whatever class is asked for."""
    return (
        f"import os\nos.makedirs({str(mark)!r}, exist_ok=True)\n"
        "class Own:\n    @classmethod\n    def from_pretrained(cls, *a, **k):\n        return cls()\n"
        "    @classmethod\n    def from_config(cls, *a, **k):\n        return cls()\n"
    )


def add_remote_code(folder: Path, mark: Path, *, also: tuple[str, ...] = ()) -> None:
    """Every JSON of a model's folder names classes of a module beside it, as models with code of their own do."""
    names = ["AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor", "AutoImageProcessor",
             "AutoModelForCausalLM", "AutoFeatureExtractor", "AutoVideoProcessor"]  # fmt: skip
    auto_map: dict[str, object] = dict.fromkeys(names, "own.Own")
    auto_map["AutoTokenizer"] = ["own.Own", "own.Own"]
    (folder / "own.py").write_text(module_text(mark))
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json", *also):
        path = folder / name
        if path.is_file():
            value = json.loads(path.read_text())
            path.write_text(json.dumps(value | {"auto_map": auto_map, "trust_remote_code": True, "custom_code": True}))
