"""The question whether the result goes to the hub: who is asked, and what stands in the file then."""

import json

import pytest
from script import HUB, MACHINES, Facts, always, draw, visit, write

from simpletune.machine.hub_access import has_login


def world(folder, login):
    return Facts(folder, look=lambda _folder: MACHINES["none"], ask_hub=lambda *_asked: HUB, has_login=lambda: login)


@pytest.mark.parametrize(
    ("answer", "keys"),
    [("no", {}), ("private", {"push_to_hub": True}), ("public", {"push_to_hub": True, "hub_private": False})],
)
def test_who_is_logged_in_is_asked(tmp_path, answer, keys):
    pictures = draw(tmp_path / "pictures")
    config = tmp_path / "config.json"
    policy = always({"data.0.folder": str(pictures), "hub": answer})
    made = visit(config, policy, world(tmp_path, True))
    assert made.prompter.asked[-2:] == ["hub", "review"]
    assert {key: value for key, value in made.config.items() if "hub" in key and key != "hf_endpoint"} == keys
    write(made)
    again = visit(config, always({"hub": "no"}), world(tmp_path, False), through=True)
    assert ("hub" in again.prompter.asked) == (answer != "no")
    assert again.config.get("push_to_hub", False) is False


def test_who_is_not_is_not(tmp_path):
    policy = always({"data.0.folder": str(draw(tmp_path / "pictures"))})
    made = visit(tmp_path / "config.json", policy, world(tmp_path, False))
    assert "hub" not in made.prompter.asked
    assert "push_to_hub" not in json.dumps(made.config)


def test_a_login_is_found_without_the_library(tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert not has_login()
    (tmp_path / "token").write_text("\n")
    assert not has_login()
    (tmp_path / "token").write_text("hf_x\n")
    assert has_login()
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    assert not has_login()
    monkeypatch.setenv("HF_TOKEN", "x")
    assert has_login()
