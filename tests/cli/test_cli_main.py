"""The command line: exit codes, what is shown, and how little is loaded for it."""

import json
import subprocess
import sys
import time

import click
import pytest

from simpletune import __version__
from simpletune.cli import main as cli
from simpletune.cli.display import problem_text
from simpletune.cli.main import COMMANDS, Entry, run, show_error
from simpletune.config.problems import Problem
from simpletune.errors import ConfigError, SimpletuneError, TrainingFailed, UsageError

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "optimum")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with both files and one picture; the current folder."""
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "pictures").mkdir()
    image.new("RGB", (128, 128), "red").save(tmp_path / "pictures" / "one.png")
    (tmp_path / "pictures" / "one.txt").write_text("a red square", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_flavour": "tiny"}', encoding="utf-8")
    sets = [{"id": "pics", "instance_data_dir": "pictures"}]
    (tmp_path / "multidatabackend.json").write_text(json.dumps(sets), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_valid_files_are_one_line(project, capsys):
    assert run(["validate"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("config.json and multidatabackend.json are valid: 1 ")
    assert out.count("\n") == 1


def test_config_in_the_config_folder_is_found(project, capsys):
    (project / "config").mkdir()
    for name in ("config.json", "multidatabackend.json", "pictures"):
        (project / name).rename(project / "config" / name)
    assert run(["validate"]) == 0


def test_nothing_to_validate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["validate"]) == 2
    assert "there is no config.json here" in capsys.readouterr().err


def test_problems_are_shown_and_counted(project, capsys):
    (project / "config.json").write_text('{\n  "lora_rnk": 16,\n  "seed": -1\n}', encoding="utf-8")
    assert run(["validate", "config.json"]) == 2
    out = capsys.readouterr().out
    assert (
        'config.json:2:3: error: unknown key "lora_rnk"; did you mean "lora_rank"?\n    "lora_rnk": 16,\n    ^\n' in out
    )
    assert out.endswith("2 errors\n")


def test_pictures_are_looked_at(project, capsys):
    (project / "pictures" / "one.png").write_bytes(b"no picture")
    assert run(["validate"]) == 2
    assert "multidatabackend.json:1:" in capsys.readouterr().out


def test_json(project, capsys):
    assert run(["validate", "--json", "--set", "seed=-1"]) == 2
    (problem,) = json.loads(capsys.readouterr().out)
    assert set(problem) == {"file", "line", "column", "path", "message", "hint", "severity"}
    assert (problem["file"], problem["path"], problem["severity"]) == ("--set seed", "seed", "error")


def test_the_machine_is_exit_code_3(project, monkeypatch, capsys):
    assert run(["validate", "--set", "optimizer=adamw8bit"]) in {0, 3}
    monkeypatch.setattr("simpletune.config.rules_environment.is_installed", lambda name: False)
    assert run(["validate", "--set", "optimizer=adamw8bit"]) == 3


def test_help_and_version(capsys):
    assert run(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and entry.summary in shown for name, entry in COMMANDS.items())


@pytest.mark.parametrize("arguments", [["nope"], ["validate", "--nope"], ["validate", "a", "b"]])
def test_wrong_usage(arguments, capsys):
    assert run(arguments) == 2
    assert "Usage" in capsys.readouterr().err


WRONG = Problem("c.json", 1, 2, "a", "wrong")


def raising(error):
    @click.command()
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (TrainingFailed("the loss is NaN", hint="lower it"), 1, "error: the loss is NaN\nhint: lower it\n"),
        (ConfigError("1 error", problems=[WRONG]), 2, "c.json:1:2: error: wrong\nerror: 1 error\n"),
        (SimpletuneError("token hf_" + "a" * 30), 1, "error: token [redacted]\n"),
        (click.Abort(), 130, "interrupted\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_are_for_people(error, code, said, monkeypatch, capsys):
    monkeypatch.setattr(cli, "COMMANDS", {"x": Entry("here:command", "")})
    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda self, ctx, name: raising(error))
    assert run(["x"]) == code
    assert capsys.readouterr().err.lstrip("\n") == said


def test_a_bug_says_so_without_tokens(monkeypatch, capsys):
    token = "hf_" + "b" * 30
    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda self, ctx, name: raising(ValueError(token)))
    assert run(["validate"]) == 1
    shown = capsys.readouterr().err
    assert "this is a bug in simpletune" in shown
    assert "Traceback" in shown
    assert token not in shown


class Terminal:
    def isatty(self):
        return True


def test_colour_only_where_it_is_wanted(monkeypatch):
    problem = Problem("c.json", 1, 1, "a", "wrong", hint="right")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    painted = problem_text([problem], Terminal())
    assert "\x1b[" in painted
    assert click.unstyle(painted) == "c.json:1:1: error: wrong\nhint: right"
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)
        assert "\x1b[" not in problem_text([problem], Terminal())
        monkeypatch.setenv("TERM", "xterm")


def least_seconds(*command):
    times = []
    for _ in range(3):
        before = seconds_of_children()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        times.append(seconds_of_children() - before)
    return min(times)


def seconds_of_children():
    """Of the processor, where the system tells: other work may run beside the tests."""
    if sys.platform == "win32":
        return time.perf_counter()
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_starts_fast(project):
    bare = least_seconds("-c", "pass")
    # Twice the figures promised (8 and 30), because what runs beside the tests takes caches too.
    assert least_seconds("-m", "simpletune", "--help") < 16 * bare
    assert least_seconds("-m", "simpletune", "validate") < 60 * bare


@pytest.mark.parametrize("arguments", [["--help"], ["validate"], ["validate", "--help"]])
def test_loads_nothing_heavy(project, arguments):
    code = f"""
import sys
from simpletune.cli.main import run
run({arguments})
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.endswith("[]\n")


def test_an_error_on_a_terminal_breaks_between_words(monkeypatch, capsys):
    error = UsageError("a sentence of words " * 8, "do this " * 15)
    show_error(error)
    assert len(capsys.readouterr().err.splitlines()) == 2  # piped: a line each
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    show_error(error)
    err = capsys.readouterr().err
    assert all(len(line) <= 40 for line in err.splitlines())
    assert err.split() == f"error: {error.message} hint: {error.hint}".split()


def test_what_an_error_names_does_not_steer_the_terminal(capsys):
    show_error(UsageError("it is for \x1b]0;evil\x07\udc80\nand more", "mind \x1b[2J"))
    assert capsys.readouterr().err == ("error: it is for \\x1b]0;evil\\x07\\udc80\nand more\nhint: mind \\x1b[2J\n")
