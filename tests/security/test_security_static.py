"""What the package's own source never does, read from the source itself: no pickle, no code from outside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

import simpletune

PACKAGE = Path(simpletune.__file__).parent
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy"}
FORBIDDEN_CALLS = {
    "torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "numpy.load",
    "np.load", "np.save", "numpy.fromregex", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "tarfile.open", "shutil.unpack_archive",
    "importlib.util.spec_from_file_location",
}  # fmt: skip
FORBIDDEN_METHODS = {"extractall", "from_single_file", "load_lora_weights"}
KEYWORDS = ("trust_remote_code", "allow_pickle", "shell")

OWN_PROCESSES = PACKAGE / "data" / "caches" / "workers.py"
"""Its pipes lead to processes that it started itself; nothing of that is in a file or comes from one."""


@dataclass
class Source:
    """What a search of a module looks at."""

    path: Path
    imports: list[str] = field(default_factory=list)
    calls: list[tuple[str, ast.Call]] = field(default_factory=list)
    given: list[tuple[str, ast.expr]] = field(default_factory=list)  # of KEYWORDS, in calls and dictionaries


def read(text: str, path: Path) -> Source:
    found = Source(path)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.imports.append(node.module)
        elif isinstance(node, ast.Call):
            found.calls.append((name_of(node.func), node))
        elif isinstance(node, ast.keyword) and node.arg in KEYWORDS:
            found.given.append((node.arg, node.value))
        elif isinstance(node, ast.Dict):
            pairs = [(key.value, value) for key, value in zip(node.keys, node.values, strict=True)
                     if isinstance(key, ast.Constant) and key.value in KEYWORDS]  # fmt: skip
            found.given += pairs
    return found


def name_of(node: ast.expr) -> str:
    """`a.b.c` of a call's function; `?.c` where it is called on something else."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value) or '?'}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@cache
def package() -> tuple[Source, ...]:
    return tuple(read(path.read_text(encoding="utf-8"), path) for path in sorted(PACKAGE.rglob("*.py")))


def offences(source: Source) -> Iterator[str]:
    for name in source.imports:
        if name.split(".")[0] in FORBIDDEN_IMPORTS and source.path != OWN_PROCESSES:
            yield f"{source.path}: import {name}"
    for name, node in source.calls:
        receiver, _, method = name.rpartition(".")
        pickles = "accelerat" in receiver and method in {"save_state", "load_state", "save_model", "save"}
        if name in FORBIDDEN_CALLS or pickles or method in FORBIDDEN_METHODS:
            yield f"{source.path}:{node.lineno}: {name}"
    for name, value in source.given:
        of_other_programs = source.path.name.startswith("aliases")
        if not of_other_programs and not (isinstance(value, ast.Constant) and not value.value):
            yield f"{source.path}:{value.lineno}: {name} isn't false"


def test_no_pickle_and_no_code_from_outside():
    assert len(package()) > 200
    assert [offence for source in package() for offence in offences(source)] == []


@pytest.mark.parametrize(
    "text",
    ["torch.load(p)", "np.load(p)", "f(allow_pickle=True)", "f(trust_remote_code=x)", "{'trust_remote_code': True}",
     "yaml.load(p)", "eval(p)", "self.accelerator.save_state()", "tar.extractall()", "import pickle",
     "from pickle import loads", "run(shell=True)", "Pipeline.from_single_file(p)"],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(text):
    assert list(offences(read(text, Path("x.py"))))


def test_what_loads_weights_says_safetensors_and_stays_on_this_machine():
    """A library's own `from_pretrained` would take a pickle, or the hub, where the safetensors are missing."""
    seen = 0
    for source in package():
        for name, node in source.calls:
            if name.rpartition(".")[2] != "from_pretrained":
                continue
            seen += 1
            said = {keyword.arg for keyword in node.keywords}
            if None in said:  # **local: {"local_files_only": True, "trust_remote_code": False}
                said |= {"local_files_only", "trust_remote_code"}
            where = f"{source.path}:{node.lineno}"
            assert {"local_files_only", "trust_remote_code"} <= said, where
            assert "use_safetensors" in said or not said & {"output_loading_info", "dtype"}, where
    assert seen >= 5


def test_the_pickles_of_own_processes_never_touch_a_file():
    (workers,) = (source for source in package() if source.path == OWN_PROCESSES)
    used = sorted(name for name, _ in workers.calls if name.startswith("pickle."))
    assert used == ["pickle.dump", "pickle.dumps", "pickle.load", "pickle.load"]
    assert not [name for name, _ in workers.calls if name in {"open", "Path"} or name.endswith((".open", "read_bytes"))]
