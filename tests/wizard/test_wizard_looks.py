"""Screens as lines: within the terminal's size, with all that must be said, calm."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.wizard.looks import above_typed, answer_line, choice_screen, footer, start_of, tidied
from simpletune.wizard.screen import Option, Screen
from simpletune.wizard.text import ASCII, UNICODE, width

MODEL = Screen(
    id="model",
    heading="3 of 14 · Model",
    title="Which model should learn?",
    about="The base that is trained on. It is downloaded once and never changed.",
    options=(
        Option("m", "sd3-medium", "2.0B parameters"),
        Option("m35", "sd3.5-medium", "2.5B parameters, and a note that is too long to stand beside its label in full"),
        Option("l", "sd3.5-large", disabled="needs 24 GB, this card has 12 GB"),
        Option("t", "tiny", "built in"),
    ),
    recommended="m",
    reason="fits a 12 GB card",
    panel=("Memory   encode text 5.1 · encode images 2.2 · train 9.8 · validate 8.0 of 11.2 GiB", "Disk     0.4 GB"),
)
STEPS = Screen("steps", "9 of 14 · Steps", "How many steps?", "", default=1500, recommended=1500, reason="26 pictures")
quick = settings(max_examples=50, deadline=None)


def text_of(lines):
    return ["".join(text for _, text in line) for line in lines]


def shown(screen=MODEL, pointed=0, columns=80, rows=40, signs=UNICODE):
    return text_of(choice_screen(screen, pointed, columns, rows, signs))


def test_a_choice_at_80_columns():
    assert shown() == [
        "",
        "3 of 14 · Model",
        "Which model should learn?",
        "The base that is trained on. It is downloaded once and never changed.",
        "",
        "  Memory   encode text 5.1 · encode images 2.2 · train 9.8 · validate 8.0 of",
        "           11.2 GiB",
        "  Disk     0.4 GB",
        "",
        " › sd3-medium    2.0B parameters · recommended: fits a 12 GB card",
        "   sd3.5-medium  2.5B parameters, and a note that is too long to stand beside i…",
        "   sd3.5-large   unavailable: needs 24 GB, this card has 12 GB",
        "   tiny          built in",
        "   Back          to the question before",
        "",
        "",
        "",
        "Up/Down and Enter choose · Shift+Tab goes back · Ctrl-C stops and keeps a draft",
    ]


def test_the_whole_note_stands_below_and_nothing_jumps():
    first, second = shown(pointed=0), shown(pointed=1)
    assert len(first) == len(second)
    assert second[15] == "  2.5B parameters, and a note that is too long to stand beside its label in full"


def test_a_choice_at_40_columns():
    assert shown(columns=40, pointed=0)[11:] == [
        " › sd3-medium    recommended",
        "   sd3.5-medium  2.5B parameters, and a…",
        "   sd3.5-large",
        "     unavailable: needs 24 GB, this",
        "     card has 12 GB",
        "   tiny          built in",
        "   Back",
        "",
        "  2.0B parameters",
        "  recommended: fits a 12 GB card",
        "",
        "",
        "Enter chooses · Shift+Tab goes back",
        "Ctrl-C stops and keeps a draft",
    ]


def test_a_problem_is_said_in_a_word():
    problem = replace(MODEL, problem="this model needs a licence")
    assert "Problem: this model needs a licence" in shown(problem)
    assert ("class:problem", "Problem: this model needs a licence") in [
        fragment for line in choice_screen(problem, 0, 80, 40, UNICODE) for fragment in line
    ]


def test_without_a_question_before_there_is_no_way_back():
    lines = "\n".join(shown(replace(MODEL, can_go_back=False)))
    assert "Back" not in lines
    assert "Shift+Tab" not in lines


def test_a_small_window_keeps_the_options_and_the_keys():
    lines = shown(rows=14)
    assert len(lines) <= 14
    assert sum("sd3" in line for line in lines) == 3
    assert lines[-1].startswith("Up/Down")


def test_many_options_scroll_around_the_pointer():
    many = replace(MODEL, options=tuple(Option(at, f"option {at}", f"note {at}") for at in range(50)), recommended=7)
    lines = shown(many, pointed=30, rows=24)
    assert len(lines) <= 24
    assert any(line.startswith(" › option 30") for line in lines)
    assert sum("more above" in line or "more below" in line for line in lines) == 2
    assert not any("above" in line for line in shown(many, pointed=0, rows=24))
    assert not any("below" in line for line in shown(many, pointed=50, rows=24))


def test_where_the_pointer_starts():
    assert start_of(MODEL) == 0
    assert start_of(replace(MODEL, default="t")) == 3
    assert start_of(replace(MODEL, default="l")) == 0  # unavailable here
    assert start_of(replace(MODEL, recommended=None)) == 0
    values = replace(MODEL, options=(Option(1, "one"), Option(True, "yes")), default=True)
    assert start_of(values) == 1


def test_nothing_to_choose_but_back():
    closed = replace(MODEL, options=(Option(1, "one", disabled="no"),))
    assert start_of(closed) == 1
    with pytest.raises(ValueError, match="can be chosen"):
        start_of(replace(closed, can_go_back=False))


def test_a_typed_question_names_what_is_recommended():
    assert text_of(above_typed(STEPS, 80, 20, UNICODE))[-1] == "recommended 1500: 26 pictures"
    assert text_of(above_typed(replace(STEPS, recommended=None, reason=""), 80, 20, UNICODE))[-1] == ""
    assert text_of(footer(replace(STEPS, path="folder"), 80, UNICODE))[1].startswith("Enter accepts · Tab completes")


def test_an_answer_stays_as_one_line():
    assert text_of([answer_line("Model", "sd3-medium", 80, UNICODE)]) == ["? Model                 sd3-medium"]
    assert text_of([answer_line("Model", "sd3-medium", 40, UNICODE)]) == ["? Model  sd3-medium"]
    long = text_of([answer_line("Pictures", "/home/ada/" + "x" * 100 + "/cats", 80, UNICODE)])[0]
    assert width(long) <= 80
    assert long.endswith("x/cats")
    assert text_of([answer_line("Trigger", "", 80, UNICODE)])[0].endswith("(nothing)")


def test_everything_is_said_in_ascii_where_there_is_nothing_else():
    lines = shown(tidied(MODEL, ASCII), signs=ASCII)
    assert all(line.isascii() for line in lines)
    assert "3 of 14 - Model" in lines
    assert answer_line("Model", "…", 80, ASCII)[-1] == ("class:answer", "...")


def test_text_from_outside_is_shown_as_it_is():
    odd = replace(MODEL, options=(Option(1, "[bold]x[/]", "<b>&amp; {0} %s"),), title="a\x1b[2Jb\nc")
    lines = "\n".join(shown(tidied(odd, UNICODE)))
    assert "[bold]x[/]  <b>&amp; {0} %s" in lines
    assert "a\\x1b[2Jb\\nc" in lines


WORDS = st.text(st.sampled_from("abc de 猫🐈[]·"), min_size=1, max_size=90)
OPTIONS = st.lists(st.tuples(WORDS, WORDS, st.booleans()), min_size=1, max_size=30)


@quick
@given(OPTIONS, WORDS, st.lists(WORDS, max_size=4), st.integers(40, 100), st.integers(24, 60), st.data())
def test_a_choice_fits_whatever_it_says(options, words, panel, columns, rows, data):
    listed = tuple(Option(at, label, note, words if off else None) for at, (label, note, off) in enumerate(options))
    screen = Screen("x", "1 of 2 · X", words[:30], words, listed, recommended=0, reason=words, panel=tuple(panel))
    pointed = data.draw(
        st.sampled_from([at for at, option in enumerate(listed) if not option.disabled] + [len(listed)])
    )
    lines = choice_screen(screen, pointed, columns, rows, UNICODE)
    assert all(width(line) <= columns for line in text_of(lines))
    assert len(lines) <= rows
    assert sum(style == "class:pointer" and "›" in text for line in lines for style, text in line) == 1
