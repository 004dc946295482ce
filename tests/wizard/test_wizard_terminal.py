"""Every key of the terminal's questions, pressed through prompt_toolkit's own input."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from simpletune.wizard import prompters
from simpletune.wizard.completion import PathCompletion
from simpletune.wizard.plain import PlainPrompter
from simpletune.wizard.screen import Back, Option, Screen
from simpletune.wizard.terminal import TerminalPrompter

DOWN, UP, HOME, END = "\x1b[B", "\x1b[A", "\x1b[H", "\x1b[F"
ENTER, ALT_ENTER, SHIFT_TAB, TAB = "\r", "\x1b\r", "\x1b[Z", "\t"
CTRL_C, CTRL_D, CTRL_O, CTRL_U, CTRL_N = "\x03", "\x04", "\x0f", "\x15", "\x0e"
PASTE = "\x1b[200~{}\x1b[201~"

MODEL = Screen(
    id="model",
    heading="3 of 14 · Model",
    title="Which model?",
    about="The base.",
    options=(
        Option("m", "sd3-medium", "2.0B"),
        Option("l", "sd3.5-large", disabled="needs 24 GB"),
        Option(None, "none"),
        Option("t", "tiny"),
    ),
    recommended="m",
)
STEPS = Screen(
    id="steps",
    heading="9 of 14 · Steps",
    title="How many steps?",
    about="",
    default=15,
    check=lambda text: None if text.isdigit() else f"{text!r} is not a whole number",
)
FOLDER = Screen("data", "4 of 14 · Pictures", "Where?", "", path="folder")


class Recorder(DummyOutput):
    """An output of 80 x 40 that keeps what is written to it."""

    def __init__(self):
        self.text = ""

    def write(self, data):
        self.text += data


@contextmanager
def pressing(keys):
    with create_pipe_input() as pipe:
        pipe.send_text(keys)
        pipe.close()  # a question that is not answered by `keys` ends with EOFError instead of waiting for ever
        yield TerminalPrompter(pipe, Recorder())


def answer(screen, keys):
    with pressing(keys) as prompter:
        return prompter.ask(screen)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (ENTER, "m"),
        (DOWN + ENTER, None),  # over the one that is unavailable; a value of None is a value
        (DOWN + DOWN + ENTER, "t"),
        (CTRL_N + ENTER, None),
        (DOWN + UP + ENTER, "m"),
        (UP + UP + ENTER, "t"),  # around the end, over Back
        (END + UP + ENTER, "t"),
        (END + HOME + ENTER, "m"),
        ("t" + ENTER, "t"),
        ("no" + ENTER, None),
        ("sd3.5" + ENTER, "m"),  # the only one that starts so is unavailable
        ("jkxyz" + ENTER, "m"),
        (PASTE.format("tiny\n") + ENTER, "m"),
        ("\n", "m"),  # Ctrl-J, what some programs send for Enter
    ],
)
def test_choosing(keys, value):
    assert answer(MODEL, keys) == value


@pytest.mark.parametrize(("keys", "value"), [("b", "beta"), ("bb", "bravo"), ("bbb", "beta"), ("br", "bravo")])
def test_letters_jump_to_the_next_option_that_starts_so(keys, value):
    names = replace(MODEL, options=tuple(Option(name, f"  * {name}") for name in ("alpha", "beta", "bravo")))
    assert answer(replace(names, can_go_back=False), keys + ENTER) == value


@pytest.mark.parametrize("keys", [ALT_ENTER, CTRL_O, "\x18\x05"])
def test_keys_that_would_accept_an_empty_answer_do_nothing(keys):
    assert answer(MODEL, keys + DOWN + DOWN + ENTER) == "t"


@pytest.mark.parametrize("keys", [SHIFT_TAB, END + ENTER, DOWN + SHIFT_TAB, "back" + ENTER])
def test_going_back_from_a_choice(keys):
    with pytest.raises(Back):
        answer(MODEL, keys)


def test_the_first_question_has_no_way_back():
    first = replace(MODEL, can_go_back=False)
    assert answer(first, SHIFT_TAB + END + ENTER) == "t"
    assert answer(replace(STEPS, can_go_back=False), SHIFT_TAB + ENTER) == "15"


@pytest.mark.parametrize("screen", [MODEL, STEPS, FOLDER])
@pytest.mark.parametrize(("key", "error"), [(CTRL_C, KeyboardInterrupt), (SHIFT_TAB, Back)])
def test_leaving(screen, key, error):
    with pytest.raises(error):
        answer(screen, key)


@pytest.mark.parametrize(("screen", "before"), [(MODEL, ""), (STEPS, CTRL_U), (FOLDER, "")])
def test_ctrl_d_is_the_end_of_the_input(screen, before):
    with pytest.raises(EOFError):
        answer(screen, before + CTRL_D)


def test_a_closed_terminal_is_the_end_of_the_input():
    with create_pipe_input() as pipe:
        pipe.close()
        with pytest.raises(EOFError):
            TerminalPrompter(pipe, Recorder()).ask(MODEL)


@pytest.mark.parametrize(
    ("screen", "keys", "text"),
    [
        (STEPS, ENTER, "15"),
        (STEPS, "0" + ENTER, "150"),
        (STEPS, CTRL_U + "7" + ENTER, "7"),
        (STEPS, ALT_ENTER + "0" + ENTER, "150"),
        (STEPS, PASTE.format("00") + ENTER, "1500"),
        (replace(STEPS, default=None, recommended=12), ENTER, "12"),
        (FOLDER, "~/my [set] 🐈/" + ENTER, "~/my [set] 🐈/"),
        (FOLDER, "s3://bucket/x" + ENTER, "s3://bucket/x"),
        (FOLDER, "/" + ENTER, "/"),
        (FOLDER, '"/data/my set"' + ENTER, "/data/my set"),
    ],
)
def test_typing(screen, keys, text):
    assert answer(screen, keys) == text


def test_an_answer_that_is_wrong_is_asked_again_with_what_was_typed():
    with pressing(CTRL_U + "ten" + ENTER + "\x7f\x7f\x7f12" + ENTER) as prompter:
        assert prompter.ask(STEPS) == "12"
        assert "Problem: 'ten' is not a whole number" in prompter._output.text


def test_what_is_no_text_is_asked_again():
    assert answer(replace(STEPS, check=None), PASTE.format("a\x07b") + ENTER + CTRL_U + "b" + ENTER) == "b"


def test_an_answer_stays_as_one_line():
    with pressing(DOWN + DOWN + ENTER) as prompter:
        prompter.ask(MODEL)
        assert prompter._output.text.endswith("? Model                 tiny\r\n")


def test_completion_takes_a_folder_and_goes_on(tmp_path):
    for name in ("my set [1] 🐈", "my other", "elsewhere"):
        (tmp_path / name).mkdir()
    start = replace(FOLDER, default=str(tmp_path) + os.sep)
    assert answer(start, "my set" + TAB + ENTER) in {
        str(tmp_path / "my set"),  # Enter came before the list was read, in its own thread
        str(tmp_path / "my set [1] 🐈") + os.sep,
    }


def test_tab_waits_for_a_folder_that_is_slow_to_look_at(tmp_path, monkeypatch):
    """Tab right after the letters: what could complete them is still being looked for, on a network drive for long."""
    (tmp_path / "cats").mkdir()
    look = PathCompletion._entries

    def slowly(self, folder, start):
        time.sleep(0.3)
        return look(self, folder, start)

    monkeypatch.setattr(PathCompletion, "_entries", slowly)
    with create_pipe_input() as pipe:
        enter = threading.Timer(1.5, lambda: (pipe.send_text(ENTER * 2), pipe.close()))
        pipe.send_text(str(tmp_path / "ca") + TAB)
        enter.start()
        assert TerminalPrompter(pipe, Recorder()).ask(FOLDER) == str(tmp_path / "cats") + os.sep
        enter.join()


def completions(typed, files=False):
    document = Document(typed)
    found = PathCompletion(files).get_completions(document, CompleteEvent())
    return [typed[: len(typed) + each.start_position] + each.text for each in found]


def test_completion_of_paths(tmp_path, monkeypatch):
    for name in ("Cats [1]", "cats 🐈", "dogs", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "cat.png").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    s = os.sep
    assert completions("~/ca") == [f"~/Cats [1]{s}", f"~/cats 🐈{s}"]
    assert completions("~/ca", files=True) == [f"~/Cats [1]{s}", f"~/cats 🐈{s}", "~/cat.png"]
    assert completions("") == [f"Cats [1]{s}", f"cats 🐈{s}", f"dogs{s}"]
    assert completions(".h") == [f".hidden{s}"]
    assert completions(str(tmp_path / "dog")) == [str(tmp_path / "dogs") + s]


@pytest.mark.parametrize("typed", ["s3://x", "/no/such/folder/x", "~nobody-here-at-all/x", "a\0b", "cat.png/x"])
def test_completion_of_what_is_no_folder_is_empty(typed):
    assert completions(typed) == []


def test_reports_and_diffs_are_text_not_markup():
    with pressing("") as prompter:
        prompter.say(["/data/[my set]/x [/foo] <b>", "", "a\nb"])
        prompter.show_diff(["--- config.json", '-  "a": 1', '+  "a": "\x1b[2J"'])
        assert prompter._output.text.split("\r\n") == [
            *["/data/[my set]/x [/foo] <b>", "", "a", "b"],
            *["--- config.json", '-  "a": 1', '+  "a": "\\x1b[2J"', ""],
        ]


def test_what_takes_a_moment_is_one_line_that_goes_away():
    with pressing("") as prompter:
        with prompter.busy("Looking at " + "x" * 100):
            line = prompter._output.text
        assert line == "Looking at " + "x" * 67 + "…"
        with pytest.raises(KeyError), prompter.busy("Failing"):
            raise KeyError


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({"TERM": "xterm"}, TerminalPrompter),
        ({"TERM": "dumb"}, PlainPrompter),
        ({"TERM": "xterm", "ACCESSIBLE": "1"}, PlainPrompter),
        ({"TERM": "xterm", "ACCESSIBLE": "0"}, TerminalPrompter),
    ],
)
def test_the_prompter_suits_the_terminal(environment, kind, monkeypatch):
    monkeypatch.delenv("ACCESSIBLE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert type(prompters.prompter()) is kind


@pytest.mark.parametrize(
    ("stdin", "stdout", "expected"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_both_ends_must_be_terminals(stdin, stdout, expected, monkeypatch):
    class Stream:
        def __init__(self, terminal):
            self.terminal = terminal

        def isatty(self):
            return self.terminal

    monkeypatch.setattr("sys.stdin", Stream(stdin))
    monkeypatch.setattr("sys.stdout", Stream(stdout))
    assert prompters.may_prompt() is expected


def test_a_missing_stream_is_no_terminal(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert prompters.may_prompt() is False
