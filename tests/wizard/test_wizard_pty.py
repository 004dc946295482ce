"""Questions in a real pseudo-terminal: what a person sees, at 80 and 40 columns, with colours and without."""

from __future__ import annotations

import signal
import sys

import pytest

pty_screen = pytest.importorskip("pty_screen")
PtyScreen = pty_screen.PtyScreen

# Asks three questions and says what came of them; a hang-up or Ctrl-C ends it in a way of its own.
SCRIPT = """
import sys, time
from simpletune.wizard.prompters import may_prompt, prompter
from simpletune.wizard.screen import Back, Option, Screen

MODEL = Screen(
    "model", "1 of 3 · Model", "Which model should learn?", "The base that is trained on.",
    options=(
        Option("m", "sd3-medium", "2.0B parameters"),
        Option("l", "sd3.5-large", disabled="needs 24 GB, this card has 12 GB"),
        Option("t", "小さい tiny", "built in, for trying things out; it learns nothing that is of any use"),
    ),
    recommended="m", reason="fits a 12 GB card",
    panel=("Memory   encode text 5.1 · encode images 2.2 · train 9.8 · validate 8.0 of 11.2 GiB",),
)
STEPS = Screen("steps", "2 of 3 · Steps", "How many steps?", "One step shows one batch.", default="15",
               check=lambda text: None if text.isdigit() else f"{text!r} is not a whole number")
FOLDER = Screen("data", "3 of 3 · Pictures", "Where are the pictures?", "A folder.", path="folder")

def main():
    assert may_prompt()
    ask = prompter()
    if len(sys.argv) > 1:
        with ask.busy("Starting"):
            time.sleep(1)
    answers = []
    while len(answers) < 3:
        try:
            answers.append(ask.ask((MODEL, STEPS, FOLDER)[len(answers)]))
        except Back:
            answers[-1:] = []
    with ask.busy("Looking at the pictures"):
        time.sleep(0.3)
    ask.say(["", "answers  " + " ".join(map(ascii, answers)) + " and a line that is too long for most terminals"])
    ask.show_diff(["-  1", "+  2"])

try:
    main()
except KeyboardInterrupt:
    print("draft kept")
    sys.exit(130)
except EOFError:
    sys.exit(3)
"""


def running(*arguments, columns=80, rows=24, cwd=None, **environment):
    return PtyScreen([sys.executable, "-c", SCRIPT, *arguments], columns, rows, environment, cwd)


def test_a_way_through(tmp_path):
    (tmp_path / "my pictures [1] 🐈").mkdir()
    with running(cwd=tmp_path) as terminal:
        assert terminal.wait_for("Which model", "Ctrl-C stops") == [
            "",
            "1 of 3 · Model",
            "Which model should learn?",
            "The base that is trained on.",
            "",
            "  Memory   encode text 5.1 · encode images 2.2 · train 9.8 · validate 8.0 of",
            "           11.2 GiB",
            "",
            " › sd3-medium   2.0B parameters · recommended: fits a 12 GB card",
            "   sd3.5-large  unavailable: needs 24 GB, this card has 12 GB",
            "   小さい tiny  built in, for trying things out; it learns nothing that is of a…",
            "   Back         to the question before",
            "",
            "",
            "",
            "Up/Down and Enter choose · Shift+Tab goes back · Ctrl-C stops and keeps a draft",
        ]
        terminal.press("down")
        terminal.wait_for("it learns nothing that is of any use")
        terminal.press("enter")
        terminal.wait_for("How many steps")
        terminal.press("x", "enter")
        terminal.wait_for("Problem: '15x' is not a whole number")
        assert terminal.style_at("Problem").bold
        terminal.press("backspace", "enter")
        terminal.wait_for("Where are the pictures")
        terminal.press("my", "tab")
        terminal.wait_for("? Pictures my pictures [1] 🐈/")
        terminal.press("enter")
        terminal.wait_for("Looking at the pictures ...")
        assert terminal.end() == 0
        assert terminal.lines() == [
            "? Model                 小さい tiny",
            "? Steps                 15",
            "? Pictures              my pictures [1] 🐈/",
            "",
            "answers  't' '15' 'my pictures [1] \\U0001f408/' and a line that is too long for",
            "         most terminals",
            "-  1",
            "+  2",
        ]
        assert terminal.style_at("+  2").fg == "green"
        assert b"\x1b[6n" not in terminal.raw  # a slow terminal's reply would be taken for typed text


def test_40_columns():
    with running(columns=40) as terminal:
        assert terminal.wait_for("Which model", "keeps a draft") == [
            "",
            "1 of 3 · Model",
            "Which model should learn?",
            "The base that is trained on.",
            "",
            "  Memory   encode text 5.1 · encode",
            "           images 2.2 · train 9.8 ·",
            "           validate 8.0 of 11.2 GiB",
            "",
            " › sd3-medium   recommended",
            "   sd3.5-large  unavailable: needs 24",
            "                GB, this card has 12 GB",
            "   小さい tiny  built in, for trying th…",
            "   Back",
            "",
            "  2.0B parameters",
            "  recommended: fits a 12 GB card",
            "",
            "Enter chooses · Shift+Tab goes back",
            "Ctrl-C stops and keeps a draft",
        ]


