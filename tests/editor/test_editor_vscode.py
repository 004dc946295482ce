"""The files for editors, read by VS Code's own JSON support: completion, help, and errors where they are.

Needs node and `make editor-test` (or `npm ci` in this folder) once; skipped where either is missing.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from simpletune.cli.schema import schema
from simpletune.config.editor_files import schema_reference
from simpletune.config.schema import config_keys, entry_keys

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def node():
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    if not (HERE / "node_modules" / "vscode-json-languageservice").is_dir():
        pytest.skip("VS Code's JSON support is not installed: make editor-test")
    return found


@pytest.fixture
def folder(tmp_path):
    """A project in a folder with an unfriendly name, its editor files written by `simpletune schema --write`."""
    folder = tmp_path / "my cats [1] ü"
    (folder / ".vscode").mkdir(parents=True)
    (folder / ".vscode" / "settings.json").write_text('{\n  // mine\n  "editor.tabSize": 2,\n}\n', encoding="utf-8")
    (folder / "config.json").write_text('{"data_backend_config": "sets/pictures.json"}', encoding="utf-8")
    CliRunner().invoke(schema, ["--write", str(folder)], catch_exceptions=False, standalone_mode=False)
    return folder


@pytest.fixture
def ask(node, folder):
    """What VS Code says of texts; "|" is the cursor."""

    def asked(*questions):
        value = {"folder": str(folder), "questions": [{"file": file, "text": text} for file, text in questions]}
        done = subprocess.run(
            [node, str(HERE / "ask.mjs")], input=json.dumps(value), capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout)
        return answers if len(answers) > 1 else answers[0]

    return asked


def config(*members):
    return "{\n" + ",\n".join([f'"$schema": "{schema_reference()}"', *members]) + "\n}"


DATA = """[
  {"id": "a", "instance_data_dir": "a"},
  {"id": "b", "instance_data_dir": "b"},
  {
    "id": "c",
    "instance_data_dir": "c",
    %s
  },
  {"id": "t", "dataset_type": "text_embeds", "cache_dir": "cache"}
]"""


def test_keys_of_config_json_are_completed_with_their_help(ask):
    found, hover = ask(("config.json", config('"|"')), ("config.json", config('"lora|_rank": 8')))
    labels = [label for label, _ in found["completions"]]
    assert set(labels) == set(config_keys()) - {"$schema"}
    assert "Size of the adapter" in hover["hover"]


def test_values_of_config_json_are_completed(ask):
    found, default = ask(("config.json", config('"optimizer": "|"')), ("config.json", config('"lora_rank": |')))
    assert {label for label, _ in found["completions"]} == {f'"{name}"' for name in config_keys()["optimizer"]["enum"]}
    assert "16" in [label for label, _ in default["completions"]]


def test_arguments_are_those_of_the_chosen_optimizer(ask):
    found = ask(("config.json", config('"optimizer": "prodigy"', '"optimizer_config": {"|"}')))
    assert "d_coef" in [label for label, _ in found["completions"]]


def test_errors_in_config_json(ask):
    wrong = ask(("config.json", config('"lora_rank": 0', '"seed": "7"', '"lora_rnk": 3', '"device": "tpu"')))
    assert sorted(line for line, _ in wrong["problems"]) == [3, 4, 5, 6]
    assert ask(("config.json", config('"lora_rank": 8')))["problems"] == []


def test_keys_in_the_third_data_set_are_completed(ask):
    found = ask(("sets/pictures.json", DATA % '"|"'))
    labels = {label for label, _ in found["completions"]}
    assert labels == set(entry_keys("image")) - {"id", "instance_data_dir"}


def test_values_in_the_third_data_set_are_completed(ask):
    found = ask(("sets/pictures.json", DATA % '"caption_strategy": "|"'))
    offered = {label.strip('"') for label, _ in found["completions"]}
    assert offered == {"textfile", "filename", "instanceprompt", "csv", "jsonl", "parquet", "huggingface"}


def test_an_error_inside_the_third_data_set(ask):
    wrong, right = ask(("sets/pictures.json", DATA % '"repeats": -1'), ("sets/pictures.json", DATA % '"repeats": 1'))
    [(line, message)] = wrong["problems"]
    assert line == 7
    assert "minimum" in message
    assert right["problems"] == []


def test_a_misspelled_key_inside_the_third_data_set(ask):
    [(line, message)] = ask(("sets/pictures.json", DATA % '"repeat": 1'))["problems"]
    assert (line, "repeat" in message) == (7, True)


def test_entries_of_text_embeds_have_their_own_keys(ask):
    text = '[{"dataset_type": "text_embeds", "id": "t", "|"}]'
    assert {label for label, _ in ask(("sets/pictures.json", text))["completions"]} == set(
        entry_keys("text_embeds")
    ) - {"dataset_type", "id"}


def test_other_files_have_no_schema(ask):
    assert ask(("package.json", '{"lora_rnk": 1}'))["problems"] == []


def test_the_lock_names_no_registry():
    """Whoever installs takes the registry that their npm is set up for."""
    assert "://" not in (HERE / "package-lock.json").read_text(encoding="utf-8")
