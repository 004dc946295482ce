"""Pictures are called by the names in validation_prompts_file: none may lead out of the run or collide."""

import json

import pytest

from simpletune.config.validate import validate_files


def messages(folder, prompts, **keys):
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "pictures" / "a.png").write_bytes(b"x")
    (folder / "prompts.json").write_text(json.dumps(prompts))
    entry = {"id": "a", "type": "local", "dataset_type": "image", "instance_data_dir": "pictures"}
    (folder / "multidatabackend.json").write_text(json.dumps([entry | {"caption_strategy": "filename"}]))
    config = {"model_flavour": "tiny", "device": "cpu", "validation_prompts_file": "prompts.json"} | keys
    (folder / "config.json").write_text(json.dumps(config))
    return [problem.message for problem in validate_files(folder / "config.json")]


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "b/c", "b\\c", ".hidden", "x" * 300, "a\nb"])
def test_a_name_that_is_no_plain_file_name_is_refused(tmp_path, name):
    (message,) = messages(tmp_path, {name: "a cat"})
    assert "can't be part of a file's name" in message


@pytest.mark.parametrize("name", ["cat", "a cat", "Katze-2", "猫", "v1.5_b"])
def test_a_plain_name_is_taken(tmp_path, name):
    assert messages(tmp_path, {name: "a cat"}) == []


def test_two_prompts_of_one_name_are_refused(tmp_path):
    (message,) = messages(tmp_path, {"prompt": "a cat"}, validation_prompt="a dog")
    assert 'the name "prompt" is that of "validation_prompt"' in message


def test_a_prompt_may_be_as_long_as_the_key_of_config_json(tmp_path):
    assert messages(tmp_path, {"cat": "x" * 10_000}) == []
    (message,) = messages(tmp_path, {"cat": "a cat", "long": "x" * 10_001})
    assert message == "prompts.json:1:26: the prompt has 10,001 characters, more than the 10,000 that are taken"
