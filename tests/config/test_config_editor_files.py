"""The files for editors: copies of the schemas, and VS Code's settings with what is in them left alone."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.config import layout
from simpletune.config.editor_files import (
    data_file_name,
    schema_copies,
    schema_reference,
    vscode_settings,
    vscode_settings_path,
)
from simpletune.config.schema import load_schema
from simpletune.errors import UsageError

FOLDER = Path("project")
ENTRY = {"fileMatch": ["multidatabackend.json"], "url": "./.simpletune/multidatabackend.schema.json"}


def merged(existing):
    """The settings after merging, and that merging again changes nothing."""
    data = None if existing is None else existing.encode()
    result = vscode_settings(FOLDER, "multidatabackend.json", data)
    if not result:
        return existing
    [(path, content)] = result.items()
    assert path == vscode_settings_path(FOLDER) == FOLDER / ".vscode" / "settings.json"
    assert vscode_settings(FOLDER, "multidatabackend.json", content) == {}
    return content.decode()


def test_the_copies_are_the_shipped_schemas():
    copies = schema_copies(FOLDER)
    assert {path.as_posix() for path in copies} == {
        "project/.simpletune/config.schema.json",
        "project/.simpletune/multidatabackend.schema.json",
    }
    assert json.loads(copies[FOLDER / schema_reference()]) == load_schema("config")


def test_new_settings():
    assert json.loads(merged(None)) == {"json.schemas": [ENTRY]}
    assert json.loads(merged(" \n")) == {"json.schemas": [ENTRY]}


COMMENTED = """\
{
    // how I like it
    "editor.tabSize": 4, // four
    "files.exclude": { "**/cache": true, },

    /* nothing below
       but this */
}
"""


def test_comments_trailing_commas_and_indentation_stay():
    assert merged(COMMENTED) == COMMENTED.replace(
        "but this */\n",
        """but this */
    "json.schemas": [
        {
            "fileMatch": ["multidatabackend.json"],
            "url": "./.simpletune/multidatabackend.schema.json"
        }
    ]
""",
    )


def test_a_missing_comma_is_put_behind_the_value_and_not_into_the_comment():
    assert '"a": 1, // one\n' in merged('{\n  "a": 1 // one\n}\n')


def test_entries_of_others_stay_and_ours_comes_last():
    other = '{\n  "json.schemas": [\n    {"fileMatch": ["x.json"], "url": "./x"} // mine\n  ],\n  "a": 1\n}\n'
    result = merged(other)
    assert '{"fileMatch": ["x.json"], "url": "./x"}, // mine\n    {\n      "fileMatch"' in result
    assert layout.scan(result).value == {"json.schemas": [{"fileMatch": ["x.json"], "url": "./x"}, ENTRY], "a": 1}


@pytest.mark.parametrize(
    "known",
    [
        ENTRY,
        {**ENTRY, "url": "https://example.org/multidatabackend.schema.json"},
        {**ENTRY, "fileMatch": ["a", *ENTRY["fileMatch"]]},
    ],
)
def test_an_entry_that_does_the_same_is_enough(known):
    text = json.dumps({"json.schemas": [known]})
    assert merged(text) == text


@pytest.mark.parametrize("line_end", ["\r\n", "\n"])
def test_line_ends_stay(line_end):
    result = merged(COMMENTED.replace("\n", line_end))
    assert set(re.findall(r"\r?\n", result)) == {line_end}


@pytest.mark.parametrize(
    "existing",
    ['{"a": 1', "[]", "// only this", '{"json.schemas": {}}', '{"json.schemas": [], "json.schemas": []}', "{'a': 1}",
     '{"a": 1} {"b": 2}', "{" * 500, '{"a" 1}', '{"a": 1 "b": 2}', "\N{NO-BREAK SPACE}{}"],
)  # fmt: skip
def test_what_cannot_be_changed_safely_is_left_with_the_lines_to_paste(existing):
    with pytest.raises(UsageError, match="can't be changed safely") as caught:
        vscode_settings(FOLDER, "multidatabackend.json", existing.encode())
    snippet = caught.value.hint.partition(": ")[2]
    assert json.loads("{" + snippet + "}") == {"json.schemas": [ENTRY]}


def test_bytes_that_are_no_text():
    with pytest.raises(UsageError):
        vscode_settings(FOLDER, "multidatabackend.json", b"\xff\xfe{\x00}\x00")


COMMENTS = st.sampled_from(["", "", " ", "\n", "\r\n  ", "// }\n", '/* "json.schemas": [ */', "\t// ,\r\n"])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["// no comment", "/*", '"', "ü"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab/*"), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def vscode_texts(draw):
    def gap():
        return draw(COMMENTS)

    def write(value):
        comma = draw(st.sampled_from(["", ","])) if value else ""
        if isinstance(value, dict):
            members = [f"{gap()}{json.dumps(k)}{gap()}:{gap()}{write(v)}{gap()}" for k, v in value.items()]
            return "{" + ",".join(members) + comma + gap() + "}"
        if isinstance(value, list):
            return "[" + ",".join(f"{gap()}{write(item)}{gap()}" for item in value) + comma + gap() + "]"
        return json.dumps(value)

    value = draw(st.dictionaries(st.sampled_from(["a", "editor.tabSize"]), JSON_VALUES, max_size=3))
    if draw(st.booleans()):
        value["json.schemas"] = draw(st.lists(JSON_VALUES, max_size=2))
    return gap() + write(value) + gap(), value


@settings(max_examples=50, deadline=None)
@given(vscode_texts())
def test_any_settings_keep_their_text_and_gain_the_entry(drawn):
    text, value = drawn
    result = merged(text)
    assert layout.scan(result).value == {**value, "json.schemas": [*value.get("json.schemas", []), ENTRY]}
    rest = iter(re.sub(r"\s", "", result))
    assert all(character in rest for character in re.sub(r"\s", "", text))  # nothing that was there is gone


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("/p/multidatabackend.json", "multidatabackend.json"),
        ("/p/sets/data.json", "sets/data.json"),
        ("/elsewhere/data.json", "data.json"),
        ("/p/a[1]*.json", "a?1??.json"),
    ],
)
def test_how_the_data_file_is_called_in_the_settings(data, name):
    assert data_file_name(Path("/p"), Path(data)) == name
