"""Prompts from the command line and from files, and the names their pictures get."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpletune.errors import UsageError
from simpletune.results.prompts import named_prompts, read_prompts, together

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"


def test_a_plain_prompt_is_its_name() -> None:
    assert named_prompts(["a red parrot", "2 owls ", "a red parrot"]) == {
        "a-red-parrot": "a red parrot",
        "2-owls": "2 owls",
    }


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=6))
def test_names_are_safe_short_and_tell_prompts_apart(prompts: list[str]) -> None:
    named = named_prompts(prompts)
    assert set(named.values()) == {prompt.strip() for prompt in prompts}
    for name, prompt in named.items():
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert 0 < len(name) < 80
        assert named_prompts([prompt]) == {name: prompt}, "whatever else is asked for"


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    for encoding in ("utf-8-sig", "utf-16", "cp1252"):
        file.write_bytes("a fox\r\n\r\n  ein Füchslein \n".encode(encoding))
        assert list(read_prompts(file).values()) == ["a fox", "ein Füchslein"]


def test_json_names_its_prompts(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text('{"one": "a fox", "2": "an owl"}', encoding="utf-8")
    assert read_prompts(file) == {"one": "a fox", "2": "an owl"}
    assert together({"one": "a fox"}, read_prompts(file)) == read_prompts(file)
    with pytest.raises(UsageError, match="two prompts are called one"):
        together({"one": "a cat"}, read_prompts(file))


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("p.txt", b"", "holds no prompts"),
        ("p.txt", b" \n\n", "holds no prompts"),
        ("p.json", b'{"one": ', r"p\.json:1"),
        ("p.json", b"[1]", "must hold an object of names and prompts"),
        ("p.json", b'{"one": "  "}', "must hold an object of names and prompts"),
        ("p.json", b'{"../one": "a fox"}', "can't be part of a file's name"),
        ("p.json", b'{"One": "a fox", "one": "an owl"}', "differ in capital letters only"),
        ("p.json", b"{}", "holds no prompts"),
        ("p.json", b'{"cat": "a cat",\n "long": "' + b"x" * 10_001 + b'"}', r"p\.json:2: the prompt has 10,001 char"),
        ("p.txt", b"a cat\n\n" + b"x" * 10_001, r"p\.txt:3: the prompt has 10,001 characters, more than the 10,000"),
    ],
)
def test_files_that_hold_no_prompts(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=said):
        read_prompts(tmp_path / name)


def test_half_a_character_is_no_prompt() -> None:
    with pytest.raises(UsageError, match="holds bytes that are no text"):
        named_prompts(["a f\udcffox"])


def test_a_folder_is_no_file_of_prompts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        read_prompts(tmp_path)


def test_the_demo_draws_what_its_training_pictures_do_not_show() -> None:
    prompts = read_prompts(QUICKSTART / "prompts.txt")
    assert len(prompts) == 6
    plain = {"a", "an", "drawing", "of"}
    asked = {word for prompt in prompts.values() for word in prompt.split()} - plain
    captions = " ".join(path.read_text(encoding="utf-8") for path in (QUICKSTART / "pictures").glob("*.txt"))
    assert captions
    assert not asked & set(captions.split())
    assert json.loads((QUICKSTART / "config.json").read_text())["model_flavour"] == "tiny"
