"""`simpletune import` on the command line. UPDATE_SNAPSHOTS=1 writes the report's snapshot anew."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "config"))
from simpletuner_samples import QUICKSTART, QUICKSTART_DATA

from simpletune.cli.main import run

SNAPSHOT = Path(__file__).parent / "snapshots" / "import_quickstart.txt"
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "optimum", "questionary", "rich", "PIL", "numpy")


@pytest.fixture
def there(tmp_path, monkeypatch):
    """The quickstart's files in SimpleTuner/, with one picture; the folder above is the current one."""
    image = pytest.importorskip("PIL.Image")
    root = tmp_path / "SimpleTuner"
    pictures = root / "datasets" / "pseudo-camera-10k"
    pictures.mkdir(parents=True)
    image.new("RGB", (1024, 768), "red").save(pictures / "a_red_wall.png")
    config = {**QUICKSTART, "output_dir": "output/models", "hub_model_id": "mine", "a_key_of_tomorrow": 1}
    write(root / "config" / "config.json", config)
    write(root / "config" / "multidatabackend.json", QUICKSTART_DATA)
    write(root / "config" / "user_prompt_library.json", {"shortname_here": "your prompt to validate on"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_quickstart(there, capsys):
    source = content(there / "SimpleTuner")
    assert run(["import", "SimpleTuner"]) == 0
    shown = capsys.readouterr().out.replace(str(there), "HERE")
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.parent.mkdir(exist_ok=True)
        SNAPSHOT.write_text(shown, encoding="utf-8")
    assert shown == SNAPSHOT.read_text(encoding="utf-8")
    assert content(there / "SimpleTuner") == source
    assert run(["validate", "simpletune-config/config.json"]) == 0
    assert "valid: 1 picture" in capsys.readouterr().out


def test_the_report_is_80_columns_wide(there, capsys):
    run(["import", "SimpleTuner", "--dry-run"])
    wide = [line for line in capsys.readouterr().out.split("\n") if len(line) > 80 and str(there) not in line]
    assert wide == []


def test_a_dry_run_writes_nothing(there, capsys):
    before = content(there)
    assert run(["import", "SimpleTuner", "--dry-run"]) == 0
    assert "would write simpletune-config/config.json" in capsys.readouterr().out.replace("\\", "/")
    assert content(there) == before
    assert not (there / "simpletune-config").exists()


def test_files_that_exist_are_not_replaced_unless_forced(there, capsys):
    write(there / "ours" / "config.json", {"mine": True})
    before = content(there)
    assert run(["import", "SimpleTuner", "--output", "ours"]) == 2
    error = capsys.readouterr().err
    assert "exists already" in error
    assert "--force" in error
    assert content(there) == before
    assert run(["import", "SimpleTuner", "--output", "ours", "--force"]) == 0
    assert json.loads((there / "ours" / "config.json.bak").read_text()) == {"mine": True}
    assert run(["import", "SimpleTuner", "--output", "ours"]) == 0  # the same again is no change


def test_the_source_is_never_written_to(there, capsys):
    before = content(there)
    assert run(["import", "SimpleTuner", "--output", "SimpleTuner/config", "--force"]) == 2
    assert "one of the files being imported" in capsys.readouterr().err
    assert content(there) == before


def test_refusals_write_nothing_and_have_a_place(there, capsys):
    config = there / "SimpleTuner" / "config" / "config.json"
    write(config, {"model_family": "sdxl", "lora_type": "lycoris"})
    assert run(["import", "SimpleTuner"]) == 2
    error = capsys.readouterr().err
    assert "config.json:2:19: error:" in error
    assert '"sdxl" is a family of SimpleTuner' in error
    assert "config.json:3:16: error:" in error
    assert "--lora-type standard" in error
    assert not (there / "simpletune-config").exists()
    write(config, {"model_family": "sd3", "lora_type": "lycoris"})
    assert run(["import", "SimpleTuner", "--lora-type", "standard"]) == 0


def test_what_is_left_to_do_decides_the_exit_code(there, capsys):
    (there / "SimpleTuner" / "datasets").rename(there / "elsewhere")
    assert run(["import", "SimpleTuner"]) == 2
    out = capsys.readouterr().out
    assert "left to do before it can train:" in out
    assert "does not exist" in out
    assert (there / "simpletune-config" / "config.json").is_file()
    assert run(["import", str(there / "SimpleTuner"), "--root", "nowhere", "--output", "other"]) == 2


def test_the_report_as_json(there, capsys):
    assert run(["import", "SimpleTuner", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["root"] == str(there / "SimpleTuner")
    assert len(report["written"]) == 5  # three files and the two schemas for editors
    keys = [line["key"] for line in report["lines"] if line["where"] == "config.json" and line["key"]]
    assert keys == [*QUICKSTART, "hub_model_id", "a_key_of_tomorrow"]
    assert report["problems"] == [] or all(one["severity"] == "warning" for one in report["problems"])


@pytest.mark.parametrize("name", ["with [brackets]", "🐈 spaces", "{id}"])
def test_odd_folder_names(there, capsys, name):
    (there / "SimpleTuner").rename(there / name)
    assert run(["import", f"{there}/{name}/", "--output", f"{there}/{name}/ours"]) == 0
    assert run(["validate", f"{there}/{name}/ours/config.json"]) == 0


def test_a_file_in_place_of_the_output_folder(there, capsys):
    (there / "taken").write_text("x", encoding="utf-8")
    assert run(["import", "SimpleTuner", "--output", "taken"]) == 3
    assert "taken" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_loop_of_links_in_place_of_the_output_folder(there, capsys):
    (there / "loop").symlink_to(there / "loop")
    assert run(["import", "SimpleTuner", "--output", "loop"]) in {2, 3}
    assert "loop" in capsys.readouterr().err


def test_little_is_loaded():
    code = (
        "import sys; from simpletune.cli.main import run; run(['import', '--help']);"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("[]")
    assert "--lora-type" in result.stdout
