"""What the documents name is there: paths, links, commands with their options, targets of the Makefile.

What they show of config.json and multidatabackend.json is valid.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from simpletune.cli.main import command
from simpletune.config.problems import Problem
from simpletune.config.validate import validate_files
from simpletune.errors import ConfigError, EnvironmentNotReady
from simpletune.sweep.file import read as read_sweep
from simpletune.sweep.plan import plan

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]

_FENCED = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_TITLE = re.compile(r"^#+ (.+)$", re.MULTILINE)
# What follows a path, such as ":12" or "::test_name", is no part of it; "tests/data/" is a folder.
_PATH = re.compile(r"(?:simpletune|tests|docs|examples|schemas)/[\w.*{},/-]*")
# A run makes these, so a fresh checkout lacks them.
_MADE = ("examples/quickstart/output", "examples/quickstart/cache")
_CONTINUED = re.compile(r"\\\n\s*")


def without_fences(text: str) -> str:
    return _FENCED.sub("", text)


def paths(text: str) -> list[str]:
    """The paths of the repository named in backticks, outside fenced blocks."""
    spans = (_PATH.match(span) for span in _INLINE.findall(without_fences(text)))
    return [match[0] for match in spans if match]


def exists(path: str) -> bool:
    """Whether a path, in which `*` and {a,b} stand for several, leads somewhere, each alternative on its own."""
    if path.startswith(_MADE):
        return True
    braces = re.search(r"\{([^{}]*)\}", path)
    if braces:
        return all(exists(path[: braces.start()] + part + path[braces.end() :]) for part in braces[1].split(","))
    return any(ROOT.glob(path.rstrip("/"))) if "*" in path else (ROOT / path).exists()


def broken_links(document: Path, text: str) -> list[str]:
    """Links to files and titles that aren't there; addresses on the web are let pass."""
    broken = []
    for link in _LINK.findall(without_fences(text)):
        name, _, title = link.partition("#")
        target = document.parent / name
        if "://" in link:
            continue
        if not target.exists() or (title and title not in anchors(target.read_text("utf-8") if name else text)):
            broken.append(link)
    return broken


def anchors(text: str) -> set[str]:
    """What links call the titles of a document: "## 2. Install" is "2-install"."""
    titles = (title.lower().replace(" ", "-") for title in _TITLE.findall(without_fences(text)))
    return {re.sub(r"[^\w-]", "", title) for title in titles}


def shell_lines(text: str) -> list[list[str]]:
    """The words of every command in the fenced sh blocks, without comments and prompts."""
    blocks = (block for _, language, block in _FENCED.findall(text) if language == "sh")
    lines = (line.strip().removeprefix("$ ") for block in blocks for line in _CONTINUED.sub(" ", block).split("\n"))
    return [part for line in lines for part in commands(line) if part]


