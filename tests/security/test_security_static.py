"""What the package's own source never does, read from the source itself: no pickle, no code from outside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import simpletune

PACKAGE = Path(simpletune.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

FORBIDDEN_IMPORTS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy"}
FORBIDDEN_CALLS = {
    "torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "numpy.load",
    "np.load", "numpy.fromregex", "np.save", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "eval", "exec", "compile", "__import__", "os.system", "os.popen",
    "tarfile.open", "shutil.unpack_archive", "importlib.util.spec_from_file_location",
}  # fmt: skip
PICKLE_OF_OWN_PROCESSES = PACKAGE / "data" / "caches" / "workers.py"
"""Its pipes lead to processes that it started itself; nothing of that is in a file or comes from one."""


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in MODULES:
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def name_of(node: ast.expr) -> str:
    """`a.b.c` of a call's function; of anything else on the left only the last part."""
    if isinstance(node, ast.Attribute):
        before = name_of(node.value)
        return f"{before or '?'}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield name_of(node.func), node


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_are_modules_to_look_at():
    assert len(MODULES) > 200


def test_no_pickle_and_no_code_from_outside():
    found = []
    for path, tree in trees():
        names = [name for name in imports(tree) if name.split(".")[0] in FORBIDDEN_IMPORTS]
        found += [f"{path}: import {name}" for name in names if path != PICKLE_OF_OWN_PROCESSES]
        found += [f"{path}:{node.lineno}: {name}" for name, node in calls(tree) if is_forbidden(name)]
    assert found == []


def is_forbidden(name: str) -> bool:
    receiver, _, method = name.rpartition(".")
    pickles = "accelerat" in receiver and method in {"save_state", "load_state", "save_model", "save"}
    return name in FORBIDDEN_CALLS or pickles or method in {"extractall", "extract_all"}


@pytest.mark.parametrize("source", ["torch.load(p)", "np.load(p, allow_pickle=True)", "yaml.load(p)", "eval(p)",
                                    "self.accelerator.save_state()", "tar.extractall()", "import pickle"])  # fmt: skip
def test_the_search_finds_what_it_looks_for(source):
    tree = ast.parse(source)
    assert any(is_forbidden(name) for name, _ in calls(tree)) or set(imports(tree)) & FORBIDDEN_IMPORTS


def said_to(tree: ast.Module, keyword: str) -> Iterator[ast.expr]:
    """The values a keyword is given, in calls and in dictionaries of keywords."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == keyword:
            yield node.value
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            yield from (value for key, value in pairs if isinstance(key, ast.Constant) and key.value == keyword)


@pytest.mark.parametrize("keyword", ["trust_remote_code", "allow_pickle", "shell"])
def test_keywords_that_would_allow_it_are_only_ever_false(keyword):
    wrong = []
    for path, tree in trees():
        if not path.name.startswith("aliases"):  # there it is a name of other programs' options
            values = said_to(tree, keyword)
            wrong += [
                f"{path}:{value.lineno}" for value in values if not isinstance(value, ast.Constant) or value.value
            ]
    assert wrong == []


def test_what_loads_weights_says_safetensors_and_stays_on_this_machine():
    """A library's own `from_pretrained` would take a pickle, or the hub, where the safetensors are missing."""
    seen = 0
    for path, tree in trees():
        for name, node in calls(tree):
            if name.rpartition(".")[2] != "from_pretrained":
                continue
            seen += 1
            said = {keyword.arg for keyword in node.keywords}
            if None in said:  # **local: {"local_files_only": True, "trust_remote_code": False}
                said |= {"local_files_only", "trust_remote_code"}
            where = f"{path}:{node.lineno}"
            assert {"local_files_only", "trust_remote_code"} <= said, where
            loads_weights = "output_loading_info" in said or "dtype" in said
            assert not loads_weights or "use_safetensors" in said, where
    assert seen >= 5
    for path, tree in trees():
        found = [
            name for name, _ in calls(tree) if name.rpartition(".")[2] in {"from_single_file", "load_lora_weights"}
        ]
        assert found == [], path


def test_the_pickles_of_own_processes_never_touch_a_file():
    tree = ast.parse(PICKLE_OF_OWN_PROCESSES.read_text(encoding="utf-8"))
    used = sorted(name for name, _ in calls(tree) if name.startswith("pickle."))
    assert used == ["pickle.dump", "pickle.dumps", "pickle.load", "pickle.load"]
    opened = [name for name, _ in calls(tree) if name in {"open", "Path"} or name.endswith((".open", "read_bytes"))]
    assert opened == []
