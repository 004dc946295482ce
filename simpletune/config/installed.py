"""What is installed, found out without importing it: importing torch takes seconds."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path

INSTALL_CUDA = "pip install --force-reinstall torch"


@dataclass(frozen=True)
class TorchBuild:
    """What torch was built for: `cuda` is a CUDA version such as "12.8", `hip` a ROCm version, None without."""

    version: str
    cuda: str | None
    hip: str | None


def is_installed(package: str) -> bool:
    """Whether a top-level package can be found; a mere folder of its name, such as "datasets", is none."""
    try:
        spec = importlib.util.find_spec(package)
        return spec is not None and spec.origin is not None
    except (ImportError, ValueError):
        return False


def torch_build() -> TorchBuild | None:
    """What the installed torch says of itself in its version.py; None without torch or without that file."""
    try:
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.origin is None:
            return None
        names = _constants(Path(spec.origin).with_name("version.py").read_text(encoding="utf-8"))
    except (ImportError, ValueError, OSError, SyntaxError):
        return None
    return TorchBuild(names.get("__version__") or "unknown", names.get("cuda"), names.get("hip"))


def _constants(source: str) -> dict[str, str | None]:
    """The module-level names that `source` sets to a string or None."""
    found: dict[str, str | None] = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.AnnAssign):
            targets: list[ast.expr] = [statement.target]
        elif isinstance(statement, ast.Assign):
            targets = statement.targets
        else:
            continue
        value = statement.value
        if isinstance(value, ast.Constant) and (value.value is None or isinstance(value.value, str)):
            found.update({target.id: value.value for target in targets if isinstance(target, ast.Name)})
    return found
