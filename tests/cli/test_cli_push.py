"""`simpletune push` and `simpletune card` as a person has them: a process of its own, its exit code and its words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_uploads import serve_uploads

sys.path.append(str(Path(__file__).parents[1] / "results"))
from finished_runs import make_run, take_pictures

from simpletune.cli.main import run as command

CANARY = "canary-9f2c-of-no-known-shape"


@pytest.fixture
def run(tmp_path):
    output = make_run(tmp_path / "project", validation_prompt="a cat")
    take_pictures(output, {"prompt": "a cat"})
    return output


def process(folder, endpoint, *arguments):
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "HUGGING", "PYTEST")) or key == "HF_HOME"
    }
    environment |= {"HF_ENDPOINT": endpoint, "HF_TOKEN": CANARY, "HF_HOME": str(folder / "hf"), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-m", "simpletune", "push", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_run_is_pushed_twice(run):
    folder = run.parents[1]
    with serve_uploads(CANARY) as hub:
        code, said = process(folder, hub.endpoint, "--repo", "cats", "--public")
        assert (code, f"uploaded: {hub.endpoint}/ada/cats (public)" in said) == (0, True), said
        again, told = process(folder, hub.endpoint, str(run), "--repo", "ada/cats", "--public")
        assert (again, "nothing has changed since the last upload" in told) == (0, True), told
        everything = said + told + "".join(str(content) for content in hub.repos["ada/cats"].files.values())
    assert CANARY not in everything
    assert "Traceback" not in everything
    assert not any(CANARY.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_wrong_token(run):
    with serve_uploads("another") as hub:
        code, said = process(run.parents[1], hub.endpoint)
        assert (code, "doesn't accept the token" in said) == (3, True), said
        assert CANARY not in said


def test_the_card_of_a_run(run, monkeypatch, capsys):
    monkeypatch.chdir(run.parents[1])
    assert command(["card"]) == 0
    assert capsys.readouterr().out == "runs/balls/README.md (2 pictures)\n"
    (run / "README.md").write_text("mine")
    assert command(["card", "runs/balls"]) == 0
    assert "left as it is" in capsys.readouterr().out


@pytest.mark.parametrize(("named", "why"), [("nowhere", "nowhere"), ("private pictures", "no run's folder")])
@pytest.mark.parametrize("name", ["card", "push"])
def test_what_is_no_run(run, monkeypatch, capsys, name, named, why):
    monkeypatch.chdir(run.parents[1])
    assert command([name, named]) == 2
    assert why in capsys.readouterr().err
