"""`simpletune schema`: printed as shipped, or written where an editor finds it."""

import json
import subprocess
import sys

import pytest

from simpletune.cli.main import run
from simpletune.config.editor_files import schema_reference
from simpletune.config.schema import load_schema


@pytest.mark.parametrize(("arguments", "name"), [([], "config"), (["config"], "config"), (["multidatabackend"],) * 2])
def test_printing(capsys, arguments, name):
    name = name if isinstance(name, str) else name[0]
    assert run(["schema", *arguments]) == 0
    assert json.loads(capsys.readouterr().out) == load_schema(name)


def test_an_unknown_name(capsys):
    assert run(["schema", "lora"]) == 2
    assert "multidatabackend" in capsys.readouterr().err


def test_writing_for_an_editor(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["schema", "--write", "my project"]) == 0
    folder = tmp_path / "my project"
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "written: my project/.simpletune/config.schema.json",
        "written: my project/.simpletune/multidatabackend.schema.json",
        "written: my project/.vscode/settings.json",
        'to use it, put this first into config.json: "$schema": ".simpletune/config.schema.json",',
    ]
    assert json.loads((folder / schema_reference()).read_text()) == load_schema("config")
    assert run(["schema", "--write", "my project"]) == 0
    assert not list(folder.rglob("*.bak*"))


def test_a_config_that_names_its_schema_and_another_data_file(tmp_path, capsys):
    config = {"$schema": schema_reference(), "data_backend_config": "sets/mine.json"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run(["schema", "--write", str(tmp_path)]) == 0
    assert "to use it" not in capsys.readouterr().out
    settings = json.loads((tmp_path / ".vscode" / "settings.json").read_text())
    assert settings["json.schemas"][0]["fileMatch"] == ["sets/mine.json"]


def test_settings_that_are_there_get_a_backup(tmp_path, capsys):
    (tmp_path / ".vscode").mkdir()
    settings = tmp_path / ".vscode" / "settings.json"
    settings.write_text('{\n  "a": 1, // mine\n}\n')
    assert run(["schema", "--write", str(tmp_path)]) == 0
    assert "// mine" in settings.read_text()
    assert (tmp_path / ".vscode" / "settings.json.bak").read_text() == '{\n  "a": 1, // mine\n}\n'
    assert "kept as it was: " in capsys.readouterr().out


def test_settings_that_cannot_be_read_are_left_and_the_rest_is_written(tmp_path, capsys):
    (tmp_path / ".vscode").mkdir()
    settings = tmp_path / ".vscode" / "settings.json"
    settings.write_text("{ broken")
    assert run(["schema", "--write", str(tmp_path)]) == 2
    assert settings.read_text() == "{ broken"
    assert (tmp_path / schema_reference()).is_file()
    error = capsys.readouterr().err
    assert "can't be changed safely" in error
    assert 'yourself: "json.schemas": [{"fileMatch": ["multidatabackend.json"]' in error


@pytest.mark.parametrize("broken", [".vscode", ".vscode/settings.json"])
def test_a_file_or_a_folder_in_the_way(tmp_path, capsys, broken):
    path = tmp_path / broken
    if broken == ".vscode":
        path.write_text("")
    else:
        path.mkdir(parents=True)
    assert run(["schema", "--write", str(tmp_path)]) in {2, 3}
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["schema"], ["explain", "lora_rank"], ["completion", "bash"]])
def test_nothing_heavy_is_imported(arguments):
    code = f"import sys; from simpletune.cli.main import run; run({arguments!r}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "transformers", "peft", "accelerate", "optimum"} & set(done.stderr.split())


def test_a_file_for_a_folder(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert run(["schema", "--write", str(tmp_path / "config.json")]) == 2
    assert "is a file" in capsys.readouterr().err
