"""The reader equals the standard one on everything that one accepts, and finds every problem in what it refuses."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.config.json_reader import MAXIMUM_DEPTH
from simpletune.config.jsonfile import parse, read

HERE = Path("x.json")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
# Text that is nearly JSON: what a hand edits, and what a parser trips over.
PIECES = ["{", "}", "[", "]", ",", ":", '"', "'", "a", '"a"', "1", "-", "0", ".5", "1e9", "1e999", "true", "NaN",
          "None", "\\", "\\u", "\\ud83d", "\\ude00", "d", "/", "//", "/*", "#", "\n", " ", "\t", "é",
          "😀", "\x00", "="]  # fmt: skip
NEARLY = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def found(text):
    file = parse(HERE, text.encode() if isinstance(text, str) else text)
    return [(p.position.line, p.position.column, p.message) for p in file.problems]


@given(JSON, st.sampled_from([None, 1, "\t"]), st.booleans())
@settings(max_examples=100, deadline=None)
def test_reads_what_json_writes(value, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    file = parse(HERE, text.encode())
    assert file.problems == ()
    assert repr(file.value) == repr(value)  # repr tells 1 from 1.0 and True


def strict_loads(text):
    def no_duplicates(pairs):
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)

    def refuse(_):
        raise AssertionError

    value = json.loads(text, object_pairs_hook=no_duplicates, parse_constant=refuse)
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # infinities and half surrogates
    return value


@given(NEARLY)
@settings(max_examples=300, deadline=None)
def test_agrees_with_json_on_what_is_json(text):
    file = parse(HERE, text.encode())
    try:
        expected = strict_loads(text)
    except (ValueError, AssertionError):
        assert file.problems, text
    else:
        assert file.problems == ()
        assert repr(file.value) == repr(expected)


@given(st.binary(max_size=30) | NEARLY.map(lambda text: text.encode("utf-16")))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_read_or_refused(data):
    file = parse(HERE, data)
    assert file.problems or file.value == json.loads(data.decode("utf-8-sig"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1,}', [(1, 8, 'a "," too many before the closing "}"')]),
        ("[1,,2]", [(1, 4, 'a "," too many')]),
        ('{"a": 1 "b": 2}', [(1, 8, 'missing ","')]),
        ('{"a" 1}', [(1, 6, 'missing ":" after "a"')]),
        ('{"a" = 1}', [(1, 6, 'missing ":" after "a"')]),
        ('{"a": }', [(1, 7, '"a" has no value')]),
        ('{\n  "a": 1,\n  "a": 2\n}', [(3, 3, '"a" is set twice, first on line 2')]),
        ('{"a": NaN, "b": -Infinity}', [(1, 7, "NaN is not a number"), (1, 17, "-Infinity is not a number")]),
        ('{"a": 1} // x', [(1, 10, "JSON has no comments")]),
        ('{ # x\n"a": /* y */ 1}', [(1, 3, "JSON has no comments"), (2, 6, "JSON has no comments")]),
        ("{'a': 'b'}", [(1, 2, "text stands in double quotes, not single ones")] * 1
            + [(1, 7, "text stands in double quotes, not single ones")]),
        ('{a: True}', [(1, 2, "the key a has no quotes"), (1, 5, "True is not JSON")]),
        ('{"a": cuda}', [(1, 7, "cuda has no quotes")]),
        ('{"a": 01}', [(1, 7, "01 is not how JSON writes a number")]),
        ('{"a": .5}', [(1, 7, ".5 is not how JSON writes a number")]),
        ('{"a": 1e999}', [(1, 7, "this number is too large")]),
        ('{"a": "b,\n "c": 1}', [(1, 7, "this text has no closing quote")]),
        ('{"a": "C:\\data"}', [(1, 10, "\\d is not an escape JSON knows")]),
        ('{"a": "x\ty"}', [(1, 9, "a tab inside text")]),
        ('{"a": [1, 2}', [(1, 12, '"]" is missing before this "}"')]),
        ('{"a": 1', [(1, 1, 'the "{" on line 1 is never closed')]),
        ("[1)]", [(1, 2, "1) is not how JSON writes a number")]),
        ('{"a": 1}}', [(1, 9, "there is more text after the end")]),
        ("  ", [(1, 1, "the file is empty")]),
        ('"\\ud83d"', [(1, 1, "this text holds half of a surrogate pair")]),
        ('{"é😀": x}', [(1, 8, "x has no quotes")]),
    ],
)  # fmt: skip
def test_each_problem_where_it_is(text, expected):
    assert found(text) == expected


def test_goes_on_after_a_problem():
    file = parse(HERE, b'{\n \'a\': 1, // one\n "b": NaN,\n "c": True,\n}')
    assert [p.position.line for p in file.problems] == [2, 2, 3, 4, 4]
    assert file.value == {"a": 1, "c": True}
    assert file.unreadable == {("b",)}


def test_positions_count_characters_from_one():
    file = parse(HERE, '\ufeff{\r\n  "é😀": [1,\n 2]}'.encode())
    assert file.problems == ()
    key, second = file.keys[("é😀",)], file.values[("é😀", 1)]
    assert (key.line, key.column) == (2, 3)
    assert (second.line, second.column) == (3, 2)
    inside = file.place(("é😀", 9, "x"))
    assert inside == file.values[("é😀",)]


def test_deep_nesting_is_a_problem_and_no_crash():
    deep = MAXIMUM_DEPTH + 1
    assert found("[" * MAXIMUM_DEPTH + "]" * MAXIMUM_DEPTH) == []
    assert found("[" * deep + "]" * deep) == [(1, deep, f"more than {MAXIMUM_DEPTH} brackets inside each other")]
    assert found("[" * 1_000_000)
    assert found('{"a":' * 100_000)


def test_encodings():
    assert found('{"a": 1}'.encode("utf-16")) == [(1, 1, "is not UTF-8 but UTF-16 or UTF-32")]
    assert found('{"a": 1}'.encode("utf-16-le")) == [(1, 1, "is not UTF-8 but UTF-16 or UTF-32")]
    assert found('{"a": "é"}'.encode("latin-1")) == [(1, 8, "byte 0xE9 is not UTF-8")]


def test_a_huge_mess_is_cut_short():
    assert len(found("[" + "x,\n" * 10_000)) == 30
    assert found("1" * 5000) == [(1, 1, "this number is too large")]


def test_what_is_no_file(tmp_path):
    assert read(tmp_path).problems[0].message == "is a folder, not a file"
    assert read(tmp_path / "none.json").problems[0].message == "no such file"
