"""Every way through the wizard ends in files that are valid, the same each time, and train."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from script import MACHINES, Typed, always, draw, facts, visit, write
from walks import Walked, walk_all

from simpletune.config.validate import Problem, check, errors
from simpletune.progress import SilentReporter
from simpletune.wizard.compose import changes, checked, contents
from simpletune.wizard.start import read_base
from simpletune.wizard.state import Answer
from simpletune.wizard.unattended import answer_all

WALKED_ON = ("none", "8gb", "unusable", "apple")
MOST_KEYS = 30


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> list[Walked]:
    """All walks; their files are written."""
    return walk_all(tmp_path_factory.mktemp("walks"), WALKED_ON, lambda walked: write(walked.visit))


def of_the_files(problems: Iterable[Problem]) -> list[str]:
    """What is wrong with the files themselves, warnings too. That this machine has no such GPU is none of it."""
    return [f"{found.path}: {found.message}" for found in problems if found.kind == "config"]


def test_every_walk_is_valid_before_and_after_it_is_written(walks: list[Walked]) -> None:
    for walked in walks:
        planned, written = checked(walked.visit.state).problems, check(walked.config).problems
        assert of_the_files(written) == [], walked
        assert [found.message for found in planned] == [found.message for found in written], walked


def test_every_walk_has_few_keys(walks: list[Walked]) -> None:
    assert max(len(walked.visit.config) for walked in walks) <= MOST_KEYS


def test_the_same_answers_give_the_same_bytes_whoever_asks(walks: list[Walked]) -> None:
    """The interview's answers as a file for --answers would hold them, for a config.json that isn't there yet."""
    for walked in walks:
        config = walked.config.with_name("again.json")
        answers = json.loads(json.dumps(walked.visit.answers))
        world = facts(config.parent, walked.machine)
        reached = answer_all(world, read_base(config), {name: Answer(value) for name, value in answers.items()})
        made = {
            path.with_name("config.json") if path == config else path: content
            for path, content in contents(reached.state).items()
        }
        assert made == contents(walked.visit.state), walked


def test_going_through_written_files_without_changing_anything_changes_nothing(walks: list[Walked]) -> None:
    for walked in walks:
        world = facts(walked.config.parent, walked.machine)
        seen = visit(walked.config, always({}), world)
        assert seen.prompter.asked == ["review"], walked
        assert changes(contents(seen.state)) == {}, walked
        assert [option.label for option in seen.prompter.screens[0].options or () if "*" in option.label] == [], walked


def test_going_through_all_questions_again_changes_nothing_either(walks: list[Walked]) -> None:
    """Whatever stands in the files is what each question comes with."""
    for walked in walks[:: max(1, len(walks) // 8)]:
        world = facts(walked.config.parent, walked.machine)
        seen = visit(walked.config, lambda screen: screen.default, world, through=True)
        assert len(seen.prompter.screens) > 8
        assert changes(contents(seen.state)) == {}, walked
