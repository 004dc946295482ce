"""The training screen in a pseudo-terminal: what a person sees while it goes on, and what is left of it."""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "wizard"))
from pty_screen import PtyScreen

PROGRAM = Path(__file__).with_name("training_run.py")
LEFT = ["before", "warning: the first of two lines", "and the second", "from somebody else"]


def shown(what="ends", folder=None, **environment):
    command = [sys.executable, str(PROGRAM), what, *([] if folder is None else [str(folder)])]
    return PtyScreen(command, 80, 24, environment)


def cursor_is_back(terminal):
    return terminal.raw.rfind(b"\x1b[?25h") > terminal.raw.rfind(b"\x1b[?25l")


def of_the_display(lines):
    return [line for line in lines if line.startswith(("Training  ", "  loss", "  images/s", "  samples"))]


def test_while_it_goes_on_and_after_it(tmp_path):
    with shown(folder=tmp_path) as terminal:
        lines = terminal.wait_for("samples output/samples/step-000010", " 15/40 ")
        display = of_the_display(lines)
        assert lines[-4:] == display
        assert display[0].endswith(" left")
        assert "█" in display[1]
        assert "memory   0.5/22.4 GiB" in display[2]
        assert display[3] == "  samples output/samples/step-000010"
        (tmp_path / "15").touch()
        (tmp_path / "30").touch()
        assert terminal.end() == 0
        left = terminal.lines()
        assert cursor_is_back(terminal)
    assert left[:4] == ["before", "warning: the first of two lines", "and the second", "from somebody else"]
    assert left[-2].startswith("Sampling step-000010: done, 2 images in ")
    assert left[-1] == "after"
    assert of_the_display(left) == []


def test_ctrl_c_leaves_a_line_and_the_cursor(tmp_path):
    with shown(folder=tmp_path) as terminal:
        terminal.wait_for(" 15/40 ")
        terminal.press("ctrl-c")
        assert terminal.end() == 0
        left = terminal.lines()
        assert cursor_is_back(terminal)
    assert left[-3].startswith("Training: stopped, at step 15/40 after ")
    assert left[-2:] == ["ended by KeyboardInterrupt", "after"]
    assert of_the_display(left) == []


def test_a_run_that_fails_ends_the_display_before_its_error():
    with shown("fails") as terminal:
        assert terminal.end() == 0
        left = terminal.lines()
        assert cursor_is_back(terminal)
    assert left[-3].startswith("Training: stopped, at step 20/40 after ")
    assert left[-2:] == ["ended by TrainingFailed", "after"]


def test_a_resized_terminal_goes_on_at_its_new_width(tmp_path):
    with shown(folder=tmp_path) as terminal:
        assert "%" in "".join(terminal.wait_for(" 15/40 "))
        terminal.resize(50, 24)
        (tmp_path / "15").touch()
        narrow = terminal.wait_for(" 30/40 ")
        assert "%" not in "".join(narrow)
        assert "learning rate" in narrow[-3]
        terminal.resize(100, 24)
        (tmp_path / "30").touch()
        assert terminal.end() == 0
        assert terminal.lines()[-1] == "after"


def raw_output(folder, **environment):
    """All that a run wrote, which was on the screen after its 15th step."""
    with shown(folder=folder, **environment) as terminal:
        terminal.wait_for("15/40")
        (folder / "15").touch()
        (folder / "30").touch()
        assert terminal.end() == 0
        return terminal.raw.decode("utf-8")


def test_without_colours(tmp_path):
    raw = raw_output(tmp_path, NO_COLOR="1")
    assert "━" in raw
    assert "\x1b[36m" not in raw


def test_where_the_encoding_has_no_blocks(tmp_path):
    raw = raw_output(tmp_path, PYTHONIOENCODING="ascii")
    assert "##---" in raw
    assert raw.isascii()


def test_a_terminal_that_cannot_move_its_cursor():
    with shown(TERM="dumb") as terminal:
        assert terminal.end() == 0
        assert b"\x1b" not in terminal.raw
        assert "step 40/40, loss 0.0292" in terminal.text()


def test_in_a_pipe_there_is_nothing_but_lines():
    done = subprocess.run([sys.executable, str(PROGRAM), "ends"], capture_output=True, text=True, check=True)
    assert done.stdout == "from somebody else\n"
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    assert "step 40/40, loss 0.0292, lr 1.0e-4, norm 0.25, 8 images/s, 0.5 GiB, " in done.stderr