def test_going_back_and_stopping():
    with running() as terminal:
        terminal.wait_for("Which model")
        terminal.press("enter")
        terminal.wait_for("How many steps")
        terminal.press("shift+tab")
        terminal.wait_for("Which model")
        terminal.press("alt+enter", "end", "up", "enter")
        terminal.wait_for("How many steps")
        terminal.press("ctrl-c")
        assert terminal.end() == 130
        assert terminal.lines() == [
            "? Model                 sd3-medium",
            "? Model                 小さい tiny",
            "draft kept",
        ]


def test_a_resized_window_is_laid_out_again():
    with running() as terminal:
        wide = terminal.wait_for("Which model", "Ctrl-C")
        terminal.resize(60, 24)
        terminal.wait_for("it learns …", "Ctrl-C")
        terminal.resize(80, 24)
        terminal.wait_for("nothing that is of a…", "Ctrl-C")
        assert [line for line in terminal.settle() if line] == [line for line in wide if line]


def test_keys_pressed_while_nothing_is_asked_are_no_answers():
    with running("busy") as terminal:
        terminal.wait_for("Starting ...")
        terminal.press("enter", "xyz", "enter")
        assert terminal.lines() == ["Starting ..."]
        terminal.wait_for("Which model", "Ctrl-C")
        assert terminal.lines()[1] == "1 of 3 · Model"


def test_ctrl_c_while_nothing_is_asked():
    with running("busy") as terminal:
        terminal.wait_for("Starting ...")
        terminal.press("ctrl-c")
        assert terminal.end() == 130
        assert terminal.lines() == ["draft kept"]


def colours(terminal):
    return {cell.fg for row in terminal._screen.buffer.values() for cell in row.values()}


def test_without_colour_the_pointer_is_bold_and_marked():
    with running(NO_COLOR="1") as terminal:
        terminal.wait_for("Which model", "Ctrl-C")
        assert colours(terminal) == {"default"}
        assert terminal.style_at("sd3-medium").bold
        assert not terminal.style_at("sd3.5-large").bold
    with running() as terminal:
        terminal.wait_for("Which model", "Ctrl-C")
        assert colours(terminal) > {"default"}


def test_a_terminal_without_unicode():
    with running(PYTHONIOENCODING="ascii", PYTHONUTF8="0") as terminal:
        lines = terminal.wait_for("Which model", "Ctrl-C")
        assert all(line.isascii() for line in lines)
        assert " > sd3-medium   2.0B parameters - recommended: fits a 12 GB card" in lines
        assert "1 of 3 - Model" in lines


@pytest.mark.parametrize("setting", [{"ACCESSIBLE": "1"}, {"TERM": "dumb"}])
def test_plain_lines(setting):
    with running(**setting) as terminal:
        terminal.wait_for("Number, Enter for 1")
        terminal.press("3", "enter")
        terminal.wait_for('Steps, Enter for "15"')
        terminal.press("enter")
        terminal.wait_for("Pictures, b to go back")
        terminal.press("/tmp", "enter")
        assert terminal.end() == 0
        assert b"\x1b" not in terminal.raw
        assert "answers  't' '15' '/tmp'" in terminal.text()


@pytest.mark.parametrize("setting", [{}, {"ACCESSIBLE": "1"}])
def test_a_lost_terminal_is_the_end_of_the_input(setting):
    with running(**setting) as terminal:
        terminal.wait_for("Which model")
        assert terminal.hang_up() == 3
    with running("busy", **setting) as terminal:
        terminal.wait_for("Starting ...")
        assert terminal.hang_up() == 3


@pytest.mark.parametrize("setting", [{}, {"ACCESSIBLE": "1"}])
def test_a_hang_up_that_is_ignored_stays_ignored(setting):
    """As under nohup; a terminal that is really gone is the end of the input all the same."""
    ignoring = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{SCRIPT}"
    with PtyScreen([sys.executable, "-c", ignoring, "busy"], environment=setting) as terminal:
        terminal.wait_for("Starting ...")
        terminal.kill(signal.SIGHUP)
        terminal.wait_for("Which model")
        terminal.kill(signal.SIGHUP)
        terminal.press("enter")
        terminal.wait_for("How many steps")
        assert terminal.hang_up() == 3


@pytest.mark.parametrize("setting", [{}, {"ACCESSIBLE": "1"}])
def test_ctrl_d(setting):
    with running(**setting) as terminal:
        terminal.wait_for("Which model", "back")
        terminal.press("ctrl-d")
        assert terminal.end() == 3
