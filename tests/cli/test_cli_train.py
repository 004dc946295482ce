"""`simpletune train`: what is said on the way and at the end; quietly, when it is stopped, of a finished run."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from project import Project, make_project

from simpletune.cli.main import run
from simpletune.trainer.session import Session

Train = Callable[..., tuple[int, list[str]]]
SUMMARY = """
done: 4 steps in TIME
  adapter   output/pytorch_lora_weights.safetensors (SIZE, rank 4)
  pictures  output/gallery.png: base beside tuned
  plots     output/plots.png
  card      output/README.md
  held out  loss N -> N, on 2 pictures kept back
  time      TIMES
  speed     N images/s while training
  memory    N GiB at most, in PHASE

next
  simpletune report output --open                 all of it on one page
  simpletune generate config.json --prompt "..."  pictures of what you like
  simpletune evaluate config.json                 how good it is, in figures
  simpletune push output                          to the hub, private
"""


@pytest.fixture
def made(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = make_project(tmp_path / "p", num_eval_images=2, validation_prompt="a red ball")
    monkeypatch.chdir(project.folder)
    return project


@pytest.fixture
def train(capsys: pytest.CaptureFixture[str]) -> Train:
    def call(*arguments: str) -> tuple[int, list[str]]:
        code = run(["train", *arguments])
        shown = capsys.readouterr()
        assert shown.out == ""
        assert not {"\x1b", "\r"} & set(shown.err)
        return code, shown.err.splitlines()

    return call


def settled(lines: list[str]) -> str:
    """The summary, what differs from run to run replaced."""
    text = "\n".join([*lines[max(i for i, line in enumerate(lines) if line.startswith("done: ")) - 1 :], ""])
    text = re.sub(r"steps in .*", "steps in TIME", text)
    text = re.sub(r"\([\d.]+ KiB", "(SIZE", text)
    text = re.sub(r"  time      .*(\n {12}.*)*", "  time      TIMES", text)
    text = re.sub(r"in (train|validate|load|encode \w+)\n", "in PHASE\n", text)
    text = re.sub(r"[\d.]+(?= images/s)", "N", text)  # a rate may be a whole number
    return re.sub(r"\b\d+\.\d+\b", "N", text)


def test_in_a_pipe_lines_on_the_way_and_the_summary_then_as_it_was(made: Project, train: Train) -> None:
    code, lines = train()
    assert code == 0
    assert settled(lines) == SUMMARY
    at = next(i for i, line in enumerate(lines) if line.startswith("Training: 4 steps, "))
    said = [
        line for line in lines[at:] if re.match(r"step 4/4, loss [\d.]+, lr [\d.e-]+, norm [\d.]+, .* images/s, ", line)
    ]
    assert len(said) == 1
    assert "samples: output/samples/step-000004/prompt-64x64-42.png" in lines
    before = made.metrics()
    code, again = train("--quiet")
    assert code == 0
    assert again[:2] == ["", "done: 4 steps, all of them before this start"]
    assert again[-4:] == lines[-4:]
    assert made.metrics() == before


def test_quiet_says_nothing_on_the_way(made: Project, train: Train) -> None:
    made.set(max_train_steps=2, num_eval_images=0, validation_prompt=None)
    code, lines = train("--quiet")
    assert code == 0
    assert lines[0] == ""
    assert lines[1].startswith("done: 2 steps in ")
    assert '  held out  no pictures: "num_eval_images" keeps some back to judge by' in lines


def test_ctrl_c_says_what_is_saved_and_how_to_go_on(
    made: Project, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Session.advance

    def pressed(session: Session, batch: object) -> object:
        if session.step == 2:
            signal.raise_signal(signal.SIGINT)
        return advance(session, batch)

    monkeypatch.setattr(Session, "advance", pressed)
    code, lines = train("--set", "max_train_steps=8")
    assert code == 130
    text = "\n".join(lines)
    assert "\nTraining: stopped, at step 3/8 after " in text
    assert "\nstopped after step 3 of 8, " in text
    assert "  saved     output/checkpoint-3: the run goes on from there, nothing is lost" in text
    assert "  simpletune train config.json --set max_train_steps=8" in text
    assert lines[-1] == "hint: run the same command again to continue"
    monkeypatch.setattr(Session, "advance", advance)
    code, lines = train("--set", "max_train_steps=8")
    assert code == 0
    assert "Training: 8 steps, 3 already done, " in "\n".join(lines)
    assert any(line.startswith("done: 8 steps, 5 of them in ") for line in lines)


def test_quiet_and_plain_exclude_each_other(train: Train) -> None:
    for other in ("--plain", "--dry-run"):
        code, lines = train("--quiet", other)
        assert code == 2
        assert lines[0].startswith("error: --quiet says nothing")
