"""No file starts a training that means something else than what is written: it is refused, or read as it stands."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from read_plainly import differences
from valid_files import PAIRS, PICTURES, TEXTS, Pair, Write

from simpletune.cli.validate import validate
from simpletune.config import jsonfile
from simpletune.config.edited import edited
from simpletune.config.load import load_for_elsewhere, recreate, resolved
from simpletune.config.schema import config_keys, entry_keys, optimizer_arguments, types_of
from simpletune.config.settings import Settings
from simpletune.config.validate import check, exit_code
from simpletune.errors import ConfigError

# Values as text, because what a person writes is text: 16.0 and 1.6e1 are no whole numbers, "16" is no number.
WRITTEN = (
    "null", "true", "false", "0", "1", "-1", "16", "-0", "0.0", "-0.0", "16.0", "1.6e1", "1e0", "1E-4", "1e-4", "0.5",
    "512", "1e3", "1e400", "1e-400", "5e-324", "99999999999999999999", "4294967295.0", "NaN", "Infinity", '""', '"16"',
    '"16.0"', '"1e-4"', '"true"', '"True"', '"null"', '"none"', '" "', '"a"', '"a\\n"', '"pictures"', '" pictures"',
    '"pictures/"', '"./pictures"', '"~"', '"{id}"', '"s3://b/c"', '"https://a.b"', '"https://a.b\\n"', '"1024x1024"',
    '"64x64, 128x64"', '"owner/name"', '"owner/name\\n"', '"\\u0000"', "[]", "[1]", '["a"]', '["tensorboard"]',
    "[true]", "[0.5, 0.9]", "[1, 1.0]", "[[1]]", "{}", '{"value": 1}', '{"eps": 1e-8}', '{"eps": true}',
)  # fmt: skip


def accepted(path: Path) -> Settings | None:
    """The settings; None when the files are refused. Validation and loading must be of one mind."""
    problems = check(path).problems
    if exit_code(problems) != ConfigError.exit_code:
        return load_for_elsewhere(path)[0]
    assert all(problem.line >= 1 for problem in problems), problems
    with pytest.raises(ConfigError):
        load_for_elsewhere(path)
    return None


def as_written(write: Write, config: str, data: str) -> bool:
    """Whether the files are accepted, in which case they mean what they say."""
    found = accepted(write(config, data))
    assert found is None or differences(found, config, data) == []
    return found is not None


def mutations() -> Iterator[tuple[str, str]]:
    """Each key of both files with each of the values that stand above."""
    config, entries = {"model_flavour": "sd3-medium"}, [PICTURES, TEXTS]
    for value in WRITTEN:
        for key in config_keys():
            yield put(config, key, value), json.dumps(entries)
        for argument in optimizer_arguments("prodigy"):
            yield f'{{"optimizer": "prodigy", "optimizer_config": {{"{argument}": {value}}}}}', json.dumps(entries)
        for key in entry_keys("image"):
            yield json.dumps(config), f"[{put(PICTURES, key, value)}, {json.dumps(TEXTS)}]"
        for key in entry_keys("text_embeds"):
            yield json.dumps(config), f"[{json.dumps(PICTURES)}, {put(TEXTS, key, value)}]"


def put(beside: Mapping[str, Any], key: str, value: str) -> str:
    members = [f"{json.dumps(name)}: {json.dumps(item)}" for name, item in beside.items() if name != key]
    return "{" + ", ".join([*members, f"{json.dumps(key)}: {value}"]) + "}"


def test_some_values(write: Write) -> None:
    outcomes = [as_written(write, *files) for files in list(mutations())[::151]]
    assert True in outcomes
    assert False in outcomes


@pytest.mark.fault
def test_many_values_at_every_key(write: Write, tally) -> None:
    """Every fifth; ALL_MISTAKES=1 tries them all."""
    outcomes = [as_written(write, *files) for files in list(mutations())[:: 1 if os.environ.get("ALL_MISTAKES") else 5]]
    tally("bad inputs: config mutations", len(outcomes))
    tally("bad inputs: of them accepted, as written", sum(outcomes))


@pytest.mark.parametrize("value", ['"16"', "16.0", "true", "1e400", "{", "16 16"])
def test_validate_refuses_what_train_would(write: Write, value: str) -> None:
    path = write(f'{{"lora_rank": {value}}}', json.dumps([PICTURES]))
    result = CliRunner().invoke(validate, [str(path)], standalone_mode=False)
    assert accepted(path) is None
    assert result.return_value == 2
    assert "config.json:1:" in result.output


@pytest.mark.parametrize("key", ["hf_endpoint", "tracker_project_name", "hub_model_id"])
def test_a_last_line_break_is_no_part_of_a_name(write: Write, key: str) -> None:
    good = PAIRS["full"].config[key]
    assert accepted(write(json.dumps({key: good}), json.dumps([PICTURES]))) is not None
    assert accepted(write(json.dumps({key: good + "\n"}), json.dumps([PICTURES]))) is None
    assert accepted(write("{}", json.dumps([{**PICTURES, "id": "pics\n"}]))) is None


def test_sizes_that_are_rounded_can_be_sampled(write: Write) -> None:
    found = accepted(write('{"resolution": 500}', json.dumps([PICTURES])))
    assert found is not None
    assert found.validation_resolution == ((512, 512),)


# --- valid files


def numbers(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    if "number" not in types_of(schema):
        return st.integers(schema["minimum"], schema["maximum"])
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    real = st.floats(
        low, high, exclude_min="exclusiveMinimum" in schema, exclude_max="exclusiveMaximum" in schema,
        allow_subnormal=False,
    )  # fmt: skip
    whole = st.integers(math.ceil(low), math.floor(high)).filter(lambda n: low < n < high)
    return real | whole if high - low > 2 else real


PATHS = {"folder": ["masks", "./masks/"], "file": ["captions.csv"], "file or folder": ["model.safetensors", "masks"],
         "new folder": ["out", "{output_dir}/in", "~/somewhere/{id}", "a b/ü"]}  # fmt: skip
PATTERNS = {
    "id": ["a", "A b", "ü"], "s3_url": ["s3://bucket/x"], "s3_endpoint": ["http://localhost:9000"],
    "hf_endpoint": ["https://mirror"], "hub_model_id": ["name", "me/name"], "tracker_project_name": ["a b_c.d-e"],
    "validation_resolution": ["64x64", " 128x64 , 64x128 "], "resume_from_checkpoint": ["latest", "none", "masks"],
    "dataset_name": ["owner/name", "masks"], "pretrained_model_name_or_path": ["owner/name", "masks"],
    "data_backend_config": ["multidatabackend.json", "./multidatabackend.json"], "output_dir": ["out", "a b/ü"],
    "lora_target": ["attention", "blocks", ["attn.to_q"]], "text_embeds": ["texts"], "instance_data_dir": ["pictures"],
    "validation_prompts_file": ["prompts.json"], "caption_filter": [[], ["a+"], ["x", "y"]],
}  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda text: text.strip())


def valid(key: str, schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that the schema takes; rules across keys may still refuse them."""
    types = types_of(schema)
    choices: list[st.SearchStrategy[Any]] = [st.none()] if "null" in types else []
    if key in PATTERNS:
        choices.append(st.sampled_from(PATTERNS[key]))
    elif "enum" in schema:
        choices.append(st.sampled_from(schema["enum"]))
    elif "x-path" in schema:
        choices.append(st.sampled_from(PATHS[schema["x-path"]]))
    elif {"integer", "number"} & set(types):
        choices.append(numbers(schema))
    elif "boolean" in types:
        choices.append(st.booleans())
    elif "array" in types:
        of = schema["items"]
        items = st.sampled_from(of.get("enum", ["a", "b"])) if of["type"] == "string" else numbers(of)
        size = {"min_size": schema.get("minItems", 0), "max_size": schema.get("maxItems", 3)}
        choices.append(st.lists(items, unique="uniqueItems" in schema, **size))
    elif "object" not in types:
        choices.append(TEXT)
    return st.one_of(choices) if choices else st.just({})