def commands(line: str) -> list[list[str]]:
    """`a && b | c # d` as [a, b, c], split into words; variables set before a command are taken off."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&|;"):
            parts.append([])
        elif parts[-1] or not re.fullmatch(r"\w+=.*", word):
            parts[-1].append(word)
    return parts


def fault(words: list[str]) -> str | None:
    """What is wrong with a call of simpletune or make, by names alone; other programs are let pass."""
    program, rest = Path(words[0]).name, words[1:]
    if program == "make":
        return next((f"no target {word}" for word in targets_of(rest) if word not in makefile_targets()), None)
    return unknown_in_call(rest) if program == "simpletune" else None


def unknown_in_call(words: list[str]) -> str | None:
    """Follow the words down click's groups: the first subcommand or option that doesn't exist."""
    group: click.Command = command
    context = click.Context(group, info_name="simpletune")
    for word in words:
        if word.startswith("-") and word != "-":
            if word.partition("=")[0] not in options(group, context):
                return f"{context.command_path} has no option {word}"
        elif isinstance(group, click.Group):
            found = group.get_command(context, word)
            if found is None:
                return f"{context.command_path} has no subcommand {word}"
            group, context = found, click.Context(found, info_name=word, parent=context)
    return None


def options(one: click.Command, context: click.Context) -> set[str]:
    named = [parameter for parameter in one.get_params(context) if isinstance(parameter, click.Option)]
    return {name for option in named for name in (*option.opts, *option.secondary_opts)} | {"-h", "--help"}


def targets_of(words: list[str]) -> list[str]:
    return [word for word in words if not word.startswith("-") and "=" not in word]


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_is_there(document: Path) -> None:
    named = paths(document.read_text(encoding="utf-8"))
    assert [path for path in named if not exists(path)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    assert broken_links(document, document.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_is_there(document: Path) -> None:
    calls = shell_lines(document.read_text(encoding="utf-8"))
    assert [found for words in calls if (found := fault(words))] == []


def json_blocks(text: str) -> list[str]:
    return [block for _, language, block in _FENCED.findall(text) if language == "json"]


def problems_of(block: str, folder: Path) -> list[Problem]:
    """What is wrong with a config.json, a sweep's file, or, if it is a list, a multidatabackend.json, when all it names
    is there."""
    value = json.loads(block)
    is_sweep = isinstance(value, dict) and "axes" in value
    config, data = ("{}", block) if isinstance(value, list) else (block, '[{"id": "a", "instance_data_dir": "a"}]')
    for entry in json.loads(data):
        named = [entry[key] for key in ("instance_data_dir", "mask_data_dir") if key in entry]
        for path in [*(f"{name}/0.png" for name in named), *(f"{name}/0.tar" for name in named), "captions.csv"]:
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).touch()
    (folder / "config.json").write_text("{}" if is_sweep else config, encoding="utf-8")
    (folder / "multidatabackend.json").write_text(data, encoding="utf-8")
    if '"algo"' in block:
        (folder / "lycoris_config.json").write_text(block, encoding="utf-8")
        lycoris = {"model_flavour": "sd3-medium", "lora_type": "lycoris", "lycoris_config": "lycoris_config.json"}
        (folder / "config.json").write_text(json.dumps(lycoris), encoding="utf-8")
    if is_sweep:
        (folder / "sweep.json").write_text(block, encoding="utf-8")
        return problems_of_sweep(folder / "sweep.json")
    return [problem for problem in validate_files(folder / "config.json") if problem.kind == "config"]


def problems_of_sweep(path: Path) -> list[Problem]:
    try:
        plan(read_sweep(path))
    except ConfigError as error:
        return list(error.problems)
    except EnvironmentNotReady:
        pass  # the model of an example isn't there
    return []


def examples() -> list[tuple[str, str]]:
    """(the document's name, a JSON block), of all documents."""
    return [(path.name, block) for path in DOCUMENTS for block in json_blocks(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("block", [block for _, block in examples()], ids=[name for name, _ in examples()])
def test_every_example_is_valid(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert [problem.message for problem in problems_of(block, tmp_path)] == []


def test_a_wrong_example_is_found(tmp_path: Path) -> None:
    (text,) = json_blocks('```json\n[{"id": "a", "instance_data_dir": "a", "repeat": 1}]\n```\n')
    assert [problem.message for problem in problems_of(text, tmp_path)] == [
        'unknown key "repeat"; did you mean "repeats"?'
    ]
    (text,) = json_blocks('```json\n{"axes": {"lora_rnk": [1]}}\n```\n')
    assert ['did you mean "lora_rank"' in problem.message for problem in problems_of(text, tmp_path)] == [True]


def test_the_documents_have_something_to_check() -> None:
    texts = [document.read_text(encoding="utf-8") for document in DOCUMENTS]
    assert sum(len(paths(text)) for text in texts) > 50
    assert {words[0] for text in texts for words in shell_lines(text)} >= {"simpletune", "make"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("simpletune trian config.json", "simpletune has no subcommand trian"),
        ("simpletune train --dry config.json", "simpletune train has no option --dry"),
        ("simpletune --verison", "simpletune has no option --verison"),
        ("simpletune model bulid x", "simpletune model has no subcommand bulid"),
        ("simpletune model build x --flavor=tiny", "simpletune model build has no option --flavor=tiny"),
        ("X=1 make setup && make chekc  # all", "no target chekc"),
    ],
)
def test_what_is_not_there_is_found(line: str, told: str) -> None:
    assert shell_lines(f"```sh\n$ {line}\n```\n")
    assert [found for words in commands(line) if (found := fault(words))] == [told]


@pytest.mark.parametrize(
    "line",
    [
        "simpletune train config.json --set max_train_steps=2 --dry-run | tail -n 3",
        ".venv/bin/simpletune validate -h",
        "PYTHON=python3 make -n setup PYTHON=python3.12",
        "torchrun --nproc-per-node 2 -m simpletune.trainer config.json",
        "# nothing at all",
    ],
)
def test_what_is_there_is_let_pass(line: str) -> None:
    assert [found for words in commands(line) if words and (found := fault(words))] == []


def test_missing_paths_are_found() -> None:
    text = "`simpletune/nowhere.py`, `tests/conftest.py`, `docs/*.md` and `simpletune/{errors,lost}.py`, not `a/b.py`"
    missing = ["simpletune/nowhere.py", "simpletune/{errors,lost}.py"]
    assert [path for path in paths(text) if not exists(path)] == missing


def test_links_that_lead_nowhere_are_found() -> None:
    text = "# A title: one\n[a](README.md#simpletune) [b](#a-title-one) [c](https://x.example/#y)\n"
    wrong = "[d](lost.md) [e](README.md#lost)\n```text\n[f](lost.md)\n```\n"
    assert broken_links(ROOT / "README.md", text + wrong) == ["lost.md", "README.md#lost"]
    assert anchors(text) == {"a-title-one"}
