"""Which kinds of adapter the wizard offers, why, and what it writes for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from script import RECOMMENDED, Typed, Visit, always, edit, facts, in_turn, visit
from walks import World

from simpletune.config.lycoris_presets import PRESETS
from simpletune.wizard.screen import Screen


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("kinds") / "world")


def asked(folder: Path, world: World, *turns: tuple[str, Any], **answers: Any) -> Visit:
    known = {
        "depth": "everything", "hardware": "other-cuda", "hardware.memory": 16,
        "data.0.folder": Typed(str(world.pictures[0])),
        **{name.replace("_", "."): answer for name, answer in answers.items()},
    }  # fmt: skip
    return visit(folder / "config.json", in_turn(*turns, then=always(known)), facts(folder, "none"))


def kinds(made: Visit) -> Screen:
    return [screen for screen in made.prompter.screens if screen.id == "lora.kind"][-1]


def test_each_kind_says_what_it_is_good_for_and_what_it_takes(tmp_path: Path, world: World) -> None:
    screen = kinds(asked(tmp_path, world))
    notes = {option.value: option.note for option in screen.options or ()}
    assert list(notes) == ["standard", "dora", "lokr", "loha"]
    assert all("a file of " in note and "GiB" in note for note in notes.values())
    assert screen.recommended == "standard"
    assert "read everywhere" in screen.reason


def test_what_cannot_be_had_with_it_is_shut_for_the_tables_reason(tmp_path: Path, world: World) -> None:
    screen = kinds(asked(tmp_path, world, precision_base="int2-quanto"))
    shut = {option.value: option.disabled for option in screen.options or () if option.disabled}
    assert list(shut) == ["dora"]
    assert "2 bits" in shut["dora"]


@pytest.mark.parametrize("kind", PRESETS)
def test_a_lycoris_gets_its_file_and_none_of_a_loras_keys(tmp_path: Path, world: World, kind: str) -> None:
    first = (("review", edit("lora.kind")), ("lora.kind", kind)) if kind == "loha" else (("lora.kind", kind),)
    made = asked(tmp_path, world, *first, lora_kind=RECOMMENDED, lora_rank=32)
    [file] = [content for name, content in made.files.items() if name.endswith("lycoris_config.json")]
    assert json.loads(file) == PRESETS[kind]
    assert made.config["lora_type"] == "lycoris"
    assert not {"lora_rank", "lora_alpha", "lora_target", "use_dora"} & set(made.config)