@st.composite
def valid_pairs(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Valid files of which a few keys were set to other values that the schema takes."""
    pair = PAIRS[draw(st.sampled_from(sorted(PAIRS)))]
    config, data = dict(pair.config), [dict(entry) for entry in pair.data]
    for key in draw(
        st.lists(st.sampled_from(sorted(set(config_keys()) - {"$schema", "optimizer_config"})), max_size=4)
    ):
        config[key] = draw(valid(key, config_keys()[key]))
    kept = set(optimizer_arguments(config.get("optimizer", "adamw")))
    if "optimizer_config" in config:
        config["optimizer_config"] = {
            name: v for name, v in config["optimizer_config"].items() if name in kept - {"eps"}
        }
    entry = draw(st.sampled_from(data))
    kind = "text_embeds" if entry.get("dataset_type") == "text_embeds" else "image"
    for key in draw(st.lists(st.sampled_from(sorted(set(entry_keys(kind)) - {"dataset_type", "type"})), max_size=2)):
        entry[key] = draw(valid(key, entry_keys(kind)[key]))
    return config, data


def same(one: Settings, two: Settings) -> bool:
    """Equal but for where they stand, and for folders of fetched pictures that nothing fetches."""

    def bare(found: Settings) -> Settings:
        sets = tuple(s if s.streaming else replace(s, cache_dir_pictures=Path()) for s in found.image_sets)
        return replace(found, config_path=Path(), origins={}, data_backend_config=Path(), image_sets=sets)

    return repr(bare(one)) == repr(bare(two))


def round_trip(write: Write, config: dict[str, Any], data: list[dict[str, Any]]) -> bool:
    """Whether the files are accepted; then what a run saves of them means the same."""
    texts = json.dumps(config, indent=1), json.dumps(data, ensure_ascii=False)
    path = write(*texts)
    found = accepted(path)
    if found is None:
        return False
    assert differences(found, *texts) == []
    for text in texts:
        file = jsonfile.parse(path, text.encode())
        assert edited(file, file.value) == text
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    again = accepted(recreate(json.loads(json.dumps(resolved(found))), elsewhere))
    assert again is not None
    assert same(found, again)
    return True


@pytest.mark.parametrize("pair", PAIRS.values(), ids=list(PAIRS))
def test_every_key_comes_back_the_same(write: Write, pair: Pair) -> None:
    assert round_trip(write, pair.config, pair.data)


@given(valid_pairs())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_valid_files_come_back_the_same(write: Write, files: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    round_trip(write, *files)


@pytest.mark.fault
def test_many_valid_files_come_back_the_same(write: Write, tally) -> None:
    outcomes = []

    @given(valid_pairs())
    @settings(max_examples=60)
    def run(files: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
        outcomes.append(round_trip(write, *files))

    run()
    tally("valid files that came back the same", sum(outcomes))
    assert sum(outcomes) > 15
