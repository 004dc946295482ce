"""A changed value as text: the value is the new one, and what did not change reads as its author wrote it."""

import copy
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.config import jsonfile, layout
from simpletune.config.edited import WIDTH, edited

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
)
KEYS = st.sampled_from(["a", "b", "c", "id", "x y", ""])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)
GAPS = st.sampled_from(["", "", " ", "\n", "\n  ", "\r\n\t", "\n\n    "])


def read(text):
    return jsonfile.parse(Path("config.json"), text.encode())


def change(text, value):
    """The new text, which must hold the value and be strict JSON."""
    result = edited(read(text), value)
    again = read(result)
    assert not again.problems, result
    assert again.value == value, result
    return result


@st.composite
def sources(draw):
    """JSON texts in any layout: white space wherever it may stand."""

    def write(value):
        def gap():
            return draw(GAPS)

        if isinstance(value, dict):
            members = [f"{gap()}{json.dumps(k)}{gap()}:{gap()}{write(v)}{gap()}" for k, v in value.items()]
            return "{" + (",".join(members) or gap()) + "}"
        if isinstance(value, list):
            return "[" + (",".join(f"{gap()}{write(item)}{gap()}" for item in value) or gap()) + "]"
        return json.dumps(value, ensure_ascii=draw(st.booleans()))

    return draw(GAPS) + write(draw(VALUES)) + draw(GAPS)


@settings(max_examples=50, deadline=None)
@given(sources(), VALUES)
def test_any_value_into_any_text(text, value):
    change(text, value)


@settings(max_examples=50, deadline=None)
@given(OBJECTS, OBJECTS, st.sampled_from([None, 2, 4, "\t"]), st.sampled_from(["\n", "\r\n"]))
def test_objects_in_usual_layouts(old, new, indent, line_end):
    change((json.dumps(old, indent=indent) + "\n").replace("\n", line_end), new)


@settings(max_examples=50, deadline=None)
@given(sources())
def test_the_same_value_is_the_same_text(text):
    assert edited(read(text), read(text).value) == text


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_a_new_file(value):
    text = edited(None, value)
    assert json.loads(text) == value
    assert text.endswith("\n")


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(KEYS, VALUES, min_size=1), st.data())
def test_a_change_of_one_key_changes_only_its_lines(value, data):
    key = data.draw(st.sampled_from(sorted(value)))
    new = {**value, key: data.draw(SCALARS)}
    before = json.dumps(value, indent=2)
    after = change(before, new)
    [member] = [member for member in layout.scan(before).members if member.key == key]
    assert after.startswith(before[: member.node.start])
    assert after.endswith(before[member.node.end :])


CONFIG = """\
{
    "learning_rate": 1e-4,
    "lora_target": ["attention",   "blocks"],

    "seed": 42,
    "optimizer_config": {"betas": [0.9,0.99]},
    "use_ema": false
}
"""


def changed(**keys):
    """CONFIG with some keys changed, or without those set to None."""
    value = {**json.loads(CONFIG), **keys}
    return change(CONFIG, {key: item for key, item in value.items() if item is not None})


def test_number_spelling_blank_lines_and_lists_stay():
    assert changed(seed=7) == CONFIG.replace("42", "7")


def test_new_keys_are_appended_in_the_files_indentation():
    assert changed(lora_rank=8, validation_prompt="ü") == CONFIG.replace(
        "false\n", 'false,\n    "lora_rank": 8,\n    "validation_prompt": "ü"\n'
    )


def test_removed_keys_take_their_lines_along():
    assert changed(seed=None) == CONFIG.replace('    "seed": 42,\n', "")
    assert changed(use_ema=None) == CONFIG.replace(',\n    "use_ema": false', "")
    assert changed(learning_rate=None) == CONFIG.replace('    "learning_rate": 1e-4,\n', "")


def test_a_blank_line_between_groups_outlives_its_neighbours():
    assert changed(lora_target=None) == CONFIG.replace('    "lora_target": ["attention",   "blocks"],\n', "")


def test_a_change_inside_a_value_keeps_the_rest_of_it():
    assert changed(optimizer_config={"betas": [0.9, 0.95], "eps": 1e-08}) == CONFIG.replace(
        '"betas": [0.9,0.99]', '"betas": [0.9,0.95], "eps": 1e-08'
    )


