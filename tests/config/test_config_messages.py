"""Every message as a person sees it. UPDATE_SNAPSHOTS=1 writes them anew; read the difference before committing it."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from config_cases import CASES, NOT_INSTALLED, SECRET, TOKEN

from simpletune.config import rules_environment
from simpletune.config.installed import TorchBuild
from simpletune.config.validate import errors, exit_code, render_all, validate_files

SNAPSHOT = Path(__file__).parent / "snapshots" / "messages.txt"


missing = set()


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(rules_environment, "torch_build", lambda: TorchBuild("2.13.0+cpu", None, None))
    monkeypatch.setattr(rules_environment, "is_installed", lambda name: name not in missing)
    monkeypatch.setattr(rules_environment.platform, "system", lambda: "Linux")
    monkeypatch.setattr(rules_environment.shutil, "which", lambda _name: None)


def snapshots():
    sections = SNAPSHOT.read_text(encoding="utf-8").split("\n=== ")[1:] if SNAPSHOT.exists() else []
    return {name: text.strip("\n") for name, _, text in (section.partition(" ===\n") for section in sections)}


def shown(files, name):
    missing.clear()
    missing.update(NOT_INSTALLED.get(name, {"bitsandbytes"}))
    config, *rest = CASES[name]
    data, overrides = (*rest, (), ())[:2] if rest else (None, ())
    path = files(config, data) if data is not None else files(config)
    problems = validate_files(path, overrides)
    assert problems, name
    return render_all(problems).replace(str(path.parent), "HERE"), problems


@pytest.mark.skipif(os.environ.get("UPDATE_SNAPSHOTS") is not None, reason="being written")
@pytest.mark.parametrize("name", CASES)
def test_message(files, name):
    assert shown(files, name)[0] == snapshots()[name]


@pytest.mark.skipif(os.environ.get("UPDATE_SNAPSHOTS") is None, reason="only on request")
def test_write_snapshots(files):
    SNAPSHOT.parent.mkdir(exist_ok=True)
    sections = (f"\n=== {name} ===\n{shown(files, name)[0]}\n" for name in CASES)
    SNAPSHOT.write_text("".join(sections), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "secret"), [("token", TOKEN), ("token in broken text", TOKEN), ("a secret key", SECRET)]
)
def test_no_secret_is_shown(files, name, secret):
    text, problems = shown(files, name)
    assert secret not in text
    assert secret not in str([problem.as_json() for problem in problems])


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("unknown key", 2),
        ("no CUDA", 3),
        ("optimizer not installed", 3),
        ("missing model", 3),
        ("keys without effect", 0),
    ],
)
def test_exit_code(files, name, code):
    _, problems = shown(files, name)
    assert exit_code(problems) == code
    assert bool(errors(problems)) == bool(code)


def test_a_config_problem_outranks_the_machine(files):
    path = files('{"device": "cuda", "seed": -1}')
    assert exit_code(validate_files(path)) == 2


def test_no_file_at_all(tmp_path):
    (problem,) = validate_files(tmp_path / "config.json")
    assert problem.message == "no such file"


def test_long_and_wide_lines_keep_the_caret_below_the_place(files):
    path = files(
        '{"validation_prompt": "' + "猫" * 30 + '", "seed": -1, "validation_negative_prompt": "' + "x" * 200 + '"}'
    )
    line, caret = render_all(validate_files(path)).split("\n")[1:3]
    width = sum(2 if character == "猫" else 1 for character in line[: line.index("-1")])
    assert caret.index("^") == width


def test_terminal_escapes_are_not_passed_on(files):
    path = files('{"\\u001b[31mred": 1, "seed": -1, "validation_prompt": "\x7f\u202e"}')
    assert all(character.isprintable() or character == "\n" for character in render_all(validate_files(path)))
