"""What the shells are told, and what they make of it."""

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simpletune.cli.completion import joined
from simpletune.cli.keys import KeyValue
from simpletune.cli.main import COMMANDS, run


def answers(shell, *words):
    """What is completed after `words`, of which the last is the one being typed."""
    environment = {
        **os.environ,
        "_SIMPLETUNE_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": "\n".join(["simpletune", *words]),
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words)),
    }
    command = [sys.executable, "-m", "simpletune"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_commands():
    assert answers("bash", "") == [f"plain,{name}" for name in COMMANDS]
    assert answers("fish", "comp") == [f"plain,completion\t{COMMANDS['completion'].summary}"]


def test_options():
    assert "plain,--dry-run" in answers("bash", "train", "--")


def test_keys():
    assert "plain,lora_rank=" in answers("bash", "train", "--set", "lora_")
    assert "plain,dataset.0.repeats=" in answers("bash", "validate", "--set", "dataset.0.re")
    assert "plain,dataset.repeats" in answers("bash", "explain", "dataset.re")
    assert "plain\nlora_rank\nLoRA rank" in "\n".join(answers("zsh", "explain", "lora_r"))


@pytest.mark.parametrize("command", ["train", "validate"])
def test_values(command):
    assert answers("fish", command, "--set", "optimizer=lio") == ["plain,optimizer=lion"]
    assert answers("fish", command, "--set", "dataset.3.crop=") == [
        "plain,dataset.3.crop=true",
        "plain,dataset.3.crop=false",
    ]


def test_bash_which_takes_a_value_for_three_words():
    assert answers("bash", "train", "--set", "optimizer", "=", "lio") == ["plain,lion"]
    assert answers("bash", "train", "--set", "use_t5", "=") == ["plain,true", "plain,false"]
    assert joined(["train", "--set", "a", "=", "b", "x"], "--dry") == (["train", "--set", "a=b", "x"], "--dry")
    assert joined(["train", "--set", "a"], "=") == (["train", "--set"], "a=")


def test_the_schemas_are_all_that_is_read():
    code = """
import sys
from click.testing import CliRunner
from simpletune.cli.main import run
sys.argv = ["simpletune"]
try:
    run()
except SystemExit:
    pass
heavy = {"torch", "jsonschema", "questionary", "rich", "PIL", "numpy", "huggingface_hub"} & set(sys.modules)
print(sorted(heavy), file=sys.stderr)
"""
    environment = {**os.environ, "_SIMPLETUNE_COMPLETE": "bash_complete", "COMP_WORDS": "simpletune\ntrain\n--set\nl",
                   "COMP_CWORD": "3"}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "lora_rank=" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_says_where_to_put_it(capsys, shell):
    assert run(["completion", shell]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("# To complete in every new")
    if shutil.which(shell):
        script = subprocess.run([sys.executable, "-m", "simpletune", "completion", shell], capture_output=True).stdout
        assert subprocess.run([shell, "-n"], input=script, capture_output=True).stderr == b""


def test_an_unknown_shell(capsys):
    assert run(["completion", "tcsh"]) == 2
    assert "fish" in capsys.readouterr().err


def read_until(descriptor, text, seconds=20):
    """What a pseudo-terminal shows until `text` is among it."""
    seen, end = "", time.monotonic() + seconds
    while text not in seen:
        assert time.monotonic() < end, f"no {text!r} in {seen!r}"
        if select.select([descriptor], [], [], 0.1)[0]:
            seen += os.read(descriptor, 4096).decode()
    return seen


def test_a_real_bash(tmp_path):
    """Typed into a bash on a pseudo-terminal, with Tab."""
    pty = pytest.importorskip("pty")
    program = shutil.which("simpletune", path=str(Path(sys.executable).parent))
    if program is None or shutil.which("bash") is None:
        pytest.skip("needs bash and an installed simpletune")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PATH": f"{Path(program).parent}:{os.environ['PATH']}", "PS1": "> ", "TERM": "dumb"}
    command = ["bash", "--norc", "--noprofile", "-i"]
    bash = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=tmp_path, start_new_session=True
    )
    try:
        os.write(ours, b'bind "set enable-bracketed-paste off"; eval "$(simpletune completion bash)"; echo rea""dy\n')
        read_until(ours, "ready")
        os.write(ours, b"simpletune train --set lora_ra\t")
        read_until(ours, "lora_rank=")
        os.write(ours, b"8 --set optimizer=li\t")
        assert "8 --set optimizer=lion " in read_until(ours, "lion ")  # no space had followed "lora_rank="
    finally:
        bash.kill()
        bash.wait()
        os.close(ours)
        os.close(theirs)


def test_values_are_taken_as_they_are():
    """Completion must not change what `--set` accepts."""
    assert KeyValue().convert("anything=x=y", None, None) == "anything=x=y"
