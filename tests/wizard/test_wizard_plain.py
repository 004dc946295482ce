"""Questions as plain lines: answered by lines, told in words, without a control character."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from script import draw, facts

from simpletune.wizard.ask import ask
from simpletune.wizard.plain import PlainPrompter
from simpletune.wizard.questions import questions
from simpletune.wizard.screen import Back, Option, Screen
from simpletune.wizard.state import MISSING, Answer, Base
from simpletune.wizard.walk import Terms, walk

MODEL = Screen(
    id="model",
    heading="3 of 14 · Model",
    title="Which model?",
    about="The base that is trained on.",
    options=(
        Option("m", "sd3-medium", "2.0B"),
        Option("l", "sd3.5-large", disabled="needs 24 GB"),
        Option(None, "none"),
    ),
    recommended="m",
    reason="fits a 12 GB card",
    panel=("Memory   train 9.8 of 11.2 GiB",),
)
STEPS = Screen(
    id="steps",
    heading="9 of 14 · Steps",
    title="How many steps?",
    about="",
    default=15,
    recommended=20,
    reason="26 pictures",
    check=lambda text: None if text.isdigit() else f"{text!r} is not a whole number",
)
WORD = Screen("word", "5 of 14 · Trigger phrase", "Which word?", "", default="sks")


def asked(screen, *lines, encoding="utf-8"):
    """The answer, and all that was written meanwhile."""
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    value = PlainPrompter(io.StringIO("".join(f"{line}\n" for line in lines)), out).ask(screen)
    out.flush()
    return value, out.buffer.getvalue().decode(encoding)


def test_what_a_choice_says(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert asked(replace(MODEL, problem="no licence"), "")[1] == "\n".join(
        [
            "",
            "3 of 14 · Model",
            "Which model?",
            "The base that is trained on.",
            "",
            "Memory   train 9.8 of 11.2 GiB",
            "",
            "Problem: no licence",
            "",
            "1. sd3-medium (recommended): 2.0B; fits a 12 GB card",
            "2. sd3.5-large (unavailable: needs 24 GB)",
            "3. none",
            "Number, Enter for 1, b to go back, ? to repeat: ",
        ]
    )


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ([""], "m"),
        (["1"], "m"),
        ([" 3 "], None),
        (["None"], None),
        (["SD3-medium"], "m"),
        (["?", "?", "3"], None),
        (["0", "4", "99999999999999", "-1", "x", "²", "2", "3"], None),
    ],
)
def test_choosing(lines, value):
    assert asked(MODEL, *lines)[0] == value


def test_enter_takes_the_default():
    assert asked(replace(MODEL, default="l"), "")[0] == "m"
    three = replace(MODEL, options=(*MODEL.options, Option(7, "seven")), default=7)
    assert asked(three, "")[0] == 7


def test_why_an_answer_is_not_taken():
    text = asked(MODEL, "2", "x", "1")[1]
    assert "Problem: sd3.5-large is unavailable: needs 24 GB" in text
    assert "Problem: there is no option 'x'; type a number from 1 to 3" in text


@pytest.mark.parametrize("screen", [MODEL, STEPS, WORD])
@pytest.mark.parametrize("word", ["b", "back", "BACK", " b "])
def test_going_back(screen, word):
    with pytest.raises(Back):
        asked(screen, word)


def test_enter_goes_back_where_nothing_else_can_be_chosen():
    with pytest.raises(Back):
        asked(replace(MODEL, options=(Option(1, "one", disabled="no"),)), "")


def test_the_first_question_has_no_way_back():
    value, text = asked(replace(MODEL, can_go_back=False), "b", "1")
    assert value == "m"
    assert "there is no question before" in text
    assert asked(replace(WORD, can_go_back=False), "back")[0] == "back"


@pytest.mark.parametrize("screen", [MODEL, STEPS])
def test_the_end_of_the_input(screen):
    with pytest.raises(EOFError):
        asked(screen)


def test_ctrl_c_is_left_alone():
    class Interrupted(io.StringIO):
        def readline(self, *_):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PlainPrompter(Interrupted(), io.StringIO()).ask(MODEL)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", "sks"),
        ("a cat", "a cat"),
        ('""', ""),
        ("\\back", "back"),
        ("\\B", "B"),
        ("\\?", "?"),
        ('\\""', '""'),
        ("\\", "\\"),
        ("\\\\server\\share", "\\\\server\\share"),
        ("backwards", "backwards"),
    ],
)
def test_typing(line, text):
    assert asked(WORD, line)[0] == text


def test_a_typed_question_tells_how():
    text = asked(STEPS, "ten", "?", "12")[1]
    assert "Recommended 20: 26 pictures" in text
    assert 'Steps, Enter for "15", b to go back, ? to repeat: ' in text
    assert "Problem: 'ten' is not a whole number" in text
    assert text.count("put a backslash before it") == 2  # at first, and when the question is repeated


def test_bytes_that_are_no_text_are_asked_again():
    stdin = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), "utf-8")
    out = io.StringIO()
    with pytest.raises(EOFError):
        PlainPrompter(stdin, out).ask(WORD)
    assert "Problem: it holds a character that is not text" in out.getvalue()


def test_paths_keep_their_characters():
    folder = Screen("data", "4 of 14 · Pictures", "Where?", "", path="folder")
    for path in ("~/my [set]/🐈", "s3://bucket/x", "/"):
        assert asked(folder, path)[0] == path


def test_nothing_steers_the_terminal_and_ascii_is_enough():
    odd = replace(MODEL, title="a\x1b[2Jb", options=(Option(1, "猫 [x] ·"),))
    text = asked(odd, "1", encoding="ascii")[1]
    assert "a\\x1b[2Jb" in text
    assert "1. ? [x] -" in text
    assert all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("columns", [40, 80])
def test_lines_fit(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    long = replace(MODEL, about="word " * 60, panel=("Memory   " + "figure " * 30,), reason="because " * 20)
    text = asked(long, "2", "?", "1")[1].replace("repeat: ", "repeat:\n")  # where Enter was pressed
    assert max(map(len, text.splitlines())) <= columns


def test_reports_diffs_and_waiting_are_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    out = io.StringIO()
    prompter = PlainPrompter(io.StringIO(), out)
    prompter.say(["/data/[my set]/x", "a\nb"])
    with prompter.busy("Looking"):
        prompter.show_diff(["-a", "+" + "word " * 12])
    assert out.getvalue().splitlines() == [
        *["/data/[my set]/x", "a", "b", "Looking ...", "-a"],
        *["+" + "word " * 7 + "word", "+    word word word word"],
    ]


RANK = Screen(
    id="rank",
    heading="6 of 10 · LoRA",
    title="Which rank?",
    about="",
    options=(
        Option(4, "4"),
        Option(8, "8", disabled="too large"),
        Option(1600, "1,600 steps"),
        Option("o", "another ..."),
    ),
    recommended=4,
)


@pytest.mark.parametrize(
    ("typed", "value"), [("4", 4), ("", 4), ("1600", 1600), ("1,600 Steps", 1600), ("another", "o")]
)
def test_answers_that_are_numbers_are_typed_as_they_are(typed, value):
    assert asked(RANK, typed)[0] == value


def test_numbers_that_are_no_answer_choose_nothing():
    """The second of the list isn't meant by 2, which is a rank that isn't offered."""
    found, text = asked(RANK, "2", "8", "4")
    assert found == 4
    assert "there is no option '2'; type one of the values" in text
    assert "8 is unavailable: too large" in text


@pytest.mark.parametrize(
    ("question", "wrong", "line", "value"),
    [
        ("training.steps", "7 weeks", "12 epochs", "12 epochs"),
        ("training.steps", "0", "7", 7),
        ("data.0.resolution", "99999", "1000 px", 1000),
        ("data.0.resolution", "7", "777", 777),
        ("lora.rank", "9999999", "7", 7),
    ],
)
def test_another_value_is_typed_as_it_is(tmp_path, question, wrong, line, value):
    """In place of the options, with the same checks as in the field that "another ..." leads to."""
    draw(tmp_path / "pictures", 4)
    answers = {"data.0.folder": Answer(str(tmp_path / "pictures"))}
    terms = Terms(everything=True, stop_at=question)
    walked = walk(questions, facts(tmp_path, "24gb"), Base(tmp_path / "config.json"), answers, terms)
    out = io.StringIO()
    prompter = PlainPrompter(io.StringIO(f"{wrong}\n{line}\n"), out)
    found = ask(prompter, walked.open, walked.state, lambda *_: walked.state, MISSING, can_go_back=True)
    assert found.value == value
    assert out.getvalue().count("Problem: ") == 1
    assert "there is no option" not in out.getvalue()


@pytest.mark.parametrize(("count", "words"), [(1, "1 picture would be enlarged"), (2, "2 pictures would be enlarged")])
def test_one_picture_is_no_pictures(tmp_path, count, words):
    draw(tmp_path / "pictures", count)
    answers = {"data.0.folder": Answer(str(tmp_path / "pictures"))}
    terms = Terms(everything=True, stop_at="data.0.resolution")
    walked = walk(questions, facts(tmp_path, "24gb"), Base(tmp_path / "config.json"), answers, terms)
    assert [option.note.rpartition("; ")[2] for option in walked.open.options(walked.state)] == [words] * 3
