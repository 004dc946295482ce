"""`simpletune explain`: every key has something to say, in any width, with and without files."""

import json
import re

import pytest

from simpletune.cli.keys import key_schemas
from simpletune.cli.main import run
from simpletune.config.explain import explain
from simpletune.config.load import settings_of
from simpletune.config.schema import config_keys, load_schema
from simpletune.config.validate import check
from simpletune.wizard.explain import memory_of


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


@pytest.fixture
def project(tmp_path):
    """A project with a quantized model of real size, two data sets and a text cache."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.png").write_bytes(b"")
    config = '{\n  "lora_rank": 8,\n  "resolution": 768,\n  "optimizer_config": {\n    "eps": 1e-7\n  }\n}\n'
    (tmp_path / "config.json").write_text(config)
    entries = [
        {"id": "cats", "instance_data_dir": "pictures", "repeats": 3},
        {"dataset_type": "text_embeds", "id": "text"},
        {"id": "dogs", "instance_data_dir": "pictures"},
    ]
    (tmp_path / "multidatabackend.json").write_text(json.dumps(entries, indent=1))
    return tmp_path / "config.json"


def said(capsys, *arguments):
    assert run(["explain", *arguments]) == 0
    return capsys.readouterr().out


def test_all_there_is_to_say(project, capsys):
    text = said(capsys, "lora_rank")
    assert text.startswith("lora_rank: LoRA rank (config.json, LoRA)\n\nSize of the adapter")
    assert "values    a whole number, at least 1 and at most 1024\n" in text
    assert "default   16\n" in text
    assert "now       8  (config.json:2)\n" in text
    assert "cost      Memory for the adapter" in text


def test_without_files_there_is_no_now(capsys):
    text = said(capsys, "lora_rank")
    assert "now" not in text
    assert "default   16\n" in text


@pytest.mark.parametrize("name", [name for name, _ in key_schemas("dataset")])
def test_every_key(name, project, capsys):
    text = said(capsys, name)
    assert max(map(len, text.splitlines())) <= 80
    assert "\nvalues    " in text
    assert "\nnow       " in text


@pytest.mark.parametrize("name", ["optimizer", "base_model_precision", "dataset.crop_aspect", "model_flavour"])
def test_forty_columns(name, project, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    prose, _, table = said(capsys, name).partition("estimated memory")
    assert max(map(len, prose.splitlines())) <= 40
    assert all(len(line) <= 40 or name == "model_flavour" for line in table.splitlines())


def test_a_data_set_key_is_shown_for_all_or_one(project, capsys):
    text = said(capsys, "dataset.repeats")
    assert 'now       dataset.0 "cats": 3  (multidatabackend.json:5)\n' in text
    assert 'now       dataset.2 "dogs": 0  (the default)\n' in text
    assert "cats" not in said(capsys, "dataset.2.repeats")
    assert 'dataset.1 "text": "cache/{model_family}/text"' in said(capsys, "dataset.1.cache_dir")


def test_an_argument_of_the_optimizer(project, capsys):
    assert "now       1e-07  (config.json:5)\n" in said(capsys, "optimizer_config.eps")
    assert "now       0.01  (the default)\n" in said(capsys, "optimizer_config.weight_decay")


def test_values_that_follow_from_others(project, capsys, monkeypatch):
    assert "now       8.0  (from lora_rank)\n" in said(capsys, "lora_alpha")
    assert "now       1000  (the default)\n" in said(capsys, "max_train_steps")
    assert 'now       "768x768"  (from resolution)\n' in said(capsys, "validation_resolution")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert 'now       "https://mirror.example"  (from environment HF_ENDPOINT)\n' in said(capsys, "hf_endpoint")


def test_memory_of_each_value_with_these_files(project, capsys):
    table = said(capsys, "base_model_precision").partition("estimated memory")[2]
    rows = re.findall(r"(\S+) +([\d.]+) GiB +[\d.]+ GiB\n", table)
    figures = {value: float(train) for value, train in rows}
    assert figures["no_change"] > figures["int8-quanto"] > figures["int4-quanto"] > figures["int2-quanto"]
    assert "\n> int8-quanto" in table


def test_no_memory_where_it_makes_no_difference(project, capsys):
    assert "estimated memory" not in said(capsys, "seed")
    assert "estimated memory" not in said(capsys, "learning_rate")


def test_memory_of_every_key_is_there_or_not_but_never_fails(project):
    checked = check(project)
    settings = settings_of(project, checked.view)
    with_figures = {key for key in config_keys() if memory_of(key, settings)}
    assert {"lora_rank", "resolution", "use_t5", "text_encoder_3_precision", "vae_batch_size"} <= with_figures
    for key in with_figures:
        rows = memory_of(key, settings)
        assert sum(row.is_now for row in rows) == 1
        assert "x-cost" in config_keys()[key]  # what takes memory says so


def test_files_with_errors_still_say_where_a_key_is_set(project, capsys):
    project.write_text('{\n  "seed": -1,\n  "lora_rank": 4\n}')
    assert run(["explain", "lora_rank"]) == 0
    captured = capsys.readouterr()
    assert "now       4  (config.json:3)\n" in captured.out
    assert captured.err == "the files have errors: simpletune validate\n"


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", '{"optimizer": 3}', '{"data_backend_config": "nowhere"}'])
@pytest.mark.parametrize("key", ["lora_rank", "dataset.repeats", "optimizer_config.eps"])
def test_whatever_stands_in_the_file(project, capsys, text, key):
    project.write_text(text)
    assert run(["explain", key]) == 0
    assert "default   " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("lr", 'did you mean "learning_rate"'),
        ("lora_rnk", 'did you mean "lora_rank"'),
        ("network_dim", 'did you mean "lora_rank"'),
        ("dataset.num_repeats", 'did you mean "repeats"'),
        ("dataset.lora_rank", "belongs in config.json"),
        ("dataset.1.repeats", "belongs to dataset_type image"),
        ("dataset.9.repeats", "there are 3, counted from 0"),
        ("dataset.x.repeats", "write dataset.repeats"),
        ("dataset", "docs/config-reference.md"),
        ("optimizer_config.momentum", "it takes betas"),
        ("controlnet", "not supported by this version"),
        ("", "unknown key"),
        ("a\x1b[31m\n", "unknown key"),
    ],
)
def test_unknown_keys_get_the_validators_suggestion(project, capsys, key, words):
    assert run(["explain", key]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "\x1b" not in error


@pytest.mark.parametrize(
    ("typed", "key"),
    [("--lora_rank", "lora_rank"), ("LORA-RANK", "lora_rank"), ("repeats", "dataset.repeats"), ("seed", "seed")],
)
def test_a_key_is_known_by_how_it_is_typed_elsewhere(typed, key, capsys):
    assert run(["explain", typed]) == 0
    assert capsys.readouterr().out.startswith(f"{key}: ")


def test_a_config_that_is_not_there(capsys):
    assert run(["explain", "seed", "nowhere.json"]) == 2
    assert "there is no nowhere.json" in capsys.readouterr().err


def test_costs_are_sentences():
    schemas = {**config_keys(), **load_schema("multidatabackend")["$defs"]["image"]["properties"]}
    for key, schema in schemas.items():
        if "x-cost" in schema:
            assert re.fullmatch(r"[A-Za-z].*\.", schema["x-cost"]), key


def test_a_value_with_control_characters_is_shown_safely(project):
    project.write_text('{"validation_prompt": "a\\u001b[31m"}')
    [setting] = explain("validation_prompt", check(project).view).now
    assert "\x1b" not in setting.value
