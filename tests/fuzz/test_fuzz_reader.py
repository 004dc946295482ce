"""The positioned reader against the standard one: the same value or a problem at the same place, whatever the bytes."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from valid_files import PAIRS

from simpletune.config import json_reader, jsonfile
from simpletune.config.json_cursor import MAXIMUM_PROBLEMS
from simpletune.config.jsonfile import JsonFile, parse

HERE = Path("config.json")
FULL, DATA = PAIRS["full"].text()
LINE_END = re.compile(r"\r\n|\n|\r")
SMALL = '{"a": [1, -0.5e-3, {"é\\n": "x\\u00e9😀", "b": null}], "c": true, "d": {}, "e": "C:\\\\x"}'


def read(text: str | bytes) -> JsonFile:
    file = parse(HERE, text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    assert len(file.problems) <= MAXIMUM_PROBLEMS
    for problem in file.problems:
        assert problem.message
        assert len(problem.message) < 200
        assert problem.position.line >= 1
        assert problem.position.column >= 1
    return file


def refuse(_text: str) -> None:
    raise ValueError("no number")


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def whole(text: str) -> int:
    return int(text)  # ValueError beyond 4300 digits


def real(text: str) -> float:
    value = float(text)
    if math.isinf(value) or (value == 0 and re.search("[1-9]", re.split("[eE]", text)[0])):
        raise ValueError("out of what a number can hold")
    return value


def strictly(text: str) -> object:
    """The standard parser's value, with the refusals that the reader's docstring lists."""
    value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse, parse_int=whole, parse_float=real)
    json.dumps(value, ensure_ascii=False).encode()  # half surrogate pairs
    return value


def index_of(text: str, file: JsonFile) -> int:
    """The first problem's place as a count of characters."""
    place = file.problems[0].position
    starts = [0, *(found.end() for found in LINE_END.finditer(text))]
    return starts[place.line - 1] + place.column - 1


def may_go_on(start: str) -> bool:
    """Whether a text could be the beginning of JSON: the standard parser finds nothing wrong before its end."""
    try:
        json.loads(start, strict=True)
    except json.JSONDecodeError as error:
        cut_escape = error.msg.startswith("Invalid \\uXXXX escape") and error.pos >= len(start) - 12
        return error.pos >= len(start.rstrip()) or error.msg.startswith("Unterminated string") or cut_escape
    return True


def agree(text: str) -> None:
    """The same value; or a problem, no later than where the standard parser stops, and not before anything is wrong."""
    file = read(text)
    text = text.removeprefix("\ufeff")  # a byte order mark is let pass
    stopped = len(text)
    try:
        expected = strictly(text)
    except (ValueError, RecursionError) as error:
        stopped = getattr(error, "pos", stopped)
    else:
        assert file.problems == (), text
        assert repr(file.value) == repr(expected)  # tells 1 from 1.0 and True, and -0.0 from 0.0
        return
    assert file.problems, text
    at = index_of(text, file)
    assert at <= stopped, (text, file.problems)
    assert may_go_on(text[:at]), (text, file.problems)


PIECES = ["{", "}", "[", "]", ",", ":", '"', "'", '"a"', '"b":', "1", "-", "0", "-0", ".5", "1e9", "1e999", "1e-999",
          "0e-999", "1E+2", "true", "false", "null", "NaN", "-Infinity", "None", "tru", "\\", "\\u", "\\ud83d",
          "\\ude00", "\\u0000", "d", "/", "//", "/*", "*/", "#", "\n", "\r\n", "\r", " ", "\t", "\f", "\u00a0", "é",
          "😀", "\x00", "\x7f", "\u2028", "\ufeff", "=", "9" * 400, "9" * 5000, "0." + "1" * 5000]  # fmt: skip
NEARLY = st.lists(st.sampled_from(PIECES), max_size=16).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """JSON of which a few characters were taken out, put in, or moved."""
    text = json.dumps(draw(VALUES), indent=draw(st.sampled_from([None, 1])), ensure_ascii=draw(st.booleans()))
    for _ in range(draw(st.integers(1, 2))):
        at, end = draw(st.integers(0, len(text))), draw(st.integers(0, 3))
        text = text[:at] + draw(st.sampled_from(["", *PIECES])) + text[at + end :]
    return text


@given(NEARLY | damaged())
@settings(max_examples=80)
def test_it_agrees_with_json(text: str) -> None:
    agree(text)


@pytest.mark.fault
def test_it_agrees_with_json_at_length(tally) -> None:
    draw = random.Random(8)
    sources = (SMALL, *PAIRS["small"].text(), *PAIRS["style"].text())
    for _ in range(6_000):
        agree("".join(draw.choices(PIECES, k=draw.randrange(24))))
        text = draw.choice(sources)
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(text))
            text = text[:at] + draw.choice(["", *PIECES]) + text[at + draw.randrange(4) :]
        agree(text)
    tally("bad inputs: texts compared with json", 12_000)


@given(st.binary(max_size=40) | NEARLY.map(lambda text: text.encode("utf-16", "surrogatepass")))
@settings(max_examples=30)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    file = read(data)
    assert file.problems or repr(file.value) == repr(strictly(data.decode("utf-8-sig")))


def test_a_text_cut_anywhere_has_one_problem() -> None:
    for at in range(1, len(SMALL)):
        file = read(SMALL[:at])
        assert len(file.problems) == 1, SMALL[:at]
        agree(SMALL[:at])


