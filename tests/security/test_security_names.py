"""Names in the two files: nothing leads out of where it belongs, and nothing steers the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simpletune.cli.main import run
from simpletune.config.schema import config_keys, entry_keys

HOSTILE = "a\x1b[2J\x1b]0;owned\x07\r\nb\x00c\u202ed\x9b31m"
TEXTS = [key for key, schema in config_keys().items() if "string" in str(schema.get("type"))]
OF_DATA = [key for key, schema in entry_keys("image").items() if "string" in str(schema.get("type"))]
OUT = ["../x", "/x", "a/../../x", "..", ".", "a\\..\\x", "C:x", "a\0b", "a/b"]


def validated(folder: Path, config: dict[str, Any], data: dict[str, Any], capfd: Any) -> str:
    """What `validate` shows; it never changes anything, and never ends by accident."""
    (folder / "config.json").write_text(json.dumps({"data_backend_config": "data.json", **config}))
    (folder / "data.json").write_text(json.dumps([{"id": "a", "instance_data_dir": "pictures", **data}]))
    before = sorted(folder.rglob("*"))
    code = run(["validate", str(folder / "config.json")])
    shown = "".join(capfd.readouterr())
    assert code in (0, 2, 3), shown
    assert "Traceback" not in shown
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert sorted(folder.rglob("*")) == before
    return shown


@pytest.mark.fault
@pytest.mark.parametrize("key", TEXTS)
def test_every_text_of_config_json_is_shown_harmlessly(tmp_path, key, capfd, tally):
    for value in (HOSTILE, [HOSTILE], {HOSTILE: HOSTILE}):
        validated(tmp_path, {"model_flavour": "tiny", key: value}, {}, capfd)
    tally("bad inputs: security", 3)


@pytest.mark.fault
@pytest.mark.parametrize("key", OF_DATA)
def test_every_text_of_the_data_file_is_shown_harmlessly(tmp_path, key, capfd, tally):
    for value in (HOSTILE, [HOSTILE], {HOSTILE: HOSTILE}):
        validated(tmp_path, {"model_flavour": "tiny"}, {key: value}, capfd)
    tally("bad inputs: security", 3)


@pytest.mark.parametrize("name", OUT)
def test_names_that_become_parts_of_paths_cannot_lead_out(tmp_path, name, capfd, tally):
    (tmp_path / "pictures").mkdir()
    assert '"id"' in validated(tmp_path, {"model_flavour": "tiny"}, {"id": name}, capfd)
    if name != "a/b":
        assert "hub_model_id" in validated(tmp_path, {"model_flavour": "tiny", "hub_model_id": name}, {}, capfd)
    assert "tracker_project_name" in validated(
        tmp_path, {"model_flavour": "tiny", "tracker_project_name": name}, {}, capfd
    )
    (tmp_path / "prompts.json").write_text(json.dumps({name: "a cat"}))
    prompts = {"model_flavour": "tiny", "validation_prompts_file": "prompts.json"}
    assert "validation_prompts_file" in validated(tmp_path, prompts, {}, capfd)
    tally("bad inputs: security", 4)


@pytest.mark.parametrize("name", [HOSTILE, *OUT, "x" * 5000, "..."])
def test_the_files_of_pictures_stay_in_their_folder(tmp_path, name, tally):
    from simpletune.results.prompts import named_prompts

    for named in named_prompts([name.replace("\0", "") or "x"]):
        assert named == Path(named).name
        assert named.isprintable()
        assert not named.startswith(".")
        assert len(named) < 100
    tally("bad inputs: security", 1)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", HOSTILE])
def test_an_adapters_name_is_a_plain_name(tmp_path, name, tally):
    from safetensors.torch import save_file
    from torch import zeros

    from simpletune.results.adapter_choice import adapter_in

    (tmp_path / "deep").mkdir()
    path = tmp_path / f"{name.replace('/', '_').replace(chr(0), '')}.safetensors"
    key = "transformer.transformer_blocks.0.attn.to_q.lora_"
    save_file({f"{key}A.weight": zeros(2, 4), f"{key}B.weight": zeros(4, 2)}, path)
    chosen = adapter_in(tmp_path, path, lambda _line: None)
    assert chosen.name == Path(chosen.name).name
    assert chosen.name.isprintable()
    tally("bad inputs: security", 1)


@pytest.mark.parametrize("name", [HOSTILE, *OUT, "first try"])
def test_a_runs_name_is_one_folder_to_trackio(tmp_path, name, monkeypatch, tally):
    """It keeps pictures below PROJECT/NAME; the id may come from a file, too."""
    import sys
    from types import SimpleNamespace

    from simpletune.trainer.tracking.to_trackio import Trackio
    from simpletune.trainer.tracking.tracker import RunDescription

    given: list[str] = []
    fake = SimpleNamespace(Image=None, init=lambda **keys: given.append(keys["name"]))
    monkeypatch.setitem(sys.modules, "trackio", fake)
    for number in ("0123456789", "../../.."):
        Trackio(RunDescription("project", name, number, tmp_path, 0, {}))
    assert given[0].startswith("first try-012345") == (name == "first try")
    for made in given:
        assert made == Path(made).name
        assert not set(made) & set("/\\:\0\n\r\x1b")
        assert not made.startswith(".")
    tally("bad inputs: security", 2)


def test_a_row_of_the_hub_names_a_picture_by_its_last_part(tally):
    from simpletune.data.sources.hub.names import numbered, tail

    for name in ("../../etc/x.png", "/etc/x.png", "C:\\x\\y.png", HOSTILE, "a" * 5000, "..", "a/.."):
        made = numbered(7, 100, tail(b"\x89PNG\r\n\x1a\n", name))
        assert made.startswith("000007")
        assert made == Path(made).name
        assert not set(made) & set("/\\:\0\n\r\x1b")
    tally("bad inputs: security", 7)