def test_whole_numbers_stand_for_reals_but_not_the_other_way_round():
    assert change('{"lora_alpha": 16}', {"lora_alpha": 16.0}) == '{"lora_alpha": 16}'
    assert change('{"seed": 16.0}', {"seed": 16}) == '{"seed": 16}'
    assert change('{"a": 1, "b": 0}', {"a": True, "b": False}) == '{"a": true, "b": false}'


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("indent", ["  ", "    ", "\t"])
@pytest.mark.parametrize("final", ["", "end"])
def test_indentation_line_ends_and_the_final_newline_stay(line_end, indent, final):
    def text(*lines):
        return line_end.join(lines) + (line_end if final else "")

    before = text("{", f'{indent}"a": 1', "}")
    after = text("{", f'{indent}"a": 1,', f'{indent}"b": {{', f'{indent}{indent}"c": [1, 2]', f"{indent}}}", "}")
    assert change(before, {"a": 1, "b": {"c": [1, 2]}}) == after


DATA = """\
[
  {
    "id": "cats",  "repeats": 1e0,
    "instance_data_dir": "cats"
  },
  { "id": "dogs", "instance_data_dir": "dogs" },
  {
    "id": "text", "dataset_type": "text_embeds"
  }
]
"""


def test_a_data_set_put_before_the_others_leaves_them_as_they_are():
    value = json.loads(DATA)
    result = change(DATA, [{"id": "new", "instance_data_dir": "x"}, *value])
    assert result == DATA.replace("[\n", '[\n  {\n    "id": "new",\n    "instance_data_dir": "x"\n  },\n')


def test_a_removed_data_set_takes_its_lines_along():
    value = json.loads(DATA)
    assert change(DATA, [value[0], value[2]]) == DATA.replace('  { "id": "dogs", "instance_data_dir": "dogs" },\n', "")


def test_a_changed_data_set_is_found_by_its_id_when_others_move():
    cats, dogs, text = json.loads(DATA)
    result = change(DATA, [{**dogs, "repeats": 3}, text, cats])
    assert '{ "id": "dogs", "instance_data_dir": "dogs", "repeats": 3 }' in result
    assert '"id": "cats",  "repeats": 1e0,\n' in result


def test_one_line_that_becomes_too_long_gets_a_line_for_each_key():
    value = {"model_flavour": "tiny", **{f"key_{number}": number for number in range(12)}}
    result = change('{"model_flavour":"tiny"}', value)
    assert result.startswith('{\n  "model_flavour":"tiny",\n  "key_0":0,\n')
    assert max(map(len, result.splitlines())) <= WIDTH


def test_an_emptied_and_a_filled_object():
    assert change('{\n  "a": 1\n}\n', {}) == "{}\n"
    assert change("{\n}\n", {"a": 1}) == '{\n  "a": 1\n}\n'
    assert change("[]", [{"id": "a"}]) == '[{"id": "a"}]'


def test_a_broken_file_is_laid_out_anew():
    assert change("{'a': 1, // mine\n}", {"a": 1}) == '{\n  "a": 1\n}\n'


def test_a_byte_order_mark_goes():
    file = jsonfile.parse(Path("config.json"), b'\xef\xbb\xbf{"a":1}')
    assert edited(file, {"a": 2}) == '{"a":2}'


def test_commas_at_the_beginning_of_lines():
    assert change('{ "a": 1\n, "b": 2\n}', {"a": 1, "b": 3, "c": 4}) == '{ "a": 1\n, "b": 3,\n"c": 4\n}'


def test_what_json_has_not():
    with pytest.raises(ValueError, match="not JSON compliant"):
        edited(None, {"a": float("nan")})


def test_a_thousand_data_sets_take_no_time():
    entries = [{"id": f"set {number}", "instance_data_dir": "x" * 20} for number in range(1000)]
    text = json.dumps(entries, indent=2)
    new = copy.deepcopy(entries)[::-1]
    for entry in new:
        entry["repeats"] = 1
    began = time.process_time()
    change(text, new)
    assert time.process_time() - began < 10  # a fraction of a second, unless each entry looks at all the others
