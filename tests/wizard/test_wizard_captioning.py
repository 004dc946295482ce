"""Captions that a model writes: offered after the files are there, and the files train whatever comes of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from script import Scripted, Typed, always, draw, facts

from simpletune.config.validate import check
from simpletune.data.captioning.target import find_target
from simpletune.wizard import captioning, checks
from simpletune.wizard.session import Outcome, Session
from simpletune.wizard.start import read_base
from simpletune.wizard.state import Answer
from simpletune.wizard.unattended import answer_all

COMMAND = "simpletune caption {} --dataset pictures --replace"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMPLETUNE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(checks, "checks", lambda *_args, **_more: iter(()))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    draw(tmp_path / "pictures", 5, texts=False, names="IMG_{}")
    return tmp_path / "project" / "config.json"


def use(config: Path, run: Callable[[Sequence[str]], int], **answers: Any) -> tuple[Outcome, Scripted]:
    given = {"data.0.folder": Typed(str(config.parents[1] / "pictures")), "data.0.captions": "model", "train": "now"}
    prompter = Scripted(always({**given, **answers}))
    session = Session(prompter, config, {})
    session.facts, session.run_captioner = facts(config.parent), run
    return session.run(lambda _base: {}), prompter


def entry_of(config: Path) -> dict[str, Any]:
    [entry] = json.loads((config.parent / "multidatabackend.json").read_text())
    return dict(entry)


def captions(command: Sequence[str]) -> int:
    """What `simpletune caption` does to the files when every picture has its caption."""
    assert command[3:] == ["caption", *command[4:]]
    target = find_target(Path(command[4]), command[command.index("--dataset") + 1])
    assert target.captions is not None
    target.captions.parent.mkdir()
    rows = [json.dumps({"file_name": file.name, "caption": "a ball"}) for file in target.source.list().files]
    target.captions.write_text("\n".join(rows))
    edit = target.edit()
    assert edit is not None
    edit.write()
    return 0


def test_captions_are_written_before_training_is_offered(config: Path) -> None:
    before: list[dict[str, Any]] = []

    def run(command: Sequence[str]) -> int:
        before.append(entry_of(config))
        assert [problem for problem in check(config).problems if problem.kind == "config"] == []
        return captions(command)

    outcome, prompter = use(config, run)
    assert outcome == Outcome(written=True, train=True)
    assert prompter.asked[-2:] == ["caption", "train"]
    assert (before[0]["caption_strategy"], before[0]["instance_prompt"]) == ("instanceprompt", "a picture of ohwx")
    after = entry_of(config)
    assert (after["caption_strategy"], after["metadata_path"]) == ("jsonl", "captions/pictures.jsonl")
    assert [problem for problem in check(config).problems if problem.kind == "config"] == []


@pytest.mark.parametrize("code", [130, 3, 1])
def test_what_stops_them_is_gone_on_with_by_one_command(config: Path, code: int) -> None:
    outcome, prompter = use(config, lambda _command: code)
    assert outcome == Outcome(written=True, train=False)
    assert "train" not in prompter.asked
    assert prompter.said[-3] == COMMAND.format(config)
    assert prompter.said[-1] == f"simpletune train {shlex.quote(str(config))}"
    assert entry_of(config)["caption_strategy"] == "instanceprompt"


def test_later(config: Path) -> None:
    runs: list[Sequence[str]] = []
    outcome, prompter = use(config, lambda command: len(runs.append(command) or ""), caption="later")
    assert (outcome.train, runs, prompter.said[-3]) == (False, [], COMMAND.format(config))


def test_nobody_asked_is_told_the_command(config: Path) -> None:
    answers = {"model": "tiny", "data.0.folder": str(config.parents[1] / "pictures"), "data.0.captions": "model"}
    given = {name: Answer(value) for name, value in answers.items()}
    state = answer_all(facts(config.parent), read_base(config), given).state
    assert state.images[0]["caption_strategy"] == "instanceprompt"
    assert captioning.later(state)[-1] == COMMAND.format(config)


def test_the_command_runs_on_this_terminal_and_gives_its_code() -> None:
    import sys

    assert captioning.on_this_terminal([sys.executable, "-S", "-c", "raise SystemExit(7)"]) == 7