@pytest.mark.fault
@pytest.mark.parametrize("text", [FULL, DATA], ids=["config", "data"])
def test_a_whole_file_cut_anywhere_has_one_problem(text: str, tally) -> None:
    for at in range(1, len(text) - 1):
        file = read(text[:at])
        assert len(file.problems) == 1, text[:at]
        assert index_of(text, file) < at
    tally("bad inputs: files cut short", len(text) - 2)


@pytest.mark.fault
@pytest.mark.parametrize("name", ["small", "card"])
def test_a_character_lost_or_changed_anywhere(name: str, tally) -> None:
    """One slip is one problem: the bracket or quote that it breaks doesn't make others of what follows."""
    slips = '",}]{[:x \\\x00'
    told: Counter[int] = Counter()
    for text in PAIRS[name].text():
        for at in range(len(text)):
            for instead in ("", text[at] * 2, slips[at % 11] + text[at], slips[at * 3 % 10] + text[at]):
                changed = text[:at] + instead + text[at + 1 :]
                agree(changed)
                told[len(read(changed).problems)] += 1
    tally("bad inputs: characters changed", told.total())
    assert set(told) <= {0, 1, 2, 3}
    assert told[2] + told[3] < 0.02 * told[1], told


@pytest.mark.parametrize("text", [FULL, DATA], ids=["config", "data"])
def test_byte_order_mark_line_ends_and_tabs_change_nothing(text: str) -> None:
    expected = json.loads(text)
    for line_end in ("\r\n", "\r", "\n\n", "\t\n \t"):
        for before in (b"", b"\xef\xbb\xbf"):
            file = read(before + text.replace("\n", line_end).encode())
            assert file.problems == ()
            assert file.value == expected
    crlf = read(text.replace("\n", "\r\n"))
    assert crlf.values == read(text).values  # lines and columns too


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_other_encodings_are_named(encoding: str) -> None:
    [problem] = read(FULL.encode(encoding)).problems
    assert "UTF-16" in problem.message
    assert "UTF-8" in str(problem.hint)


def test_a_file_of_zeros_was_lost() -> None:
    [problem] = read(b"\x00" * 4096).problems
    assert "zero bytes" in problem.message


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":', '{"id": "a", "b": [', "[[],"])
def test_a_hundred_thousand_levels(opening: str) -> None:
    closing = "".join(
        {"[": "]", "{": "}"}[letter] for letter in reversed(re.sub('"[^"]*"|[]]', "", opening)) if letter in "[{"
    )
    for text in (opening * 100_000, opening * 100_000 + "1" + closing * 100_000):
        [problem] = read(text).problems
        assert "brackets inside each other" in problem.message


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("-0", "0"), ("-0.0", "-0.0"), ("0e999", "0.0"), ("1E5", "100000.0"), ("9" * 4300, "9" * 4300),
        ("0." + "3" * 100_000, "0.3333333333333333"), ("4.9e-324", "5e-324"), ("1.7976931348623157e308",) * 2,
        ("1e400", None), ("-1e400", None), ("1e-400", None), ("-0." + "0" * 400 + "1", None), ("1" * 100_000, None),
        ("-" + "1" * 100_000, None), ("2" * 309 + ".0", None), ("NaN", None), ("-NaN", None), ("Infinity", None),
        ("-Infinity", None), ("0x10", None), ("1_000", None), ("+1", None), ("1.", None), (".5", None), ("01", None),
        ("1,5", None), ("１", None), ("1e", None), ("--1", None),
    ],
    ids=lambda text: str(text)[:20],
)  # fmt: skip
def test_numbers(number: str, value: str | None) -> None:
    file = read(f'{{"a": {number}, "b": 1}}')
    if value is None:
        assert file.problems[0].position.column >= 7
        assert "a" not in file.value or number == "1,5"
    else:
        assert file.problems == ()
        assert repr(file.value["a"]) == value.replace("e308", "e+308")


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "\\ud83d"}', '{"\\ude00": 1}', '{"a": "\\ud83d\\u0041"}', '{"a": "\\ude00\\ud83d"}', '{"a": "\x00"}',
        '\x00{"a": 1}', '{"a": 1}\x00', '{"a"\x00: 1}', '{"a": 1, "a": 1}', '{"a": {"b": 1}, "a": {"b": 1}}',
        '{"a": 1, "\\u0061": 2}', '{"a": "x\ty"}', '{"a": "\ud83d"}', '\ufeff\ufeff{"a": 1}',
    ],
    ids=ascii,
)  # fmt: skip
def test_told_once(text: str) -> None:
    assert len(read(text).problems) == 1


def test_half_a_pair_is_put_together_as_json_does() -> None:
    assert read('"\\ud83d\\ude00"').value == "😀"


def test_what_is_too_much_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_reader, "MAXIMUM_VALUES", 1000)
    values = read("[" + "1," * 1000 + "1]")
    assert [problem.message for problem in values.problems] == ["more than 1,000 values"]
    for mess in ("x" * 200_000, '{"' + "k" * 200_000 + '" 1}', "[" + "'" * 200_000, '{"a":' + "-" * 200_000):
        assert read(mess).problems


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b" " * (jsonfile.MAXIMUM_BYTES + 1))
    [problem] = jsonfile.read(path).problems
    assert "larger than 4 MB" in problem.message
