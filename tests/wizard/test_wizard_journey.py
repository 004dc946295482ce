"""The whole wizard in a real terminal: a first-timer's way, going back, stopping, losing the terminal, coming again.

The screens at 80 and 40 columns are kept in snapshots/; UPDATE_SNAPSHOTS=1 takes them again, to be looked at.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import document_screens
import pytest
from pty_screen import PtyScreen

SNAPSHOTS = Path(__file__).parent / "snapshots"
# What each question is recognized by, on the way of somebody who presses Enter and types one path.
QUESTIONS = (
    "How much do you want", "What do you want to train on", "Which model", "Where is the model",
    "Where are the pictures", "Where do the captions", "At which resolution", "Add another folder",
    "is the base model kept",
    "are the text encoders", "Which rank", "How long does it", "Which sample pictures", "Where does the result",
)  # fmt: skip


@pytest.fixture
def project() -> Iterator[Path]:
    """A folder with 24 captioned pictures in `paintings`, named so that paths are as long on every machine."""
    with document_screens.home() as folder:
        yield folder / "sd3"


def wizard(project: Path, columns: int = 80, rows: int = 30, **environment: str) -> PtyScreen:
    where: dict[str, str | None] = {"SIMPLETUNE_STATE": str(project / "state"), "HOME": str(project.parent)}
    command = [sys.executable, document_screens.__file__, "config.json"]
    return PtyScreen(command, columns, rows, {**where, **environment}, project)


def go_through(terminal: PtyScreen, last: str = "Is this right?") -> list[list[str]]:
    """Press Enter at every question up to the one that asks `last`, and keep each screen."""
    screens = []
    for question in QUESTIONS:
        screens.append(terminal.wait_for(question))
        if last == question:
            return screens
        terminal.press(*(["paintings"] if question == "Where are the pictures" else []), "enter")
    screens.append(terminal.wait_for("Is this right?"))
    return screens


def write(terminal: PtyScreen) -> list[str]:
    terminal.wait_for("Is this right?")
    document_screens._to_row(terminal, "Write the files")
    terminal.wait_for("Write this?")
    terminal.press("enter")
    return terminal.wait_for("Then: simpletune train")


def files(project: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(project.glob("*.json"))}


def direct(project: Path, **answers: object) -> dict[str, str]:
    """The files that the same answers make without a terminal."""
    (project / "answers").write_text(json.dumps({"data.0.folder": "paintings", **answers}))
    subprocess.run(
        [sys.executable, document_screens.__file__, "direct/config.json", "--answers", "answers", "--yes"],
        cwd=project, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=True, capture_output=True,
    )  # fmt: skip
    return {name: text.replace("../paintings", "paintings") for name, text in files(project / "direct").items()}


@pytest.mark.parametrize("columns", [80, 40])
def test_a_first_time(project: Path, columns: int) -> None:
    with wizard(project, columns) as terminal:
        screens = go_through(terminal)
        terminal.press("enter")
        screens.append(terminal.wait_for("Write this?"))
        terminal.press("enter")
        screens.append(terminal.wait_for("Then: simpletune train"))
        assert terminal.end() == 0
    assert all(len(line) <= columns for screen in screens for line in screen)
    home = str(project.parent)
    drawn = f"\n{'=' * columns}\n".join("\n".join(screen) for screen in screens).replace(home, "/home/someone") + "\n"
    kept = SNAPSHOTS / f"journey-{columns}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(drawn, encoding="utf-8")
    assert drawn == kept.read_text(encoding="utf-8")
    assert files(project) == direct(project)
    assert len(json.loads(files(project)["config.json"])) <= 30
    assert not list((project / "state" / "drafts").iterdir())


def test_going_back_and_answering_differently(project: Path) -> None:
    with wizard(project) as terminal:
        go_through(terminal, last="How long does it")
        terminal.press("shift+tab")
        terminal.wait_for("Which rank")
        terminal.press("shift+tab")
        terminal.wait_for("are the text encoders")
        terminal.press("down", "enter")  # the rank is kept: the length is asked next
        terminal.wait_for("How long does it")
        terminal.press("enter")
        terminal.wait_for("Which sample pictures")
        terminal.press("enter")
        terminal.wait_for("Where does the result")
        terminal.press("enter")
        write(terminal)
    assert json.loads(files(project)["config.json"])["text_encoder_3_precision"] == "int4-quanto"
    assert files(project) == direct(project, **{"precision.text": "t5-int4"})


def test_ctrl_c_keeps_a_draft_that_the_next_start_goes_on_with(project: Path) -> None:
    with wizard(project) as terminal:
        go_through(terminal, last="Which rank")
        terminal.press("ctrl-c")
        terminal.wait_for("stopped: your answers are kept")
        assert terminal.end() == 130
    assert not files(project)
    (draft,) = (project / "state" / "drafts").iterdir()
    assert stat.S_IMODE(draft.stat().st_mode) == 0o600
    with wizard(project) as terminal:
        terminal.wait_for("Go on where you stopped?")
        terminal.press("enter")
        terminal.wait_for("Which rank")
        terminal.press("enter")
        for question in QUESTIONS[QUESTIONS.index("Which rank") + 1 :]:
            terminal.wait_for(question)
            terminal.press("enter")
        write(terminal)
    assert files(project) == direct(project)


@pytest.mark.parametrize("how", ["hang up", "kill"])
def test_a_lost_terminal_and_a_killed_wizard_keep_the_answers(project: Path, how: str) -> None:
    with wizard(project) as terminal:
        go_through(terminal, last="Where are the pictures")
        if how == "kill":
            terminal.kill()
        else:
            assert terminal.hang_up() == 130
    assert not files(project)
    with wizard(project) as terminal:
        terminal.wait_for("Go on where you stopped?", "4 answers")


def test_a_second_time_shows_the_difference_and_changes_only_that(project: Path) -> None:
    direct(project)
    for name in ("config.json", "multidatabackend.json", "validation_prompts.json"):
        text = (project / "direct" / name).read_text().replace("../paintings", "paintings")
        (project / name).write_text(text.replace('"learning_rate": 0.0001', '"learning_rate": 1e-4, "seed": 7'))
    before = files(project)
    with wizard(project, rows=60) as terminal:
        terminal.wait_for("is here already")
        terminal.press("enter")
        terminal.wait_for("Is this right?")
        document_screens._to_row(terminal, "Rank")
        terminal.wait_for("Which rank")
        terminal.press("down", "enter")
        terminal.wait_for("Is this right?", "(was 16)")
        document_screens._to_row(terminal, "Write the files")
        shown = [line for line in terminal.wait_for("Write this?") if line.startswith(("-", "+"))]
        terminal.press("enter")
        terminal.wait_for("The old ones are kept as config.json.bak")
    assert shown == ["--- config.json", "+++ config.json", '-  "lora_rank": 16,', '+  "lora_rank": 32,']
    after = files(project)
    assert after["config.json"] == before["config.json"].replace('"lora_rank": 16', '"lora_rank": 32')
    assert {**after, "config.json": ""} == {**before, "config.json": ""}


def test_as_plain_lines(project: Path) -> None:
    with wizard(project, rows=90, ACCESSIBLE="1") as terminal:
        for question in QUESTIONS:
            terminal.wait_for(question)
            terminal.press(*(["paintings"] if question == "Where are the pictures" else []), "enter")
        terminal.wait_for("Is this right?")
        terminal.press("enter")
        terminal.wait_for("Write this?")
        terminal.press("enter")
        terminal.wait_for("Then: simpletune train")
        assert "\x1b[" not in terminal.raw.decode()
    assert files(project) == direct(project)
