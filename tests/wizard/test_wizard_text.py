"""Widths, wrapping and cutting: nothing is lost, nothing is too wide, nothing from outside steers the terminal."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.wizard.screen import Screen
from simpletune.wizard.text import (
    ASCII,
    UNICODE,
    cut,
    cut_middle,
    paragraph,
    signs_for,
    width,
    wrap,
    wrapped_diff_line,
)
from simpletune.wizard.typed import judged

# Letters of one and two columns, combining marks, spaces, markup.
TEXTS = st.text(st.sampled_from("abc xyz  猫写🐈é́[]·…/-"), max_size=120)
quick = settings(max_examples=50, deadline=None)


@pytest.mark.parametrize(("text", "columns"), [("abc", 3), ("猫", 2), ("🐈", 2), ("é", 1), ("e\u0301", 1), ("", 0)])
def test_width_counts_terminal_columns(text, columns):
    assert width(text) == columns


@quick
@given(TEXTS, st.integers(12, 60))
def test_wrapping_loses_nothing_and_is_never_too_wide(text, columns):
    lines = wrap(text, columns, "  ", "    ")
    assert all(width(line) <= columns for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(line.startswith("    ") for line in lines[1:])


@quick
@given(TEXTS, st.integers(4, 60))
def test_a_cut_text_fits(text, columns):
    for shortened in (cut(text, columns, "…"), cut_middle(text, columns, "…")):
        assert width(shortened) <= columns
        assert shortened == text or "…" in shortened


def test_cutting_the_middle_keeps_both_ends_of_a_path():
    assert cut_middle("/home/ada/pictures/of/cats", 16, "…") == "/home…es/of/cats"


def test_words_can_be_kept_whole():
    assert wrap("see " + "x" * 30, 20, break_words=False) == ["see", "x" * 30]


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("Memory   train 9.8 GiB of 11.2 GiB on this card", "         "),
        ("- one item of a list that is long enough to wrap", "  "),
        ("12. one item of a list that is long enough to be", "    "),
        ("plain words that are simply too long for a line", "too"),
        ("  indented words that are simply too long for it", "    "),
    ],
)
def test_the_second_line_starts_where_the_eye_looks(text, second):
    lines = paragraph(text, 30)
    assert len(lines) > 1
    assert lines[1].startswith(second)


@quick
@given(st.sampled_from("+-"), TEXTS, st.integers(20, 60))
def test_every_line_of_a_diff_starts_with_its_sign(sign, text, columns):
    lines = wrapped_diff_line(sign + text, columns)
    assert all(line[0] == sign and width(line) <= columns for line in lines)


@quick
@given(st.text(max_size=60), st.sampled_from([UNICODE, ASCII, signs_for(io.TextIOWrapper(io.BytesIO(), "latin-1"))]))
def test_clean_text_is_one_printable_line_in_the_terminals_encoding(text, signs):
    clean = signs.clean(text)
    assert clean.isprintable()
    assert clean.encode(signs.encoding).decode(signs.encoding) == clean


def test_clean_text_holds_no_token_and_no_escape_sequence():
    assert UNICODE.clean("hf_" + "a" * 30 + " \x1b[2J") == "[redacted] \\x1b[2J"


def test_signs_follow_the_encoding():
    assert signs_for(io.TextIOWrapper(io.BytesIO(), "utf-8")) == UNICODE
    assert signs_for(io.TextIOWrapper(io.BytesIO(), "ascii")).clean("3 · 4 …") == "3 - 4 ..."
    assert signs_for(None) == ASCII


def typed(text, path=None, check=None):
    return judged(Screen("id", "1 of 1 · Name", "Title?", "", path=path, check=check), text)


def test_an_answer_is_one_line_without_blanks_around_it():
    assert typed("  two\nlines \n") == ("two lines", None)


@pytest.mark.parametrize("text", ["a\x1bb", "a\0b", "a\udcffb"])
def test_what_is_not_text_is_refused_before_the_check(text):
    problem = typed(text, check=lambda _: pytest.fail("the check saw it"))[1]
    assert problem is not None
    assert "not text" in problem


@pytest.mark.parametrize(
    ("pasted", "meant"),
    [
        ('"/data/my set"', "/data/my set"),
        ("'/data/my set'", "/data/my set"),
        ("~/pictures/", "~/pictures/"),
        ("s3://bucket/x", "s3://bucket/x"),
        ("C:\\data\\cats", "C:\\data\\cats"),
        ("/", "/"),
        ("/data/[my set]/🐈", "/data/[my set]/🐈"),
    ],
)
def test_paths_are_read_as_they_were_meant(pasted, meant):
    assert typed(pasted, path="folder") == (meant, None)


@pytest.mark.skipif(os.sep == "\\", reason="a backslash parts folders there")
def test_a_dragged_path_loses_its_backslashes():
    assert typed("/data/my\\ set\\ \\(1\\) ", path="folder") == ("/data/my set (1)", None)


def test_only_paths_lose_quotes():
    assert typed('"a cat"') == ('"a cat"', None)
